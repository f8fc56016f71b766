"""The toy world as a TFDS data set in ArrayRecord files, written and read without TensorFlow.

Features of an example: video uint8 (T, H, W, 3), caption, variants (JSON list of further wordings),
facts (JSON object of the scene's ground truth), fps, and index of the scene; in worlds with sound
also wave int16 (samples,) at 48 kHz and sound_caption. The video is one bytes feature without its
own compression (the file compresses), as an integer tensor would be stored number by number. Order
is scene order: shuffling is the feed's task.

TFDS collects a split in memory before it writes it, and uses TensorFlow beyond 1 GB. So a split is
stored as several TFDS splits, "train_000" and so on, which `ToyRecords` joins.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mg_jax.core.errors import UserError
from mg_jax.core.progress import track
from mg_jax.data.media.audio import RATE
from mg_jax.data.schema import Sample
from mg_jax.data.sources import toy

PART_BYTES = 2**28  # pixels and samples per part of a split


@dataclasses.dataclass
class ToyConfig(tfds.core.BuilderConfig):
  """A recipe as a TFDS config, which travels with the builder."""

  recipe: toy.ToyRecipe = dataclasses.field(default_factory=toy.ToyRecipe)


class ToyWorld(tfds.core.GeneratorBasedBuilder):
  """TFDS builder of one `toy.ToyRecipe`, rendered by `processes` processes."""

  VERSION = tfds.core.Version("1.1.0")
  processes = 1

  def _info(self) -> tfds.core.DatasetInfo:
    recipe = self.builder_config.recipe
    shape = (recipe.frames, recipe.height, recipe.width, 3)
    features = {
      "video": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
      "caption": tfds.features.Text(),
      "variants": tfds.features.Text(),
      "facts": tfds.features.Text(),
      "fps": np.float32,
      "index": np.int64,
    }
    if recipe.world.sound is not None:
      features["wave"] = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
      features["sound_caption"] = tfds.features.Text()
    return self.dataset_info_from_configs(
      description=f"Moving shapes with exact captions and facts: {recipe}",
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # Nothing is downloaded.
    recipe, generators = self.builder_config.recipe, {}
    for split in toy.SPLITS:
      # The parts share one stream, which TFDS reads in this order.
      stream = toy.examples(toy.ToySource(recipe, split), processes=self.processes)
      stream = iter(track(stream, f"clips of {split}", total=recipe.size(split)))
      for name, count in _parts(recipe, split):
        generators[name] = enumerate(itertools.islice(stream, count))
    return generators

  def _generate_examples(self) -> Any:
    raise NotImplementedError  # abstract in TFDS; `_split_generators` returns generators itself


def _parts(recipe: toy.ToyRecipe, split: str) -> list[tuple[str, int]]:
  """Names and lengths of the parts of a split; all but the last are equally long."""
  size = recipe.frames * recipe.height * recipe.width * 3
  if recipe.world.sound is not None:
    size += round(2 * RATE * recipe.world.duration_s[1])
  most, total = max(1, PART_BYTES // size), recipe.size(split)
  return [
    (f"{split}_{number:03d}", min(most, total - first))
    for number, first in enumerate(range(0, total, most))
  ]


class ToyRecords:
  """Random access to the clips of a split that `build` stored. Picklable.

  Raises:
    UserError: if the split has not been built completely.
  """

  def __init__(
    self, recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str], split: toy.Split = "train"
  ):
    parts = _parts(recipe, split)
    builder = _builder(recipe, data_dir)
    if not builder.is_prepared():
      raise UserError(f"{data_dir} has no toy data of recipe {recipe.name}; build it first.")
    self._parts = [builder.as_data_source(name) for name, _ in parts]
    self._longest, self._size = parts[0][1], recipe.size(split)
    if [len(part) for part in self._parts] != [count for _, count in parts]:
      raise UserError(
        f"{data_dir}: the {split} split has {sum(map(len, self._parts))} clips instead of "
        f"{self._size}; remove it and build it again."
      )

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Sample:
    example = self._example(index)
    audio = {}
    if "wave" in example:
      audio["wave"] = toy.from_levels(example["wave"])
      audio["sound_caption"] = example["sound_caption"].decode("utf-8")
    return Sample(
      video=example["video"],
      frames=len(example["video"]),
      fps=float(example["fps"]),
      caption=example["caption"].decode("utf-8"),
      key=f"toy/{int(example['index'])}",
      variants=tuple(json.loads(example["variants"])),
      camera=toy.camera_shot(json.loads(example["facts"])["camera"]),
      **audio,
    )

  def _example(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"clip {index} of {len(self)}")
    part, place = divmod(index, self._longest)
    return self._parts[part][place]

  def facts(self, index: int) -> dict[str, Any]:
    """Returns the ground truth of clip `index`."""
    return json.loads(self._example(index)["facts"])


def build(
  recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str], *, processes: int | None = None
) -> str:
  """Renders and stores both splits under `data_dir` unless they exist; returns their folder.

  Args:
    recipe: of the data set.
    data_dir: root of TFDS data sets; an incomplete one is never used.
    processes: renderers, by default one per core.
  """
  builder = _builder(recipe, data_dir)
  builder.processes = processes or os.cpu_count() or 1
  tfds.disable_progress_bar()
  # Silences its report of a download, of which there is none.
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      builder.download_and_prepare()
    except FileExistsError:
      # Another process of the run has built the same first; that one is used.
      builder = _builder(recipe, data_dir)
      builder.download_and_prepare()
  return os.fspath(builder.data_path)


def _builder(recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str]) -> ToyWorld:
  # TFDS warns of configs that are not in the class's own list; recipes never are.
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    config = ToyConfig(name=recipe.name, recipe=recipe)
    return ToyWorld(config=config, data_dir=os.fspath(data_dir), file_format="array_record")
  finally:
    logger.setLevel(level)
