"""Tokenizers of the published text encoders [MG 3.1.4].

A `Tokenizer` returns ids (S,) int32 and a mask (S,) bool of exactly the requested length. Byte
tokens serve ByT5, SentencePiece T5 and UL2, byte pairs CLIP. Vocabularies are read from the files
of a checkpoint folder; of a CLIP file with a pipeline, only its vocabulary is used.

A text is data: "</s>", "<extra_id_0>" or "<|endoftext|>" in it become plain characters, so no
caption can end a sequence early or contain a sentinel. A lone surrogate, which UTF-8 cannot encode,
becomes "?". Padding is id 0 in every vocabulary, even if 0 is a real piece: only the mask matters.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data.text.prompts import EOS, PAD, VOCABULARY, encode_bytes

Name = Literal["bytes", "words", "sentencepiece", "clip"]

SPARE_ROWS = 512  # T5 has 32128 rows for 32000 pieces, ByT5 384 for 259, UMT5 256384 for 256000
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_CLIP_MERGES = 49152 - 512 - 2 + 256  # the published list is longer, CLIP uses only these
# Pieces that stand for something other than their text, regardless of their kind in a file.
_SPECIAL = re.compile(r"▁?</?(extra_id_\d+|pad|s|unk|mask)>")
# Characters per part of a text, see `_encode_parts`.
_PART, _LONGEST_CLIP_PART = 1 << 12, 1 << 16
_WORDS = re.compile(r"\w{1,64}|[^\w\s]")  # bounds the length of a word
_BETWEEN_WORDS = re.compile(r"(?<=[\w!-~]) (?=[\w!-~])")


class Tokenizer(Protocol):
  """Maps texts to ids below `vocabulary`; picklable and thread-safe."""

  @property
  def vocabulary(self) -> int: ...

  def __call__(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Encodes `text` as exactly `length` tokens; a longer text is truncated, with its end token.

    Args:
      text: any string.
      length: S, the end token and, for CLIP, the start token included.

    Returns:
      ids int32 (S,) and mask bool (S,), True on real tokens, the end token included.

    Raises:
      UserError: if `length` has no room for the start and end tokens.
    """


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
  """The bytes of ByT5, see `data.text.prompts`."""

  vocabulary: int = dataclasses.field(default=VOCABULARY, init=False)

  def __call__(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    _check_length(length, 1)
    return encode_bytes(text, length)


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
  """One id per word or punctuation mark, by its hash: the toy counterpart of SentencePiece.

  As there, a token does not reveal its letters; unlike there, two words may share an id.
  """

  vocabulary: int = dataclasses.field(default=384, init=False)

  def __call__(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    _check_length(length, 1)
    room, first = length - 1, EOS + 2
    words = (match[0] for match in _WORDS.finditer(text.lower()))
    kept = [
      first + zlib.crc32(word.encode("utf-8", errors="replace")) % (self.vocabulary - first)
      for word in itertools.islice(words, room)
    ] + [EOS]
    ids = np.full((length,), PAD, np.int32)
    ids[: len(kept)] = kept
    return ids, np.arange(length) < len(kept)


class _Model(NamedTuple):
  """encode(text, room) returns at least the first `room` ids of a text, if it has so many."""

  encode: Callable[[str, int], list[int]]
  vocabulary: int
  start: tuple[int, ...]
  end: int


@dataclasses.dataclass(frozen=True)
class FileTokenizer:
  """A tokenizer whose vocabulary each process loads from files once, on first use.

  Attributes:
    name: which tokenizer.
    files: of its vocabulary.
    stamps: time and size of each file; changed files are reloaded.
  """

  name: Name
  files: tuple[pathlib.Path, ...]
  stamps: tuple[tuple[int, int], ...]

  @property
  def vocabulary(self) -> int:
    return _load(self).vocabulary

  def __call__(self, text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    model = _load(self)
    least = len(model.start) + 1
    _check_length(length, least)
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    room = length - least
    kept = [*model.start, *(model.encode(text, room)[:room] if room else ()), model.end]
    ids = np.full((length,), PAD, np.int32)
    ids[: len(kept)] = kept
    return ids, np.arange(length) < len(kept)


def open_tokenizer(name: Name, folder: str | os.PathLike[str] | None = None) -> Tokenizer:
  """A tokenizer by name, with the vocabulary of a checkpoint folder.

  Args:
    name: "bytes" (ByT5), "words" (of the toy world), "sentencepiece" (T5, UL2) or "clip".
    folder: of `spiece.model` or `tokenizer.json`; for CLIP of `tokenizer.json`, `vocab.json` and
      `merges.txt`, or open_clip's `bpe_simple_vocab_16e6.txt.gz`. Bytes and words need none.

  Raises:
    UserError: if the name is unknown, or the files are missing, damaged or of another kind.
  """
  own = {"bytes": ByteTokenizer, "words": WordTokenizer}
  if name in own:
    return own[name]()
  if name not in _READERS:
    names = ", ".join((*own, *_READERS))
    raise UserError(f"unknown tokenizer {name!r}; choose one of {names}")
  choices = [" with ".join(files) for files in _READERS[name]]
  if folder is None:
    raise UserError(f"the {name} tokenizer needs the folder of its {' or '.join(choices)}")
  root = pathlib.Path(folder).absolute()
  for names in _READERS[name]:
    files = tuple(root / file for file in names)
    if all(file.is_file() for file in files):
      stats = [file.stat() for file in files]
      stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
      tokenizer = FileTokenizer(name, files, stamps)
      _load(tokenizer)  # so that a damaged file raises here and not in the first batch
      return tokenizer
  raise UserError(
    f"{folder} has no {' or '.join(choices)}, which the {name} tokenizer reads; give the folder "
    "of the checkpoint with its tokenizer"
  )


def check_vocabulary(tokenizer: Tokenizer, vocab: int, *, where: str) -> None:
  """Checks that an encoder with `vocab` embedding rows matches `tokenizer`.

  Raises:
    UserError: if ids have no row, or if more than `SPARE_ROWS` rows have no id.
  """
  ids = tokenizer.vocabulary
  if ids > vocab or vocab - ids > SPARE_ROWS:
    raise UserError(
      f"{where}: the tokenizer has {ids} ids and the text encoder {vocab} rows; use the tokenizer "
      "that the encoder was trained with"
    )


def _check_length(length: int, least: int) -> None:
  if length < least:
    raise UserError(
      f"a length of {length} tokens has no room for start and end; make it at least {least}"
    )


@functools.lru_cache(maxsize=4)
def _load(tokenizer: FileTokenizer) -> _Model:
  read = _READERS[tokenizer.name][tuple(file.name for file in tokenizer.files)]
  return read(*tokenizer.files)


def _read_model(file: pathlib.Path) -> _Model:
  """A model of the sentencepiece library."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.LoadFromSerializedProto(_read_bytes(file))
  except RuntimeError as e:
    raise _damaged(file, "a sentencepiece model") from e
  size, end = processor.vocab_size(), processor.eos_id()
  if end < 0:
    raise UserError(f"{file} has no end token </s>; use the spiece.model of a T5 checkpoint")
  # The library never matches control pieces in a text; it does match special pieces of other kinds
  # (such as mT5's sentinels), which are spelled out.
  spelled = {
    k: [processor.piece_to_id(letter) for letter in processor.id_to_piece(k)]
    for k in range(size)
    if _SPECIAL.fullmatch(processor.id_to_piece(k))
    and not (processor.is_control(k) or processor.is_unknown(k))
  }

  def encode(text, room):
    ids = processor.encode(text)
    return [i for k in ids for i in spelled.get(k, (k,))] if spelled else ids

  return _Model(encode, size, (), end)


def _read_unigram(file: pathlib.Path) -> _Model:
  """The same kind of model in the tokenizers library's format, with the pipeline of the file.

  That library drops a combining mark after a character such as "½", which sentencepiece keeps.
  """
  import tokenizers

  spec = _read_object(file)
  model = spec.get("model")
  if not isinstance(model, dict) or not isinstance(model.get("vocab"), list):
    raise UserError(f"{file} has no sentence pieces; use the tokenizer of a T5 checkpoint")
  try:
    pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    added = {token["content"] for token in spec.get("added_tokens") or ()}
    names = [piece for piece, _ in pieces]
    end, unknown = names.index("</s>"), names[model["unk_id"]]
    # The library matches added tokens in any text, and then their pieces; white space never reaches
    # the pieces, so a piece with a space in it is never matched.
    special = added | {unknown, *filter(_SPECIAL.fullmatch, names)}
    hidden = [(f" {k}" if name in special else name, s) for k, (name, s) in enumerate(pieces)]
    kept = {"normalizer": spec.get("normalizer"), "pre_tokenizer": spec.get("pre_tokenizer")}
    spec = {"version": "1.0", "added_tokens": [], "truncation": None, "padding": None, **kept}
    spec |= {"post_processor": None, "decoder": None, "model": model | {"vocab": hidden}}
    processor = tokenizers.Tokenizer.from_str(json.dumps(spec))
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as e:  # the library raises Exception, or a panic that is not one
    raise _damaged(file, "a tokenizer of sentence pieces") from e
  encode = functools.partial(_encode_parts, processor)
  return _Model(encode, len(pieces), (), end)


def _read_clip_json(file: pathlib.Path) -> _Model:
  model = _read_object(file).get("model")
  if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
    raise UserError(f"{file} has no byte pairs; use the tokenizer of a CLIP checkpoint")
  # Files of older versions spell a pair as one string.
  merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
  return _clip(file, model.get("vocab"), merges)


def _read_clip_pair(vocab: pathlib.Path, merges: pathlib.Path) -> _Model:
  return _clip(vocab, _read_object(vocab), _merges(merges, _read_bytes(merges)))


def _read_clip_list(file: pathlib.Path) -> _Model:
  """open_clip's list of merges, whose vocabulary follows from their order."""
  from tokenizers.pre_tokenizers import ByteLevel

  try:
    data = gzip.decompress(_read_bytes(file))
  except (OSError, EOFError, zlib.error) as e:
    raise _damaged(file, "a gzip file") from e
  merges = _merges(file, data)[:_CLIP_MERGES]
  # Sorted by code point the alphabet is in CLIP's order: printable bytes first, then the others.
  alphabet = sorted(ByteLevel.alphabet())
  ends = [f"{letter}</w>" for letter in alphabet]
  words = [*alphabet, *ends, *map("".join, merges), CLIP_START, CLIP_END]
  return _clip(file, {word: k for k, word in enumerate(words)}, merges)


def _clip(file: pathlib.Path, vocab: Any, merges: list) -> _Model:
  """The byte pairs of CLIP over words of lower-cased text.

  The pipeline is CLIP's own, without the special tokens that published files match in a text.
  White space only separates words, so it need not be collapsed.
  """
  import tokenizers
  from tokenizers import models, normalizers, pre_tokenizers

  if not isinstance(vocab, dict) or not all(type(k) is int for k in vocab.values()):
    raise _damaged(file, "a table of words and ids")
  if sorted(vocab.values()) != list(range(len(vocab))):
    raise UserError(f"{file}: its ids are not consecutive from 0; fetch it again")
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  needed = [CLIP_START, CLIP_END, *sorted(alphabet), *sorted(f"{a}</w>" for a in alphabet)]
  lacking = [word for word in needed if word not in vocab]
  if lacking:
    raise UserError(
      f"{file} lacks {len(lacking)} tokens of a CLIP vocabulary, among them {lacking[0]}; "
      "use the tokenizer of a CLIP checkpoint"
    )
  for pair in merges:
    fits = isinstance(pair, list | tuple) and len(pair) == 2
    if not fits or not all(isinstance(p, str) and p in vocab for p in (*pair, "".join(pair))):
      raise UserError(
        f"{file}: the merge {str(pair)[:60]} does not fit the vocabulary; take both from one "
        "checkpoint"
      )
  engine = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=[tuple(m) for m in merges], end_of_word_suffix="</w>")
  )
  engine.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
  words = tokenizers.Regex(_CLIP_WORDS)
  engine.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(words, behavior="removed", invert=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
  ])  # fmt: skip

  encode = functools.partial(_encode_parts, engine, longest=_LONGEST_CLIP_PART)
  return _Model(encode, len(vocab), (vocab[CLIP_START],), vocab[CLIP_END])


