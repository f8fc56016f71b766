"""The config's section of conditions: what it builds, and what it must agree on."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.condition_section import (
  build,
  check_sources,
  encoders,
  fixed,
  given,
  identity,
  parse,
  pinned,
  routes,
  stored,
)
from mg_jax.data.conditions import ClassId, Constant, Default, Image, Latent, Mask
from mg_jax.data.schema import Sample
from mg_jax.data.sources.folder import Index, Piece
from mg_jax.data.text.captions import Caption


def test_a_config_builds_conditions_and_their_routes():
  section = {
    "task": {
      "kind": "class_id", "classes": 4, "constant": 2,
      "route": [{"kind": "modulate", "classes": 4}, {"kind": "cross", "classes": 4, "tokens": 2}],
    },
    "first": {"kind": "latent", "channels": 2, "route": {"kind": "concat", "features": 3}},
    "face": {
      "kind": "image", "size": 2, "encoder": {"size": 2, "width": 8},
      "route": {"kind": "cross", "features": 8},
    },
    "mask": {"kind": "mask", "route": {"kind": "clean"}},
  }  # fmt: skip
  assert build(section) == {
    "task": Default(ClassId(4), 2), "first": Latent(2), "face": Image(2), "mask": Mask()
  }  # fmt: skip
  assert routes(section) == {name: entry["route"] for name, entry in section.items()}
  assert encoders(section) == {"face": {"kind": "vision", "size": 2, "width": 8}}
  assert given(build(section)).keys() == {"face", "mask", "task"}
  assert build({}) == routes({}) == encoders({}) == {}


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"kind": "sound"}, "conditions.x.kind is 'sound'; known are image, latent, class_id, mask"),
    ({}, "conditions.x.kind is None; known are"),
    ({"kind": "mask", "size": 3}, "conditions.x has no field 'size'"),
    ({"kind": "latent", "channels": 2, "of": "last_frame"}, "conditions.x.of is 'last_frame'"),
    ({"kind": "class_id"}, "conditions.x: .*classes"),
    ({"kind": "class_id", "classes": 2, "constant": 2}, "class 2; classes are 0..1"),
    ({"kind": "latent", "channels": 2, "constant": 1}, "sets 'x', which comes from the clips"),
  ],
)
def test_conditions_that_cannot_be_are_refused(fields, words):
  with pytest.raises(UserError, match=words):
    build({"x": fields | {"route": {"kind": "clean"}}})


def test_a_condition_without_a_route_is_refused():
  for route in ({}, {"route": {}}):
    with pytest.raises(UserError, match="conditions.x has no route; say how it enters the model"):
      routes({"x": {"kind": "mask"} | route})


@pytest.mark.parametrize("listed", [False, True])
def test_a_route_for_another_number_of_classes_is_refused(listed):
  """A table of other rows would be read past its end, or miss the null."""
  route = {"kind": "modulate", "classes": 3}
  fields = {"kind": "class_id", "classes": 4, "route": [route] if listed else route}
  with pytest.raises(UserError, match="conditions.x has 4 classes, but its route takes 3"):
    routes({"x": fields})


@pytest.mark.parametrize("name", ["fps", "index", "latent", "camera"])
def test_names_of_batches_and_captions_are_rejected(name):
  with pytest.raises(UserError, match=f"conditions.{name}: batches and captions have a {name}"):
    build({name: {"kind": "mask", "route": {"kind": "clean"}}})


def test_repeated_images_are_a_list(tmp_path):
  for name in ("a", "b"):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
  entries = [f"face={tmp_path}/a.png", f"face={tmp_path}/b.png"]
  assert parse(entries, {"face": Image(2, count=2)})["face"].shape == (2, 2, 2, 3)
  with pytest.raises(UserError, match="has 2 images; config conditions.face.count is 1"):
    parse(entries, {"face": Image(2)})


def test_a_route_for_other_channels_is_refused():
  route = {"kind": "concat", "features": 16}
  with pytest.raises(UserError, match="conditions.x has 16 channels and a mask, .* give 17"):
    routes({"x": {"kind": "latent", "channels": 16, "route": route}})


@pytest.mark.parametrize("fields, words", [
  ({"encoder": None}, "conditions.x has no encoder; give the fields of a vision tower"),
  ({"encoder": {"size": 4, "width": 8}}, "images of 2 pixels, but its encoder takes 4"),
  ({"kind": "mask"}, "conditions.x has an encoder, but is no image"),
])  # fmt: skip
def test_encoders_that_do_not_fit_are_refused(fields, words):
  entry = {"kind": "image", "size": 2, "encoder": {"size": 2, "width": 8}} | fields
  with pytest.raises(UserError, match=words):
    encoders({"x": entry})


@pytest.mark.parametrize("route", [
  {"kind": "cross", "features": 9}, {"kind": "modulate", "features": 8}
])  # fmt: skip
def test_images_are_read_by_cross_attention(route):
  entry = {"kind": "image", "size": 2, "encoder": {"size": 2, "width": 8}, "route": route}
  with pytest.raises(UserError, match="cross route with the 8 features of its encoder"):
    routes({"x": entry})


def test_constants_replace_and_are_checked():
  found = {"task": ClassId(4), "first": Latent(2)}
  got = fixed(found, {"task": 3, "first": None}, where="data.mixture.a.constants")
  assert got == {"task": Constant(ClassId(4), 3), "first": Constant(Latent(2))}
  assert fixed(got, {"task": 1}, where="x")["task"] == Constant(ClassId(4), 1)
  with pytest.raises(UserError, match="data.mixture.a.constants names 'face'; the conditions are"):
    fixed(found, {"face": 1}, where="data.mixture.a.constants")


def test_files_of_constants_are_pinned(tmp_path, monkeypatch):
  """What is loaded depends neither on the current directory nor on the files."""
  monkeypatch.chdir(tmp_path)
  PIL.Image.new("RGB", (2, 2), (1, 2, 3)).save("face.png")
  np.save("mask.npy", np.arange(8).reshape(2, 2, 2) % 2 == 0)
  section = {
    "face": {"kind": "image", "size": 2, "constant": "face.png"},
    "mask": {"kind": "mask", "constant": "mask.npy"},
    "task": {"kind": "class_id", "classes": 4, "constant": 2},
    "none": {"kind": "image", "size": 2, "constant": None}, "no": {"kind": "mask"},
  }  # fmt: skip
  expected, held = build(section), json.loads(json.dumps(pinned(section)))
  assert pinned(held) == held, "a pinned section stays what it is"
  for name in ("task", "none", "no"):
    assert held[name] == section[name]
  for name in ("face.png", "mask.npy"):
    (tmp_path / name).unlink()
  found = build(held)
  for name in ("face", "mask"):
    np.testing.assert_array_equal(found[name].value, expected[name].value, strict=True)
  for broken in ({}, {"npz": 3}, {"npz": "?"}, {"npz": "AAAA"}):
    with pytest.raises(UserError, match="conditions.face.constant holds no array .*; name"):
      build({"face": section["face"] | {"constant": broken}})


def test_a_condition_has_values_or_a_constant():
  found = {"task": ClassId(4), "first": Latent(2)}
  pieces = [
    Piece("a.mp4", "train", 0.0, 1.0, "video", caption=Caption("a", given=values))
    for values in ({}, {"task": 1})
  ]
  check_sources(found, [Index("clips", "video", tuple(pieces))], where="data")
  check_sources(fixed(found, {"task": None}, where="x"), [], where="data")
  check_sources({"task": Default(ClassId(4))}, [], where="data")
  wrong = dataclasses.replace(pieces[0], caption=Caption("a", given={"task": 4}))
  with pytest.raises(UserError, match="a.mp4@0.000: condition 'task' has class 4"):
    check_sources(found, [Index("clips", "video", (wrong, *pieces))], where="data")
  nothing = dataclasses.replace(pieces[0], caption=Caption("a", given={"task": None}))
  with pytest.raises(UserError, match="'task' has no source"):
    check_sources(found, [Index("clips", "video", (nothing,))], where="data")
  with pytest.raises(UserError, match="condition 'task' has no source in data.mixture.b; give"):
    check_sources(found, [Index("clips", "video", tuple(pieces[:1]))], where="data.mixture.b")


def test_values_of_samples_and_of_a_command_line():
  found = {"task": ClassId(4), "first": Latent(2)}
  video = np.zeros((1, 8, 8, 3), np.uint8)
  held = {"given/task": 2}
  for values, expected in (({"task": "2", "look": 3}, held), ({"task": None}, {}), ({}, {})):
    sample = Sample(video, 1, 8.0, "a", "a.mp4", given=values)
    assert stored(given(found), sample) == expected
    by_default = given(fixed(found, {}, where="x") | {"task": Default(ClassId(4), 1)})
    assert stored(by_default, sample) == expected, "a default hides no value"
  assert identity(found) == {"conditions": {"task": {"classes": 4}}} and identity({}) == {}
  assert identity(fixed(found, {"task": 1}, where="x")) == {"conditions": {}}
  with pytest.raises(UserError, match="a.mp4: condition 'task' has class 9; classes are 0..3"):
    stored(given(found), Sample(video, 1, 8.0, "a", "a.mp4", given={"task": 9}))
  assert parse(["task=3"], found) == {"task": 3} and parse([], found) == {}
  for entry in ("task", "first=a.png", "look=2"):
    with pytest.raises(UserError, match=f"--condition={entry} is not NAME=VALUE .*there are task"):
      parse([entry], found)
