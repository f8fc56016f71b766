"""A look at sound: files that can be read back, for scenes and for any wave."""

import dataclasses
import json

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.media import audio, video
from mg_jax.sampling import sound_plots
from mg_jax.world.oracles import onsets as oracles_onsets
from mg_jax.world.scene.facts import Scene
from mg_jax.world.scene.sampling import WorldConfig, sample
from mg_jax.world.sound.synthesis import soundtrack

matplotlib = pytest.importorskip("matplotlib")


def _shown(path):
  from PIL import Image

  with Image.open(path) as image:
    return np.asarray(image.convert("RGB")).astype(int)


def _knocks():
  config = dataclasses.replace(WorldConfig.sounds(), motions=("knock",))
  return sample(0, 1, config)


def test_a_scene_is_written_to_play_and_to_see(tmp_path):
  scene = _knocks()
  clip, picture = sound_plots.write_scene(scene, tmp_path / "look", size=64)
  assert (clip.name, picture.name) == ("scene_0_1.mp4", "scene_0_1.png")
  assert Scene.from_dict(json.loads(clip.with_suffix(".json").read_text())) == scene
  assert video.probe(clip).duration_s == pytest.approx(scene.duration_s)
  heard = oracles_onsets.onsets(audio.read_audio(clip))
  true = [hit.time_s for hit in soundtrack(scene).events]
  np.testing.assert_allclose(heard, true, atol=0.005)
  assert _shown(picture).std() > 20


def test_marks_are_drawn_for_events_and_for_what_was_heard(tmp_path):
  track = soundtrack(_knocks())
  calls = ({}, {"events": track.events}, {"heard": track.events})
  red = []
  for number, marks in enumerate(calls):
    path = tmp_path / f"{number}.png"
    sound_plots.plot(path, track.mix, **marks)
    shown = _shown(path)
    red.append(int(((shown[..., 0] > 180) & (shown[..., 1] < 140) & (shown[..., 2] < 140)).sum()))
  assert red[0] < red[2] < red[1]


def test_silence_and_other_rates_can_be_seen(tmp_path):
  sound_plots.plot(tmp_path / "a.png", np.zeros(16_000, np.float32), rate=16_000, title="nothing")
  assert _shown(tmp_path / "a.png").shape[2] == 3


@pytest.mark.parametrize("wrong", [np.zeros((2, 100), "f4"), np.zeros(100, np.int16), np.zeros(0)])
def test_what_is_no_wave_is_told(tmp_path, wrong):
  with pytest.raises(UserError, match="floats"):
    sound_plots.plot(tmp_path / "a.png", wrong)
