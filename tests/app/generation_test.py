"""From flags to tasks: what goes together, and which flags belong to which task."""

import runpy
from pathlib import Path

import pytest
from absl import flags

from mg_jax.app import generation
from mg_jax.core.errors import UserError
from tests.app.soundtracks_test import Fake

_MAIN = Path(__file__).resolve().parents[2] / "launch" / "generate.py"


@pytest.fixture(scope="module")
def defaults():
  """What the flags of the main hold when none is given."""
  known = set(flags.FLAGS)
  main = runpy.run_path(str(_MAIN), run_name="main_under_test")
  options = {holder.name: holder.default for holder in main["_FLAGS"]}
  for name in set(flags.FLAGS) - known:
    delattr(flags.FLAGS, name)
  return options


def test_every_flag_belongs_to_a_task(defaults):
  taken = {name for names in generation._TAKEN.values() for name in names}
  assert set(defaults) == taken | set(generation._ALL)


@pytest.mark.parametrize(
  "given, words",
  [
    ({"task": "sound", "frames": 3}, "--frames is not for --task=sound"),
    ({"task": "sound", "video": "a.mp4"}, "--video is not for --task=sound"),
    ({"task": "soundtrack", "schedule": "linear"}, "--schedule is not for --task=soundtrack"),
    ({"task": "soundtrack", "video": "a.mp4", "seconds": 0.0}, "--seconds is not for"),
    ({"task": "video", "candidates": 3}, "--candidates is not for --task=video"),
    ({"task": "video", "infill": ["1:2"]}, "--infill is not for --task=video"),
    ({"task": "soundtrack"}, "give --video, the file to add sound to"),
    ({"task": "soundtrack", "video": "a.mp4"}, "--out is missing; give a file such as out.mp4"),
    ({"task": "sound"}, "--out is missing; give a file such as out.wav"),
    ({"task": "sound", "out": "a.wav"}, "--seconds is missing"),
    ({"task": "video"}, "no prompt given; give --prompt or --prompts"),
  ],
)
def test_what_does_not_go_together_is_told(defaults, given, words):
  with pytest.raises(UserError, match=words):
    generation.generate(defaults | {"workdir": "runs/none"} | given)


def test_settings_are_those_that_were_given_zero_included(defaults, monkeypatch, tmp_path, caplog):
  pipeline = Fake()
  monkeypatch.setattr(generation, "_load", lambda workdir, mesh, dtype: pipeline)
  options = {"task": "sound", "workdir": "x", "out": str(tmp_path / "a.wav"), "prompt": ["rain"],
             "seconds": 1.0, "guidance": 0.0, "steps": 2}  # fmt: skip
  with caplog.at_level("INFO"):
    generation.generate(defaults | options)
  assert pipeline.changes == [{"guidance": 0.0, "steps": 2}]
  assert str(tmp_path / "a.wav") in caplog.text


def test_clips_get_their_flags(defaults, monkeypatch):
  got = {}
  monkeypatch.setattr(generation.clips, "generate", lambda workdir, **given: got.update(given))
  generation.generate(defaults | {"workdir": "x", "prompt": ["a"], "steps": 3, "image": True})
  wanted = {"texts": ["a"], "steps": 3, "image": True, "seed": 0, "overwrite": False}
  assert wanted.items() <= got.items() and "frames" not in got
