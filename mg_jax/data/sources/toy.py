"""The toy world as training data: clips rendered on the fly or built once as a TFDS data set.

`ToySource` renders clip i from scene i: uint8 (T, H, W, 3) with its caption. `examples` renders a
whole split in several processes, for `toy_records` to store; both give the same clips for the same
recipe. In a world with sound each clip has its waveform, quantised to 16 bits, and a caption of
it. Training and validation use disjoint ranges of scene indices, independent of their sizes, so a
validation scene is never trained on, nor is the word on its sign.
"""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.schema import Sample, Split
from mg_jax.world.scene import captions, facts, render, sampling
from mg_jax.world.scene.sampling import VALIDATION_START, WorldConfig
from mg_jax.world.sound import captions as sound_captions
from mg_jax.world.sound import facts as sound_facts
from mg_jax.world.sound import synthesis as sound

World = Literal[
  "simple", "pairs", "signs", "full", "stills", "sounds", "orchestra", "people", "looks"
]
SPLITS = ("train", "validation")
WORLDS: tuple[World, ...] = get_args(World)
# A core renders some ten million pixels per second; below this many, starting processes costs more.
_WORTH_PIXELS = 1 << 27
_CHUNK = 32
_LEVELS = 2**15  # full scale of 16 bits


@dataclasses.dataclass(frozen=True)
class ToyRecipe:
  """Everything that determines the pixels and words of a toy data set.

  Attributes:
    frames: T of every clip.
    height: pixels.
    width: pixels.
    fps: frame rate, or None to spread the frames over each scene's duration.
    train: clips in the training split.
    validation: clips in the validation split.
    variants: further wordings of each caption.
    seed: of the world.
    world: what scenes may contain.
  """

  frames: int = 16
  height: int = 32
  width: int = 32
  fps: float | None = 8.0
  train: int = 4000
  validation: int = 200
  variants: int = 0
  seed: int = 0
  world: WorldConfig = dataclasses.field(default_factory=WorldConfig.simple)

  def __post_init__(self) -> None:
    least = min(self.frames, self.height, self.width, self.train, self.validation)
    if least < 1 or self.variants < 0 or self.seed < 0 or (self.fps is not None and self.fps <= 0):
      raise UserError(f"invalid toy recipe: {self}; sizes, counts and fps must be positive.")
    if max(self.train, self.validation) > VALIDATION_START:
      raise UserError(f"a toy split has at most {VALIDATION_START} clips; request fewer.")
    shortest = self.world.duration_s[0]
    if self.world.sound and self.fps is not None and self.frames > shortest * self.fps + 1e-6:
      raise UserError(
        f"{self.frames} frames at {self.fps} fps outlast the sound of scenes of {shortest} s; "
        "request fewer frames or set the world's duration_s."
      )

  @property
  def name(self) -> str:
    """A file name that is unique to the recipe."""
    values = dataclasses.asdict(self)
    if self.world.sound is None:
      # Silent worlds keep the names that they had before sound was added.
      del values["world"]["sound"]
    if self.world.person is None:
      del values["world"]["person"]
    # And so do worlds without weather, times and styles.
    for field, off in (("weathers", "clear"), ("times", "day"), ("styles", "natural")):
      if values["world"][field] == (off,):
        del values["world"][field]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    return f"{self.frames}x{self.height}x{self.width}_{digest.hexdigest()[:12]}"

  def size(self, split: Split) -> int:
    """Number of clips of a split."""
    if split not in SPLITS:
      raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    return self.train if split == "train" else self.validation


def world(name: World) -> WorldConfig:
  """A named world: "simple" is learned by a tiny model in minutes, "full" has every kind of scene
  of objects; "pairs" is in between. "signs" has short words on signs, "stills" the full world with
  captions of its middle frames. "sounds" has impacts, effects of motion and music; "orchestra"
  every kind of sound and motion. "people" has one person in each scene, "looks" objects on all
  grounds, in all weathers, times of day and styles."""
  return getattr(WorldConfig, name)()