def _encode_parts(engine: Any, text: str, room: int, *, longest: int | None = None) -> list[int]:
  """At least `room` ids by the tokenizers library, which takes seconds for a megabyte of text.

  The text is encoded in parts that end between words, which does not change its ids, until there
  are enough. A part of `longest` characters without such an end, unseen in captions, ends anyway.
  """
  ids, at = [], 0
  while at < len(text) and len(ids) < room:
    stop = len(text) if longest is None else at + longest
    space = _BETWEEN_WORDS.search(text, at + _PART, stop)
    end = space.start() if space else stop
    ids += engine.encode(text[at:end], add_special_tokens=False).ids
    at = end
  return ids


def _merges(file: pathlib.Path, data: bytes) -> list[list[str]]:
  """Lines of two words each, after an optional version line."""
  try:
    lines = data.decode("utf-8").split("\n")
  except UnicodeDecodeError as e:
    raise _damaged(file, "a list of merges") from e
  if "#version" in lines[0]:
    del lines[0]
  return [line.split() for line in lines if line.strip()]


def _read_object(file: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(_read_bytes(file))
  except (ValueError, RecursionError) as e:
    raise _damaged(file, "JSON") from e
  if not isinstance(content, dict):
    raise _damaged(file, "a JSON object")
  return content


def _read_bytes(file: pathlib.Path) -> bytes:
  try:
    data = file.read_bytes()
  except OSError as e:
    raise UserError(f"{file} cannot be read: {e.strerror}") from e
  if not data:
    raise UserError(f"{file} is empty; fetch it again")
  return data


def _damaged(file: pathlib.Path, kind: str) -> UserError:
  return UserError(f"{file} is not {kind}, or is damaged; fetch it again")


# Tokenizer -> the files that it can be read from, in order of preference.
_READERS: dict[str, dict[tuple[str, ...], Callable[..., _Model]]] = {
  "sentencepiece": {("spiece.model",): _read_model, ("tokenizer.json",): _read_unigram},
  "clip": {
    ("tokenizer.json",): _read_clip_json,
    ("vocab.json", "merges.txt"): _read_clip_pair,
    ("bpe_simple_vocab_16e6.txt.gz",): _read_clip_list,
  },
}
