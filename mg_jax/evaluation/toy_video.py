"""Scores a generator on the toy world: clips for held-out prompts, measured by the oracles.

The oracles measure colour, shape, count and motion, the word on a sign, or the traits and actions
of a person, from the pixels of the clips as generated, before any compression.
"""

import dataclasses
import os
import pathlib
from typing import Any

from mg_jax.core import distributed
from mg_jax.core.progress import track
from mg_jax.data.atomic import write_json
from mg_jax.data.sources import toy
from mg_jax.metrics.scores import Scores
from mg_jax.sampling import outputs, prompts
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.world.oracles import people
from mg_jax.world.oracles import pixels as oracles
from mg_jax.world.scene.prompts import parse_prompt


@dataclasses.dataclass(frozen=True)
class Report:
  """Rates by attribute, as text and as data."""

  table: str
  rates: dict[str, Any]


def score(
  pipeline: TextToVideo,
  folder: str | os.PathLike[str],
  *,
  world: str = "simple",
  count: int = 64,
  texts: list | None = None,
  seed: int = 0,
  **changes: Any,
) -> Report:
  """Generates, saves and scores clips; writes scores.json and a contact sheet next to them.

  Args:
    pipeline: the generator.
    folder: for the clips, created if missing.
    world: name of the toy world that held-out prompts come from.
    count: number of held-out prompts.
    texts: entries of `prompts.read` to use instead.
    seed: seed of the first clip; the next ones count up.
    **changes: settings that differ from the pipeline's.
  """
  folder = pathlib.Path(folder)
  entries = texts or prompts.held_out(toy.world(world), count)
  planned, _ = prompts.plan(entries, seed=seed)
  settings = pipeline.resolve(**changes)
  scores, clips = Scores(), []
  # Clips on disk are not reused: a clip is measured as generated, not as compressed.
  generated = outputs.generate(pipeline, planned, folder, settings, overwrite=True)
  for prompt, video in track(generated, total=len(planned), what="clips"):
    wanted = parse_prompt(prompt.text)
    if "action" in wanted:  # prompts of people
      measured = people.look(video)
      result = people.compare(measured, wanted)
    else:
      measured = oracles.measure(video)
      result = oracles.compare(measured, wanted)
    scores.add(result)
    clip = {"clip": prompt.name, "prompt": prompt.text, "result": result}
    clips.append(clip | ({"read": measured.word} if wanted["word"] else {}))
  report = Report(scores.table(), scores.to_dict())
  record = {"origin": pipeline.origin, "rates": report.rates, "clips": clips}
  distributed.on_main(write_json, folder / "scores.json", record)
  outputs.write_sheet(folder, planned, settings)
  return report
