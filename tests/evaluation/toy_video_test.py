"""Scores of a generator that draws the truth, or part of it: what tables and files say of signs."""

import json

import numpy as np
import pytest

from mg_jax.data.sources.toy import VALIDATION_START, world
from mg_jax.evaluation.toy_video import score
from mg_jax.sampling import prompts
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from mg_jax.world.scene.render import render
from mg_jax.world.scene.sampling import sample


class Truth(TextToVideo):
  """Answers held-out prompts of a world with their own clips, the last one with a blank clip."""

  def __init__(self, name, count):
    self.origin, self.batch, self.settings = "truth", 2, Settings(4, 32, 32, fps=8.0)
    texts = [text for text, _ in prompts.held_out(world(name), count)]
    scenes = [sample(0, VALIDATION_START + i, world(name)) for i in range(count)]
    clips = [render(scene, frames=4, height=32, width=32) for scene in scenes]
    clips[-1] = np.zeros_like(clips[-1])
    self.clips = dict(zip(texts, clips, strict=True))

  def __call__(self, texts, *, seeds, **settings):
    return np.stack([self.clips[text] for text in texts])

  def resolve(self, **changes):
    return self.settings


def test_words_and_letters_are_in_the_table(tmp_path):
  report = score(Truth("signs", 4), tmp_path, world="signs", count=4)
  assert set(report.rates) == {"all", "word", "letters"}
  for name in ("all", "word", "letters"):
    assert report.rates[name]["rate"] == pytest.approx(0.75) and report.rates[name]["count"] == 4
    assert any(line.startswith(name) and "75.0%" in line for line in report.table.splitlines())
  clips = json.loads((tmp_path / "scores.json").read_text())["clips"]
  assert [f'"{clip["read"]}"' in clip["prompt"] for clip in clips] == [True] * 3 + [False]
  assert clips[-1]["read"] is None and clips[-1]["result"] == {"word": False, "letters": 0.0}


def test_prompts_without_a_word_are_scored_without_one(tmp_path):
  report = score(Truth("simple", 2), tmp_path, world="simple", count=2)
  assert set(report.rates) == {"all", "colour", "shape", "count", "motion"}
  clips = json.loads((tmp_path / "scores.json").read_text())["clips"]
  assert not any("read" in clip for clip in clips)
