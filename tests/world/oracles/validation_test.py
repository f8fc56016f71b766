"""Accuracy of the oracles on drawn, degraded and wrong clips: what generated scores rest on."""

import json

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media.video import probe
from mg_jax.world.oracles.validation import DEGRADATIONS, degrade, validate
from mg_jax.world.scene.facts import Scene
from mg_jax.world.scene.sampling import WorldConfig, sample

# What guessing a label at random gives, at most (counts lean to 1; kinds depend on motions).
CHANCE = {"colour": 0.25, "shape": 0.3, "motion": 0.3, "all": 0.05}


def test_simple_clips(capsys):
  rows = validate(WorldConfig.simple(), n=300, fps=8, degradations=("clean",))
  assert min(rows["clean"].values()) >= 0.99
  assert all(rows["shuffled"][name] < top for name, top in CHANCE.items())
  assert "clean" in capsys.readouterr().out


def test_full_clips():
  rows = validate(WorldConfig.full(), n=100, height=64, width=64, degradations=("clean",))
  assert min(rows["clean"].values()) >= 0.99
  assert all(rows["shuffled"][name] < top for name, top in CHANCE.items())


def test_signs(capsys):
  rows = validate(WorldConfig.signs(), n=30, frames=2, seed=4)
  assert set(rows["clean"]) == {"colour", "word", "letters", "all"}
  assert min(rows["clean"].values()) >= 0.99
  assert min(row["word"] for name, row in rows.items() if name != "shuffled") >= 0.95
  assert rows["shuffled"]["word"] <= 0.1 and rows["shuffled"]["letters"] < 0.3
  assert "letters" in capsys.readouterr().out


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degraded_clips(how):
  rows = validate(WorldConfig.simple(), n=40, frames=8, seed=1, degradations=(how,))
  assert min(rows[how].values()) >= 0.95
  rows = validate(WorldConfig.full(), n=20, height=64, width=64, seed=2, degradations=(how,))
  assert min(rows[how].values()) >= 0.9


@pytest.mark.parametrize("how", DEGRADATIONS[1:])
def test_degradations_are_mild_but_real(how):
  y, x = np.indices((20, 28))
  video = np.where(((x // 4 + y // 5) % 2)[None, ..., None], 220, 40).astype(np.uint8)
  video = np.repeat(np.repeat(video, 2, 0), 3, -1)
  damaged = degrade(video, how)
  assert damaged.shape == video.shape and damaged.dtype == np.uint8
  error = np.abs(damaged.astype(float) - video).mean()
  assert 1 < error < 45
  np.testing.assert_array_equal(damaged, degrade(video, how))


def test_unknown_degradation_is_told():
  with pytest.raises(UserError, match="fog"):
    degrade(np.zeros((1, 8, 8, 3), np.uint8), "fog")


def test_the_command_measures_the_oracles_of_a_world(tmp_path, run_main):
  arguments = ["--count=6", "--seed=3", f"--out={tmp_path}"]
  printed = run_main("oracles", *arguments)
  rows = validate(WorldConfig.simple(), n=6, seed=3)
  kept = json.loads((tmp_path / "oracles.json").read_text())
  assert kept["accuracy"] == {"pictures": rows} and "compression" in printed
  run_main("oracles", "--world=sounds", "--count=2", f"--out={tmp_path}")
  kept = json.loads((tmp_path / "oracles.json").read_text())
  assert kept["accuracy"]["sounds"]["clean"]["all"] > 0 and kept["world"] == "sounds"
  with pytest.raises(UserError, match="give --out"):
    run_main("oracles", "--scenes=1")


def test_the_command_writes_scenes_to_look_at(tmp_path, run_main):
  pytest.importorskip("matplotlib")
  run_main("oracles", "--world=sounds", "--count=1", "--scenes=1", f"--out={tmp_path}")
  scene = sample(0, 0, WorldConfig.sounds())
  assert Scene.from_dict(json.loads((tmp_path / "scene_0_0.json").read_text())) == scene
  assert probe(tmp_path / "scene_0_0.mp4").has_audio and (tmp_path / "scene_0_0.png").exists()
