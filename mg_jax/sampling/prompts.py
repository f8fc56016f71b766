"""Prompts from the command line, a file or the toy world, each with its seed and output name.

A prompt is data from anyone: it may be empty, huge, or hold any character. It never becomes part of
a path; output names are built from the position, a hash of the text, and the seed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mg_jax.core.errors import UserError
from mg_jax.data.sources.toy import VALIDATION_START
from mg_jax.data.text import files as textfiles
from mg_jax.data.text.readers import Reader
from mg_jax.world.scene import captions, sampling

MAX_CHARACTERS = 10_000
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One clip to generate: its text, its seed in 0..2**32-1, and the stem of its output file."""

  text: str
  seed: int
  name: str


def check(text: str) -> tuple[str, str | None]:
  """The text to use and, when it is not what was given or has no content, a sentence about it."""
  if len(text) > MAX_CHARACTERS:
    return text[:MAX_CHARACTERS], (
      f"The prompt has {len(text)} characters; only the first {MAX_CHARACTERS} are used."
    )
  if not text.strip():
    return "", "The prompt is empty; the clip is generated without any text condition."
  return text, None


def read(path: str | os.PathLike[str]) -> list[tuple[str, int | None]]:
  """(text, seed or None) for every prompt of a file.

  A .jsonl file holds one object per line, {"prompt": "...", "seed": 3}, the seed optional. In any
  other file each line is a prompt. Blank lines are skipped in both; an empty prompt needs a .jsonl.

  Raises:
    UserError: no such file, no text of `data.text.files`, a malformed line (named by its number),
    or
      no prompt.
  """
  path = pathlib.Path(path)
  parse = _parse_json if path.suffix == ".jsonl" else lambda line, where: (line, None)
  prompts = [
    parse(line, f"{path} line {number}")
    for number, line in textfiles.lines(path, what="prompts file")
  ]
  if not prompts:
    raise UserError(f"prompts file {path} holds no prompt; write one per line.")
  return prompts


def _parse_json(line: str, where: str) -> tuple[str, int | None]:
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError) as e:
    raise UserError(f"{where} is not JSON; write objects like {{\"prompt\": \"...\"}}.") from e
  if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
    raise UserError(f'{where} has no "prompt" of type string.')
  seed = entry.get("seed")
  if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
    raise UserError(f'{where} has a "seed" that is not a whole number.')
  return entry["prompt"], seed


def held_out(
  world: sampling.WorldConfig, count: int, *, seed: int = 0
) -> list[tuple[str, int | None]]:
  """Captions of `count` toy scenes whose indices no training split reaches."""
  scenes = (sampling.sample(seed, VALIDATION_START + i, world) for i in range(count))
  return [(captions.describe(scene, style=world.caption_style), None) for scene in scenes]


def plan(entries: list[tuple[str, int | None]], *, seed: int) -> tuple[list[Prompt], list[str]]:
  """Gives every entry a seed and a file name, and collects the sentences of `check`.

  Entry i without a seed of its own takes `seed + i`. The name depends on the index, the text and
  the seed, so a run over a file that was changed does not take an old clip for a new one.

  Raises:
    UserError: a seed outside 0..2**32-1.
  """
  prompts, notices = [], []
  for i, (given, own) in enumerate(entries):
    text, notice = check(given)
    if notice:
      notices.append(f"Prompt {i}: {notice}")
    used = seed + i if own is None else own
    if not 0 <= used <= MAX_SEED:
      raise UserError(f"prompt {i} has seed {used}; seeds run from 0 to {MAX_SEED}.")
    digest = hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:8]
    prompts.append(Prompt(text, used, f"{i:04d}-{digest}-seed{used}"))
  return prompts, notices


def cut(
  prompts: list[Prompt], readers: Mapping[str, Reader], *, tags: Mapping[str, Any]
) -> list[str]:
  """A sentence for every prompt of which a stream of the model reads a part only.

  Args:
    prompts: as planned.
    readers: the streams.
    tags: what stands in front of every prompt, as arguments of a reader.
  """
  return [
    f"Prompt {i}: {name} reads only its first {reader.config.length} tokens, tags included."
    for i, prompt in enumerate(prompts)
    for name, reader in readers.items()
    if reader.cuts(prompt.text, **tags)
  ]
