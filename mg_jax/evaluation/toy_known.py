"""Scores a generator that is given a first frame, or the beginning of a clip, on the toy world.

Held-out scenes are rendered; their captions and first frames, or first latent's frames, are what
the generator gets. The oracles measure motion from the pixels as generated. Beside them stands what
a clip would be whose first latent is replaced by that of its first frame as a still image: the
upper bound of a generator that holds the still in the place of the first latent.
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data.atomic import check_writable, write_json
from mg_jax.data.media.images import contact_sheet
from mg_jax.data.media.video import write_video
from mg_jax.data.sources import toy
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.sources.recipe import toy_recipe
from mg_jax.evaluation.toy_video import Report
from mg_jax.metrics.scores import Scores
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.world.oracles import pixels as oracles
from mg_jax.world.scene.prompts import parse_prompt

SHOWN = 16  # clips of the contact sheets


def score_known(
  pipeline: TextToVideo,
  data: DataConfig,
  folder: str | os.PathLike[str],
  *,
  count: int = 64,
  seed: int = 0,
  **changes: Any,
) -> Report:
  """Generates, measures and shows clips; writes known.json and two contact sheets.

  "first_frame" has for each way to make a clip its rates by attribute; "psnr", that of its first
  frame in dB against the first frame of the clip's reconstruction; and "start_psnr", that of the
  frames of its first latent against the true ones. "extension" has the mean absolute difference of
  pixels between the last given and the first new frame ("seam") and between the new frames
  ("inside"), and both for the true clips and their reconstructions, whose latents meet there too.

  Args:
    pipeline: a generator trained with `experiments/t2v_256.py:known=true`.
    data: of its run, of the toy world.
    folder: for results, created if missing.
    count: number of held-out scenes.
    seed: seed of the first clip; the next ones count up.
    **changes: settings that differ from the pipeline's.

  Raises:
    UserError: data that are not of the toy world.
  """
  if data.source != "toy":
    raise UserError(f"data.source is {data.source!r}; this measures runs on the toy world")
  folder = pathlib.Path(folder)
  distributed.on_main(check_writable, folder / "known.json")
  settings = pipeline.resolve(**changes)
  recipe = dataclasses.replace(toy_recipe(data), validation=max(count, data.held_out))
  source = toy.ToySource(recipe, "validation")
  samples = [source[i] for i in range(count)]
  clips = {name: [] for name in ("first_frame", "text", "reconstruction", "splice")}
  for i in track(range(0, count, pipeline.batch), "clips"):
    part = samples[i : i + pipeline.batch]
    texts, seeds = [s.caption for s in part], [seed + i + k for k in range(len(part))]
    given = [{pipeline.first_frame: s.video[0]} for s in part]
    video = np.stack([s.video for s in part])
    clips["first_frame"] += list(pipeline(texts, seeds=seeds, given=given, **changes))
    clips["text"] += list(pipeline(texts, seeds=seeds, **changes))
    latents = pipeline.encode(video)
    clips["reconstruction"] += list(pipeline.decode(latents, settings))
    spliced = np.concatenate([pipeline.encode(video[:, :1]), latents[:, 1:]], axis=1)
    clips["splice"] += list(pipeline.decode(spliced, settings))
  per_latent = pipeline.autoencoder.factors[0]
  references = clips["reconstruction"]
  rows = {name: _rates(made, samples, references, per_latent) for name, made in clips.items()}
  extended = _extension(pipeline, samples, references, seed, changes)
  result = {"first_frame": rows, "extension": extended["rates"]}

  def write() -> None:
    write_json(folder / "known.json", {"origin": pipeline.origin, "count": count} | result)
    names = [s.caption for s in samples[:SHOWN]]
    contact_sheet(clips["first_frame"][:SHOWN], names, folder / "first_frame.png", columns=8)
    contact_sheet(extended["clips"][:SHOWN], names, folder / "extension.png", columns=8)
    for k, clip in enumerate(extended["clips"][:4]):
      write_video(folder / f"extension-{k:02d}.mp4", clip, fps=settings.fps)
      write_video(folder / f"first_frame-{k:02d}.mp4", clips["first_frame"][k], fps=settings.fps)

  distributed.on_main(write)
  return Report(_table(result), result)


def _rates(clips: list, samples: list, references: list, given: int) -> dict[str, Any]:
  scores, decibels, start = Scores(), [], []
  for clip, sample, reference in zip(clips, samples, references, strict=True):
    scores.add(oracles.compare(oracles.measure(clip), parse_prompt(sample.caption)))
    decibels.append(_psnr(clip[0], reference[0]))
    start.append(_psnr(clip[:given], sample.video[:given]))
  return scores.to_dict() | {"psnr": float(np.mean(decibels)), "start_psnr": float(np.mean(start))}


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
  error = np.mean(np.square((a.astype(np.float64) - b) / 255))
  return -10 * np.log10(max(error, 1e-10))


def _extension(
  pipeline: TextToVideo, samples: list, references: list, seed: int, changes: dict
) -> dict[str, Any]:
  """Clips continued from the frames of their first latent."""
  given = pipeline.autoencoder.factors[0]
  clips, rates = [], {"made": [], "reconstruction": [], "true": []}
  for k, sample in enumerate(track(samples, "extensions")):
    clip = pipeline.extend(
      sample.video[:given], len(sample.video) - given, prompt=sample.caption, seed=seed + k,
      **changes,
    )  # fmt: skip
    clips.append(clip)
    videos = {"made": clip, "reconstruction": references[k], "true": sample.video}
    for name, video in videos.items():
      steps = np.abs(np.diff(video.astype(np.float64), axis=0)).mean((1, 2, 3))
      rates[name].append((steps[given - 1], steps[given:].mean()))
  found = {}
  for name, pairs in rates.items():
    seam, inside = np.mean(pairs, axis=0)
    found[name] = {"seam": float(seam), "inside": float(inside), "ratio": float(seam / inside)}
  motion = Scores()
  for clip, sample in zip(clips, samples, strict=True):
    motion.add(oracles.compare(oracles.measure(clip), parse_prompt(sample.caption)))
  return {"clips": clips, "rates": found | {"oracles": motion.to_dict()}}


def _table(result: dict[str, Any]) -> str:
  lines = [f"{'':>16}{'psnr dB':>9}{'start dB':>10}{'motion %':>10}"]
  for name, row in result["first_frame"].items():
    rate = 100 * row["motion"]["rate"]
    lines.append(f"{name:>16}{row['psnr']:9.1f}{row['start_psnr']:10.1f}{rate:10.0f}")
  for name in ("made", "reconstruction", "true"):
    row = result["extension"][name]
    lines.append(
      f"extension, {name}: seam {row['seam']:.2f}, inside {row['inside']:.2f}, ratio "
      f"{row['ratio']:.2f}"
    )
  return "\n".join(lines)
