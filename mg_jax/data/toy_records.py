"""The toy world as a TFDS data set in ArrayRecord files, written and read without TensorFlow.

Features of an example: video uint8 (T, H, W, 3), caption, variants (JSON list of further wordings),
facts (JSON object of the scene's ground truth), fps, and index of the scene; in worlds with sound
also wave int16 (samples,) at 48 kHz and sound_caption. The video is one bytes
feature without compression of its own (the file compresses), as an integer tensor would be stored
number by number. Order is scene order: shuffling is the feed's task.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mg_jax.core.errors import UserError
from mg_jax.data import toy
from mg_jax.data.schema import Clip


@dataclasses.dataclass
class ToyConfig(tfds.core.BuilderConfig):
  """A recipe as TFDS keeps it: with the builder, to worker processes and back."""

  recipe: toy.ToyRecipe = dataclasses.field(default_factory=toy.ToyRecipe)


class ToyWorld(tfds.core.GeneratorBasedBuilder):
  """TFDS builder of one `toy.ToyRecipe`, rendered by `processes` processes."""

  VERSION = tfds.core.Version("1.0.0")
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
    return {split: self._generate_examples(split) for split in toy.SPLITS}

  def _generate_examples(self, split: str) -> Any:
    source = toy.ToySource(self.builder_config.recipe, split)
    yield from enumerate(toy.examples(source, processes=self.processes))


class ToyRecords:
  """Random access to the clips of a built split. Picklable."""

  def __init__(self, recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str], split: str):
    size = recipe.size(split)
    builder = _builder(recipe, data_dir)
    if not builder.is_prepared():
      raise UserError(f"{data_dir} holds no toy data of recipe {recipe.name}; build it first.")
    self._examples = builder.as_data_source(split)
    if len(self._examples) != size:
      raise UserError(
        f"{data_dir}: the {split} split holds {len(self._examples)} clips instead of {size}; "
        "remove it and build it again."
      )

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> Clip:
    if not 0 <= index < len(self):
      raise IndexError(f"clip {index} of {len(self)}")
    example = self._examples[index]
    heard = {}
    if "wave" in example:
      heard["wave"] = toy.from_levels(example["wave"])
      heard["sound_caption"] = example["sound_caption"].decode("utf-8")
    return Clip(
      video=example["video"],
      frames=len(example["video"]),
      fps=float(example["fps"]),
      caption=example["caption"].decode("utf-8"),
      key=f"toy/{int(example['index'])}",
      variants=tuple(json.loads(example["variants"])),
      camera=toy.camera_shot(json.loads(example["facts"])["camera"]),
      **heard,
    )

  def facts(self, index: int) -> dict[str, Any]:
    """Returns what is true of clip `index`."""
    return json.loads(self._examples[index]["facts"])


def prepare(recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str], *, processes: int) -> str:
  """See `toy.build`."""
  builder = _builder(recipe, data_dir)
  builder.processes = processes
  tfds.disable_progress_bar()
  # Its report speaks of a download, and there is none.
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      builder.download_and_prepare()
    except FileExistsError:
      # Another process of the run built the same meanwhile and was first; that one is taken.
      builder = _builder(recipe, data_dir)
      builder.download_and_prepare()
  return os.fspath(builder.data_path)


def _builder(recipe: toy.ToyRecipe, data_dir: str | os.PathLike[str]) -> ToyWorld:
  # TFDS warns of a configuration that is not in the class's own list: no recipe is.
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    config = ToyConfig(name=recipe.name, recipe=recipe)
    return ToyWorld(config=config, data_dir=os.fspath(data_dir), file_format="array_record")
  finally:
    logger.setLevel(level)
