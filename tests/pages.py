"""What makes a figure of README.md or docs/ true: rules for pages of Markdown and for JSON files.

A figure is a link to its value: `[27.1 dB](docs/figures/NAME.json#last/eval/psnr)`. The file is
made by the command in the same row of a table, or in the same section of a text, with
`--figure=docs/figures/NAME.json` added, see `mg_jax/evaluation/figures.py`. Several numbers in one
link have their keys in their order, with commas between them. Numbers are held at the precision
that is printed, those before " %" as shares. Versions that are named beside a figure are those of
its file.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

TABLE = "Figures"  # the section whose table holds figures in its second column, docs/figures.md
MADE = "docs/plans.md"  # its tables are made of docs/plans/ as a whole

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+\.json)(?:#([^)\s]*))?\)")
_NUMBER = re.compile(r"(?<![\w@.])(-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?!\w|\.\d)( ?%)?")
_UNIT = re.compile(r" ?(?:%|dB\b|[GM]i?B\b|ms\b|times (?:as|our|slower|faster)\b|steps a second\b)")
_VERSION = re.compile(r"\b(jax|torch|diffusers|transformers) (\d+(?:\.\d+)+)")
_CODE = re.compile(r"`[^`]*`")
_BLOCK = re.compile(r"^```[^`]*^```|(?:^ {4}.*\n?)+", re.MULTILINE)  # of code
_NOISE, _FEW = 0.05, 0.1  # such a share of the machine, in such a share of the samples
_HEADING = re.compile(r"^#.*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
  """A row of a table, an item of a list or a paragraph; `commands` are those it is held to."""

  section: str
  text: str
  cells: tuple[str, ...]  # of a row
  commands: frozenset[tuple[str, ...]]


def normal(command: str) -> tuple[str, ...] | None:
  """The words of a command from launch/... on, without --figure; None for another command."""
  try:
    words = shlex.split(command.replace("\\\n", " "), comments=True)
  except ValueError:
    return None
  starts = [i for i, word in enumerate(words) if word.startswith("launch/")]
  return tuple(w for w in words[starts[0] :] if not w.startswith("--figure=")) if starts else None


def blocks(text: str) -> list[Block]:
  """All blocks of a Markdown text but its code."""
  found: list[Block] = []
  for section in re.split(r"(?m)^(?=#+ )", text):
    heading = section.partition("\n")[0].lstrip("# ") if section.startswith("#") else ""
    prose = _HEADING.sub("", _BLOCK.sub("", section))
    code = "\n".join(_BLOCK.findall(section)).replace("\\\n", " ")
    lines = code.splitlines() + _spans(prose)
    of_section = frozenset(filter(None, map(normal, lines)))
    for piece in re.split(r"(?m)\n\s*\n|\n(?=[|]|- )|^(?=[|]|- )", prose):
      if piece.startswith("|"):
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", piece)[1:-1])
        commands = frozenset(filter(None, map(normal, _spans(piece))))
        found.append(Block(heading, piece, cells, commands))
      elif piece.strip():
        found.append(Block(heading, " ".join(piece.split()), (), of_section))
  return found


def _spans(text: str) -> list[str]:
  return [" ".join(span.strip("`").split()) for span in _CODE.findall(text)]


def find(node: Any, key: str) -> Any:
  """The value under a path of keys, which may hold slashes themselves. Raises KeyError."""
  if not key:
    return node
  if isinstance(node, list):
    head, _, rest = key.partition("/")
    return find(node[int(head)], rest)
  for name, item in node.items() if isinstance(node, dict) else ():
    if key == name or key.startswith(f"{name}/"):
      try:
        return find(item, key[len(name) + 1 :])
      except (KeyError, ValueError, IndexError):
        continue
  raise KeyError(key)


def wrong_numbers(text: str, values: Any, keys: tuple[str | Callable, ...]) -> Iterator[str]:
  """Numbers of a text that are not, as precise as printed, the values under the keys in turn."""
  numbers = _NUMBER.findall(text)
  if len(numbers) != len(keys):
    yield f"{text!r} has {len(numbers)} numbers and {len(keys)} keys"
    return
  for (printed, percent), key in zip(numbers, keys, strict=True):
    try:
      value = key(values) if callable(key) else find(values, key)
    except (KeyError, ValueError, IndexError):
      yield f"{text!r}: there is no {key}"
      continue
    if isinstance(value, bool) or not isinstance(value, int | float):
      yield f"{text!r}: {key} is {value!r}, no number"
      continue
    digits = len(printed.partition(".")[2])
    exact = value * (100 if percent else 1)
    if abs(exact - float(printed.replace(",", ""))) > 0.5 * 10**-digits * (1 + 1e-9):
      yield f"{text!r}: {key} is {exact:.{digits + 2}f}, not {printed}"


def unlinked(path: str, block: Block, held: Sequence[str] = ()) -> list[str]:
  """Figures of a block that are no links, without the phrases that are held by other means."""
  bare = lambda text: _CODE.sub("", _LINK.sub("", text))  # noqa: E731
  text = block.text
  for phrase in held:
    text = text.replace(phrase, "")
  if block.section == TABLE and block.cells:
    if block.cells[0] == "what":
      return []
    return [match[0] for match in _NUMBER.finditer(bare(block.cells[1]))]
  if path == MADE and block.cells:
    return []
  text = _VERSION.sub("", bare(text))
  alone = block.section == TABLE  # where a decimal is a figure by itself
  return [
    match[0] for match in _NUMBER.finditer(text)
    if match[2] or _UNIT.match(text[match.end() :]) or alone and "." in match[1]
  ]  # fmt: skip


def complaints(
  path: str,
  text: str,
  records: Mapping[str, Any],
  *,
  legacy: Sequence[str] = (),
  held: Sequence[str] = (),
) -> list[str]:
  """What is wrong with the figures of a page.

  Args:
    path: of the page, as "README.md".
    text: of the page.
    records: contents of JSON files by their paths.
    legacy: beginnings of blocks, one for each, whose figures need no link.
    held: phrases whose numbers are looked at elsewhere.
  """
  found, left = [], list(legacy)
  for block in blocks(text):
    start = block.text.lstrip("|- ")
    told = [f"{path}: {start[:70]!r}: {text}" for text in _linked(path, block, records)]
    if bare := unlinked(path, block, held):
      if old := [entry for entry in left if start.startswith(entry)]:
        left.remove(old[0])
      else:
        told.append(f"{path}: {start[:70]!r}: {bare} are figures without a link (tests/pages.py)")
    found += told
  return found + [f"{path}: {entry!r} is legacy no more; take it out" for entry in left]


def _linked(path: str, block: Block, records: Mapping[str, Any]) -> Iterator[str]:
  named = _VERSION.findall(_CODE.sub("", block.text))
  for text, target, keys in _LINK.findall(block.text):
    file = "/".join(filter(None, [path.rpartition("/")[0], target]))
    if file not in records:
      yield f"there is no {file}"
      continue
    record = records[file]
    yield from wrong_numbers(text, record["values"], tuple(filter(None, keys.split(","))))
    command = normal(record["command"])
    if command not in block.commands:
      yield f"{file} was made by {record['command']!r}, which is not the command beside it"
    for library, version in named:
      own = str(record["versions"].get(library)).partition("+")[0]
      if not f"{own}.".startswith(f"{version}."):
        yield f"{file} is of {library} {own}, not {version}"
    if command and command[0] == "launch/bench.py":
      for library in {"jax", "torch"} & record["versions"].keys() - {name for name, _ in named}:
        yield f"a time of {file} stands there without the version of {library}"


def unfit(record: Mapping[str, Any]) -> Iterator[str]:
  """What makes a JSON no figure: parts that are missing, changed code, paths of a machine."""
  for part in ("command", "values", "versions", "machine", "commit", "date"):
    if not record.get(part):
      yield f"has no {part}"
  if record.get("commit") and record["commit"]["dirty"]:
    yield "was made by code that is in no commit"
  others = [share for share in _foreign(record.get("values")) if share is not None]
  if sum(share > _NOISE for share in others) > _FEW * len(others):
    yield "was timed while other processes used the machine"
  if re.search(r'"(?:[^"]*[=, ])?/\w', json.dumps(record)):
    yield "names a path of one machine"


def _foreign(node: Any) -> list[float | None]:
  """Shares of the machine that others used during the samples of a benchmark."""
  if not isinstance(node, dict):
    return []
  return [*node.get("foreign", ()), *(x for item in node.values() for x in _foreign(item))]
