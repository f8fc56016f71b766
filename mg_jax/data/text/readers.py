"""Text streams of a generator: which tokenizer encodes which part of a prompt [MG 3.1.4].

The paper's three are UL2 and Long-prompt MetaCLIP on the whole prompt, and ByT5 on the words in
quotation marks only. A stream turns a prompt into {"ids": int32 (S,), "mask": bool (S,)}; if it has
no text, the mask is all False, which is also its null.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.text import prompts as text
from mg_jax.data.text.tokenizers import Name, Tokenizer, open_tokenizer

Tokens = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """One stream of a config; its name is that of its route in the model.

  Attributes:
    tokenizer: "bytes" (ByT5), "words" (of the toy world), "sentencepiece" (T5, UL2) or "clip".
    length: S, tokens of a prompt, the end token included.
    reads: "prompt", the whole prompt after its tags, or "quoted", the words in quotation marks.
    encoder: folder of converted weights of a frozen encoder; empty for one trained jointly.
    files: folder of the tokenizer's files, by default that of the encoder; unused for bytes and
      words.
    cache: whether features of a frozen encoder are precomputed with the latents, or computed in
      every step.
  """

  tokenizer: Name = "bytes"
  length: int = 64
  reads: Literal["prompt", "quoted"] = "prompt"
  encoder: str = ""
  files: str = ""
  cache: bool = True

  def __post_init__(self):
    if self.length < 1:
      raise UserError(f"text length is {self.length}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Reader:
  """A stream with its tokenizer opened. Picklable."""

  config: TextConfig
  tokenizer: Tokenizer

  def __call__(self, prompt: str, *, fps: float | None = None, camera: str = "") -> Tokens:
    """Tokens of a prompt.

    Args:
      prompt: any string; an empty one gives no real tokens, and gets no tags.
      fps: prefixed to the prompt; None for images [MG 3.1.4].
      camera: camera motion, prefixed to the prompt.
    """
    read = self.part(prompt, fps=fps, camera=camera)
    ids, mask = self.tokenizer(read, self.config.length)
    return {"ids": ids, "mask": mask} if read else blank(self.config.length)

  def part(self, prompt: str, *, fps: float | None = None, camera: str = "") -> str:
    """The part of a prompt that this stream encodes."""
    if self.config.reads == "quoted":
      return text.quoted(prompt)
    if not prompt:
      return ""
    tagged = text.camera_tag(prompt, camera)
    return tagged if fps is None else text.fps_tag(tagged, fps)

  def cuts(self, prompt: str, *, fps: float | None = None, camera: str = "") -> bool:
    """Whether the prompt has more tokens than the stream takes."""
    return self.exceeds(self.part(prompt, fps=fps, camera=camera), self.config.length)

  def exceeds(self, text: str, most: int) -> bool:
    """Whether a text has more tokens than `most`, the end token included."""
    return bool(self.tokenizer(text, most + 1)[1].all())


def blank(length: int) -> Tokens:
  """Tokens of an empty text: padding only."""
  return {"ids": np.zeros((length,), np.int32), "mask": np.zeros((length,), bool)}


def open_readers(configs: Mapping[str, TextConfig]) -> dict[str, Reader]:
  """Readers of all streams, by name.

  Raises:
    UserError: if the files of a tokenizer are missing or damaged.
  """
  return {name: open_reader(config) for name, config in sorted(configs.items())}


def open_reader(config: TextConfig) -> Reader:
  """The reader of one stream; raises UserError as `open_readers`."""
  return Reader(config, open_tokenizer(config.tokenizer, config.files or config.encoder or None))
