"""Drawings of people: deterministic, alike at any size, changed by an edit only where it says."""

import dataclasses

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.world.people.facts import (
  ACTIONS,
  EXPRESSIONS,
  LIGHTS,
  TRAITS,
  Identity,
  Person,
  identity,
)
from mg_jax.world.scene.facts import Background, Scene
from mg_jax.world.scene.render import render

WHO = Identity("tan", "square", "short", "red", "thin", "blue", "none", "none")
SCENE = Scene(0, 0, Background("light"), (), person=Person(WHO, "green"))


def _draw(scene=SCENE, *, frames=2, size=64, who=None, **facts):
  person = dataclasses.replace(scene.person, **facts)
  if who:
    person = dataclasses.replace(person, identity=dataclasses.replace(person.identity, **who))
  scene = dataclasses.replace(scene, person=person)
  return render(scene, frames=frames, height=size, width=size)


def _change(a, b):
  """Rows and columns, in fractions of the frame, of the box around all changed pixels."""
  t, y, x = np.nonzero((a != b).any(axis=-1))
  size = a.shape[1]
  return y.min() / size, y.max() / size, x.min() / size, x.max() / size


def test_drawing_is_deterministic_and_leaves_the_ground_alone():
  video = _draw()
  np.testing.assert_array_equal(video, _draw())
  empty = render(dataclasses.replace(SCENE, person=None), frames=2, height=64, width=64)
  same = (video == empty).all(axis=-1)
  assert same[:, :4].all() and 0.2 < same.mean() < 0.7


@pytest.mark.parametrize("trait", TRAITS)
def test_every_value_of_a_trait_is_visible(trait):
  styles = {"hair": "curly"}.get(trait)
  start = {"haircut": styles} if styles else {}
  drawn = [_draw(frames=1, who={**start, trait: value}).astype(int) for value in TRAITS[trait]]
  for i, a in enumerate(drawn):
    for b in drawn[:i]:
      assert (np.abs(a - b).max(axis=-1) > 40).sum() >= 10


@pytest.mark.parametrize("action", ACTIONS)
def test_frames_drawn_together_are_those_drawn_alone(action):
  """What moves is drawn in windows that depend on all frames."""
  person = dataclasses.replace(SCENE.person, action=action, light="left")
  scene = dataclasses.replace(SCENE, person=person)
  video = render(scene, frames=8, height=48, width=48, fps=4)
  for index in (0, 3, 7):
    alone = render(scene, frames=1, height=48, width=48, fps=4, start_s=index / 4)
    np.testing.assert_allclose(alone[0].astype(int), video[index].astype(int), atol=1)
  assert (np.ptp(video, axis=0).max() > 40) == (action != "still")


def test_edits_change_only_their_part_of_the_frame():
  video = _draw()
  top, bottom, left, right = _change(video, _draw(shirt="red"))
  assert top > 0.7
  assert _change(video, _draw(who={"eyes": "green"}))[1] < 0.56
  top, bottom, left, right = _change(video, _draw(expression="happy"))
  assert 0.3 < top and bottom < 0.75 and 0.25 < left and right < 0.75
  top, bottom, left, right = _change(video, _draw(gaze="left"))
  assert 0.35 < top and bottom < 0.6
  top, bottom, left, right = _change(video, _draw(who={"mark": "beard"}))
  assert 0.5 < top
  first = _draw(frames=8)[0]
  for action in ("turn left", "nod", "smile", "look away", "talk", "shake"):
    np.testing.assert_array_equal(_draw(frames=8, action=action)[0], first)


def test_light_falls_on_the_person_and_dims_the_whole_frame():
  even = _draw().astype(float)
  left, right, dim = (_draw(light=light).astype(float) for light in LIGHTS[1:])
  face = np.s_[:, 28:36]
  assert (even - left)[face][..., 38:44, :].mean() > 20 and (even - left)[face][
    ..., 20:26, :
  ].mean() == 0
  assert (even - right)[face][..., 20:26, :].mean() > 20
  np.testing.assert_array_equal(left[:, :4], even[:, :4])
  assert (dim / even)[:, :4].max() < 0.6


def test_twice_the_size_is_the_same_picture():
  rng = np.random.default_rng(0)
  for k in range(6):
    person = Person(identity(int(rng.integers(79380))), "blue", expression=EXPRESSIONS[k % 5])
    scene = dataclasses.replace(SCENE, person=person)
    small = _draw(scene, frames=1, size=64).astype(float)
    large = _draw(scene, frames=1, size=128).astype(float)
    large = large.reshape(1, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - large).mean() < 2


def test_an_unknown_shirt_is_named():
  with pytest.raises(UserError, match="plaid"):
    _draw(shirt="plaid")