class ToySource:
  """Random access to one split of a toy recipe, rendered on demand. Pure and picklable."""

  def __init__(self, recipe: ToyRecipe, split: Split = "train"):
    self.recipe, self.split = recipe, split
    self._size = recipe.size(split)
    self._start = 0 if split == "train" else VALIDATION_START

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Sample:
    return self._clip(self.scene(index))

  def scene(self, index: int) -> facts.Scene:
    """Returns the scene of clip `index`, the ground truth of its oracles."""
    if not 0 <= index < self._size:
      raise IndexError(f"clip {index} of {self._size}")
    return sampling.sample(self.recipe.seed, self._start + index, self.recipe.world)

  def example(self, index: int) -> dict[str, Any]:
    """Returns clip `index` as the features of the stored data set, with its facts as JSON."""
    scene = self.scene(index)
    clip = self._clip(scene)
    truth = facts.facts(scene)
    audio = {}
    if clip.wave is not None:
      truth["sound"] = sound_facts.sound_facts(scene)
      levels = (clip.wave * _LEVELS).astype(np.int16)
      audio = {"wave": levels, "sound_caption": clip.sound_caption}
    return {
      "video": clip.video,
      "caption": clip.caption,
      "variants": json.dumps(clip.variants),
      "facts": json.dumps(truth),
      "fps": clip.fps,
      "index": scene.index,
      **audio,
    }

  def _clip(self, scene: facts.Scene) -> Sample:
    recipe = self.recipe
    video = render.render(
      scene, frames=recipe.frames, height=recipe.height, width=recipe.width, fps=recipe.fps
    )
    fps = recipe.frames / scene.duration_s if recipe.fps is None else recipe.fps
    style = recipe.world.caption_style
    reword = captions.frame_caption if style == "frame" else captions.caption
    audio = {}
    if scene.sound is not None:
      wave = sound.soundtrack(scene).mix[: round(recipe.frames / fps * sound.RATE)]
      audio["wave"] = from_levels(np.round(wave * _LEVELS))
      audio["sound_caption"] = sound_captions.describe_sound(scene, style=style)
    return Sample(
      video=video,
      frames=recipe.frames,
      fps=fps,
      caption=captions.describe(scene, style=style),
      key=f"toy/{scene.seed}/{scene.index}",
      variants=tuple(reword(scene, 1 + k) for k in range(recipe.variants)),
      camera=camera_shot(scene.camera),
      **audio,
    )


def waveform(config: WorldConfig, seed: int, index: int, *, rate: int) -> np.ndarray:
  """The waveform of a scene, int16 (samples,) at a sample rate in Hz."""
  wave = sound.soundtrack(sampling.sample(seed, index, config), rate=rate).mix
  return np.round(wave * np.float64(_LEVELS)).clip(-_LEVELS, _LEVELS - 1).astype("<i2")


def from_levels(levels: np.ndarray) -> np.ndarray:
  """16-bit samples as the float32 waveform of a clip."""
  return levels.astype(np.float32) / _LEVELS


def camera_shot(camera: str) -> str:
  """The name in `text.CAMERAS` of a scene's camera motion."""
  return "static shot" if camera == "static" else camera


def examples(source: ToySource, *, processes: int) -> Iterator[dict[str, Any]]:
  """Yields `source.example(i)` in order, rendered ahead by `processes` processes."""
  recipe = source.recipe
  pixels = len(source) * recipe.frames * recipe.height * recipe.width
  if processes <= 1 or pixels < _WORTH_PIXELS:
    for index in range(len(source)):
      yield source.example(index)
    return
  chunks = [range(low, min(low + _CHUNK, len(source))) for low in range(0, len(source), _CHUNK)]
  # Spawned, since forking a process in which JAX runs threads may deadlock.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
    waiting = [pool.submit(_chunk, source, chunk) for chunk in chunks[: 4 * processes]]
    for position in range(len(chunks)):
      try:
        ready = waiting[position].result()
      except concurrent.futures.process.BrokenProcessPool as e:
        raise UserError(
          "the processes that render the toy world died; in your own script, build it under "
          "`if __name__ == '__main__':`"
        ) from e
      waiting[position] = None
      if len(waiting) < len(chunks):
        waiting.append(pool.submit(_chunk, source, chunks[len(waiting)]))
      yield from ready


def _chunk(source: ToySource, indices: range) -> list[dict[str, Any]]:
  return [source.example(index) for index in indices]
