"""The outlier study: effect of the outlier penalty by weight, threshold and reduction [MG 3.1.1].

Every cell of a grid trains one autoencoder from the same initialisation for the same steps, and
measures it on the same held-out clips: quality (PSNR), the fraction of latent positions further
than 3 |Std| from the mean of their frame, and the spots that these leave in decoded frames.
"""

import copy
import dataclasses
import itertools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mg_jax.core import config as configs
from mg_jax.core import plotting
from mg_jax.core.mesh import make_mesh
from mg_jax.data import atomic
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.models.codecs.tae import TAE
from mg_jax.objectives.autoencoding import Autoencoding, AutoencodingWeights
from mg_jax.precompute.statistics import LatentStatistics
from mg_jax.stages import experiment
from mg_jax.stages.video_codec import held_out_clips
from mg_jax.train.evals import Evaluator

_log = logging.getLogger(__name__)
FILE, PLOT = "outliers.json", "outliers.png"
SPOT_FLOOR = 8.0  # levels of 255: smaller errors are invisible
SPOT_RATIO = 3.0  # ratio of a block's error to the mean of its eight neighbours


@dataclasses.dataclass(frozen=True)
class Cell:
  """One setting of the penalty; see `AutoencodingWeights`."""

  weight: float
  radius: float
  reduction: str

  @property
  def name(self) -> str:
    return f"{self.reduction}-w{self.weight:g}-r{self.radius:g}"


def grid(
  weights: Sequence[float], radii: Sequence[float], reductions: Sequence[str]
) -> list[Cell]:
  """All combinations; a zero weight appears once, as the threshold does not matter."""
  cells = [Cell(w, r, how) for how, w, r in itertools.product(reductions, weights, radii)]
  return [cell for cell in cells if cell.weight or cell.radius == radii[0]]


def study(
  config: Mapping[str, Any], workdir: str, cells: Sequence[Cell]
) -> list[dict[str, Any]]:
  """Trains and measures every cell; completed cells are read from disk.

  Args:
    config: config of an autoencoder's experiment.
    workdir: gets a run per cell, and the rows of all cells as `outliers.json`.
    cells: the settings, in the order of the rows.

  Raises:
    UserError: as `experiment.run`.
  """
  folder, rows = pathlib.Path(workdir), []
  folder.mkdir(parents=True, exist_ok=True)
  for cell in cells:
    path = folder / cell.name / FILE
    if not path.is_file():
      measured = _measure_cell(config, folder / cell.name, cell)
      if measured is None:
        break
      atomic.write_json(path, measured)
    rows.append(json.loads(path.read_text(encoding="utf-8")))
    _log.info("%s", {k: v for k, v in rows[-1].items() if not isinstance(v, (list, dict))})
    atomic.write_json(folder / FILE, rows)
  return rows


def _measure_cell(config: Mapping[str, Any], folder: pathlib.Path, cell: Cell):
  """The row of a cell; None if its training was interrupted."""
  config = copy.deepcopy(configs.to_dict(config))
  config["objective"] |= {
    "outlier": cell.weight, "radius": cell.radius, "reduction": cell.reduction,
  }
  result = experiment.run(config, str(folder))
  if result.status == "interrupted":
    return None
  model = configs.build(TAE, config["model"], where="model")
  weights = configs.build(AutoencodingWeights, config["objective"], where="objective")
  data = configs.build(DataConfig, config["data"], where="data")
  evals = configs.build(experiment.EvalConfig, config["eval"], where="eval")
  objective, mesh = Autoencoding(model, weights), make_mesh(config["mesh"])
  params, batches = result.state.averaged(), held_out_clips(data, evals)
  latents = LatentStatistics(objective, batches, str(folder), mesh).measure(params)
  scores = Evaluator(objective, batches, mesh, key=jax.random.key(0), prefix="").measure(params)
  decode = jax.jit(objective.reconstruct)
  spots = [
    spots_in(batch["video"], np.asarray(decode(params, batch["video"])), model.factors[1])[
      batch["valid"]
    ]
    for batch in batches()
  ]
  return dataclasses.asdict(cell) | {
    "steps": result.step,
    "psnr": scores["/psnr"],
    "outlier_rate": latents["outlier_rate"],
    "furthest": latents["furthest"],
    "spots": float(np.concatenate(spots).mean()),
    "histogram": latents["histogram"],
  }


def spots_in(video: np.ndarray, decoded: np.ndarray, side: int) -> np.ndarray:
  """Spots per frame of each clip, (B,).

  A spot is a block of the size of one latent position whose mean absolute error exceeds SPOT_FLOOR
  and SPOT_RATIO times that of its neighbouring blocks: a local error.

  Args:
    video: uint8 (B, T, H, W, 3).
    decoded: the same shape and dtype.
    side: side of a block, in pixels; divides H and W.
  """
  b, t, h, w, _ = video.shape
  error = np.abs(video.astype(np.float32) - decoded).mean(-1)
  error = error.reshape(b, t, h // side, side, w // side, side).mean((3, 5))
  padded = np.pad(error, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
  rows, columns = error.shape[2:]
  around = sum(
    padded[:, :, i : i + rows, j : j + columns]
    for i in range(3) for j in range(3) if (i, j) != (1, 1)
  ) / 8  # fmt: skip
  return ((error > SPOT_FLOOR) & (error > SPOT_RATIO * around)).sum((2, 3)).mean(1)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as a Markdown table."""
  names = ("reduction", "weight", "radius", "steps", "psnr", "outlier_rate", "furthest", "spots")
  lines = [names, ["---"] * len(names)]
  shown = {"psnr": ".2f", "outlier_rate": ".5f", "furthest": ".2f", "spots": ".2f", "weight": "g"}
  lines += [[format(row[name], shown.get(name, "")) for name in names] for row in rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(rows: Sequence[Mapping[str, Any]], path: str | pathlib.Path) -> None:
  """A PNG: outlier rate, PSNR and spots over the weight, and the distances of positions.

  Raises:
    UserError: without matplotlib.
  """
  pyplot = plotting.pyplot()
  figure, axes = pyplot.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
  series = dict.fromkeys((row["reduction"], row["radius"]) for row in rows)
  least = min([row["weight"] for row in rows if row["weight"]] or [1.0])
  for reduction, radius in series:
    # The cell without a weight belongs to every threshold.
    own = [
      row for row in rows
      if row["reduction"] == reduction and (row["radius"] == radius or not row["weight"])
    ]  # fmt: skip
    own = sorted(own, key=lambda row: row["weight"])
    for axis, name in zip(axes, ("outlier_rate", "psnr", "spots"), strict=False):
      label = f"{reduction}, r = {radius:g}"
      axis.plot([r["weight"] for r in own], [r[name] for r in own], marker="o", label=label)
      axis.set(xlabel="weight", title=name)
      axis.set_xscale("symlog", linthresh=least)
  axes[0].legend()
  for row in rows:
    counts = np.asarray(row["histogram"]["count"], float)
    name = Cell(row["weight"], row["radius"], row["reduction"]).name
    axes[3].step(row["histogram"]["from"], counts / counts.sum(), where="post", label=name)
  axes[3].set(yscale="log", xlabel="distance / |Std|", title="latent positions")
  axes[3].legend(fontsize="x-small")
  figure.savefig(path, dpi=100)
  pyplot.close(figure)
