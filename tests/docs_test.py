"""Figures in README.md and docs/ are what their JSON says, by the command printed with them.

A figure is a link to its value: `[27.1 dB](docs/figures/NAME.json#last/eval/psnr)`. The file is
made by the command in the same row of a table, or in the same section of a text, with
`--figure=docs/figures/NAME.json` added, see `mg_jax/train/figures.py`. Several numbers in one link
have their keys in their order, with commas between them. Numbers are held at the precision that is
printed, those before " %" as shares. Versions that are named beside a figure are those of its file.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mg_jax.train import plan_page

_ROOT = Path(__file__).resolve().parents[1]
_TABLE = "Figures"  # the section of README.md whose table holds figures in its second column

# Beginnings of what stands without a JSON still, being older than `--figure`. Take out what is made
# anew or deleted; nothing may be added.
LEGACY: dict[str, tuple[str, ...]] = {
  "README.md": (
    "100 % | 98 % | 84 % | 47 %",
    "Shapes are the hard part at 32 px",
    "CHECKPOINT is a Hugging Face folder",
    "quickstart, 10 minutes of training",
    "its autoencoder, held-out toy clips, 32 px",
    "64 px, 16 frames, one or two objects",
    "its autoencoder, 24 minutes",
    "the same autoencoder, 50 minutes of one core",
    "CLIP of the toy world",
    "the same after its long-prompt stage",
    "short captions in that stage",
    "letters drawn right on signs",
    "latents beyond 3 standard deviations",
    "codec of the toy world after 20 minutes",
    "the small codec on real sounds",
    "sound for held-out toy clips",
    "the same from the picture alone",
    "gaps of 1 s filled by it",
    "spectral-flux alarms",
    "real clips (20 cuts of six files)",
    "memory that a 720p video takes",
    "The speed beside PyTorch",
    "With the audio codec at its published size",
    "All that is to be measured on one CUDA GPU",
  ),
  "docs/outliers.md": (
    "mean | 0 |",
    "mean | 0.005 |",
    "mean | 0.05 |",
    "mean | 0.5 |",
    "sum | 1 |",
    "The penalty does what its formula says",
    "A weight of 1 beside a sum",
    "The paper's weight is too large",
    "Where no such content was",
    "Spots on real clips",
    "The shortcut that the paper describes",
  ),
  "docs/plans.md": (
    "MFU counts the model's FLOPs once",  # by the plans of 768 px 31 and 69 %, of others 25 and 75
    "Weights split over all three dimensions",  # of the mesh of 1,64,1,1 there is no plan
  ),
}
LEGACY_CURVES = {
  "codec_real", "codec_toy", "memory_720p", "soundtrack_tiny", "tae_real128", "tae_toy64",
}  # fmt: skip

# What prose says of plans: (file, phrase, plan in docs/plans/, where each number of it is found).
_30B = "t2v_768.py_{}_data.global_batch_{}"
_PEAK = ("memory/peak", "memory/limit")
_MFU = ("bound/mfu_scheduled", "devices")


def _chips(plan: Mapping[str, Any]) -> float:
  """A chip of tpu7x is two devices."""
  return plan["devices"] / (2 if plan["chip"] == "tpu7x" else 1)


def _sent_gb(plan: Mapping[str, Any]) -> float:
  return sum(item["sent_bytes"] for item in plan["collectives"]) / 1e9


PLANS: tuple[tuple[str, str, str, tuple[str | Callable, ...]], ...] = (
  ("README.md", "64 H200 (25 of 118 GiB)",
   _30B.format("h200_64_remat_full_mesh_1_8_1_8", 8), ("devices", *_PEAK)),
  ("README.md", "128 chips of v5p (19 of 95)",
   _30B.format("v5p_4x4x8_remat_full_mesh_1_16_1_8", 16), ("devices", *_PEAK)),
  ("README.md", "256 of v6e (17 of 31)",
   _30B.format("v6e_16x16_remat_full_mesh_1_32_1_8", 32), ("devices", *_PEAK)),
  ("README.md", "64 of tpu7x (24 of 95 for each of its 128 devices)",
   _30B.format("tpu7x_4x4x4_remat_full_mesh_1_16_1_8", 16), (_chips, *_PEAK, "devices")),
  ("README.md", "79 % on 512 chips of v5p", _30B.format(
    "v5p_8x8x8_mesh_1_64_4_2_remat_mlp_model.dit.context_parallel_ulysses", 64), _MFU),
  ("README.md", "80 % on 256 H200", _30B.format("h200_256_mesh_2_32_1_4_remat_mlp", 64), _MFU),
  ("README.md", "70 % on 64 chips of tpu7x", _30B.format(
    "tpu7x_4x4x4_mesh_1_16_4_2_remat_mlp_model.dit.context_parallel_ulysses", 16),
   (_MFU[0], _chips)),
  ("README.md", "63 % on 256 of v6e", _30B.format(
    "v6e_16x16_mesh_1_32_4_2_remat_full_model.dit.context_parallel_ulysses", 32), _MFU),
  ("docs/plans.md", "106 GB with",
   "soundtrack.py_v5p_4x4x4_remat_full_mesh_4_16_1_1_data.global_batch_256", (_sent_gb,)),
)  # fmt: skip

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


def unlinked(path: str, block: Block) -> list[str]:
  """Figures of a block that are no links."""
  bare = lambda text: _CODE.sub("", _LINK.sub("", text))  # noqa: E731
  text = block.text
  for file, phrase, *_ in PLANS:
    text = text.replace(phrase, "") if file == path else text
  if path == "README.md" and block.section == _TABLE and block.cells:
    if block.cells[0] == "what":
      return []
    return [match[0] for match in _NUMBER.finditer(bare(block.cells[1]))]
  if path == "docs/plans.md" and block.cells:  # made of docs/plans/ as a whole
    return []
  text = _VERSION.sub("", bare(text))
  alone = path == "README.md" and block.section == _TABLE  # where a decimal is a figure by itself
  return [
    match[0] for match in _NUMBER.finditer(text)
    if match[2] or _UNIT.match(text[match.end() :]) or alone and "." in match[1]
  ]  # fmt: skip


def complaints(path: str, text: str, records: Mapping[str, Any], legacy=()) -> list[str]:
  """What is wrong with the figures of a page, given the documents of JSON files by their paths."""
  found, left = [], list(legacy)
  for block in blocks(text):
    start = block.text.lstrip("|- ")
    told = [f"{path}: {start[:70]!r}: {text}" for text in _linked(path, block, records)]
    if bare := unlinked(path, block):
      if old := [entry for entry in left if start.startswith(entry)]:
        left.remove(old[0])
      else:
        told.append(f"{path}: {start[:70]!r}: {bare} are figures without a link to their JSON")
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


def _pages() -> list[str]:
  return ["README.md", *sorted(f"docs/{file.name}" for file in (_ROOT / "docs").glob("*.md"))]


def _records() -> dict[str, Any]:
  files = [*(_ROOT / "docs/figures").glob("*.json"), *(_ROOT / "docs/curves").glob("*.json")]
  return {
    file.relative_to(_ROOT).as_posix(): json.loads(file.read_text())
    for file in files if not (file.parent.name == "curves" and file.stem in LEGACY_CURVES)
  }  # fmt: skip


@pytest.mark.parametrize("path", _pages())
def test_figures_are_those_of_their_json(path):
  found = complaints(path, (_ROOT / path).read_text(), _records(), LEGACY.get(path, ()))
  assert not found, "\n" + "\n".join(found)


def test_every_json_is_a_figure_and_is_shown():
  shown = "".join((_ROOT / path).read_text() for path in _pages())
  for file, record in _records().items():
    assert not list(unfit(record)), file
    assert file.removesuffix(".json").removeprefix("docs/") in shown, f"no page shows {file}"
  for name in LEGACY_CURVES:
    assert "command" not in json.loads((_ROOT / f"docs/curves/{name}.json").read_text()), name


@pytest.mark.parametrize("path, phrase, plan, keys", PLANS, ids=[row[1] for row in PLANS])
def test_what_is_said_of_plans_is_what_they_hold(path, phrase, plan, keys):
  text = " ".join((_ROOT / path).read_text().split())
  assert phrase in text, f"{path} no longer says {phrase!r}; change PLANS with the text"
  values = json.loads((_ROOT / "docs/plans" / f"{plan}.json").read_text())
  assert list(wrong_numbers(phrase, values, keys)) == []


def test_the_page_of_plans_is_made_of_the_plans():
  folder = _ROOT / "docs/plans"
  page = plan_page.render(folder, (folder / "intro.md").read_text())
  assert (_ROOT / "docs/plans.md").read_text() == page, "run python launch/plans.py --limit=0"


_RECORD = {
  "command": "python launch/train.py --config=experiments/clip.py:tiny --workdir=runs/clip",
  "values": {"last": {"recall/long": 0.7213, "step": 12345}, "memory": [[2, 1.85], [4, 1.96]]},
  "versions": {"jax": "0.12.0.1"}, "machine": {"cpu": "x"}, "date": "2026-11-29",
  "commit": {"id": "a" * 40, "dirty": False},
}  # fmt: skip
_FILE = "docs/figures/clip.json"
_GOOD = """# A page

Of 48 kHz and `50 %`, no figure.

## Figures

| what | figure | command |
|---|---|---|
| CLIP, 500 steps, jax 0.12 | [72 %](docs/figures/clip.json#last/recall/long) | `ROW` |

Its sides are 2.

## More

It takes [1.85 GiB after 2 s, 1.96](docs/figures/clip.json#memory/0/1,memory/0/0,memory/-1/1).

- After [12,345](docs/figures/clip.json#last/step) steps.

```bash
taskset -c 0 python launch/train.py --config=experiments/clip.py:tiny \\
  --workdir=runs/clip --figure=docs/figures/clip.json   # as above
```
""".replace("ROW", _RECORD["command"])


def test_a_good_page_passes():
  assert complaints("README.md", _GOOD, {_FILE: _RECORD}) == []
  assert [len(block.cells) for block in blocks(_GOOD)] == [0, 3, 3, 3, 0, 0, 0]


@pytest.mark.parametrize(
  "old, new, words",
  [
    ("[72 %]", "[73 %]", "is 72.13, not 73"),
    ("[72 %]", "[72.0 %]", "is 72.130, not 72.0"),
    ("[72 %]", "[0.73]", "is 0.7213, not 0.73"),
    ("[72 %]", "[CLIP]", "0 numbers and 1 keys"),
    ("[72 %]", "[72 % and 3]", "2 numbers and 1 keys"),
    ("recall/long", "recall/short", "there is no last/recall/short"),
    ("#last/recall/long", "", "1 numbers and 0 keys"),
    ("#last/step", "#last", "no number"),
    ("[12,345]", "[12,346]", "not 12,346"),
    ("memory/-1/1", "memory/5/1", "there is no memory/5/1"),
    ("clip.json#last/step", "clap.json#last/step", "there is no docs/figures/clap.json"),
    ("clip.py:tiny --workdir=runs/clip` |", "clip.py --workdir=runs/clip` |", "beside it"),
    ("  --workdir=runs/clip --figure", "  --workdir=runs/clop --figure", "beside it"),
    ("jax 0.12", "jax 0.1", "is of jax 0.12.0.1, not 0.1"),
    ("jax 0.12", "torch 2.13", "is of torch None, not 2.13"),
    ("[72 %](docs/figures/clip.json#last/recall/long)", "72", "'72'] are figures without"),
    ("After", "At 30 dB, after", "['30'] are figures without a link"),
    ("Its sides are 2", "Its sides are 2.5", "['2.5'] are figures without a link"),
    ("no figure", "but 3 times as fast", "['3'] are figures without a link"),
  ],
)  # fmt: skip
def test_a_figure_that_is_not_that_of_its_json_is_told(old, new, words):
  assert old in _GOOD
  found = complaints("README.md", _GOOD.replace(old, new), {_FILE: _RECORD})
  assert any(words in line for line in found), found


def test_legacy_ends_when_the_figure_has_its_json():
  text = "## Old\n\nIt reached 27.1 dB.\n"
  assert complaints("README.md", text, {}, ("It reached",)) == []
  assert "'It reached' is legacy no more" in complaints("a.md", "## Old", {}, ("It reached",))[0]
  assert "without a link" in complaints("a.md", text + "\nIt got 3 dB.", {}, ("It reached",))[0]


def test_times_beside_peers_name_the_versions():
  record = _RECORD | {
    "command": "python launch/bench.py", "values": {"a": 0.7},
    "versions": {"jax": "0.12.0", "torch": "2.13.0+cpu"},
  }  # fmt: skip
  text = "## A\n\n{} [0.7](docs/figures/b.json#a) by `python launch/bench.py`.\n"
  check = lambda words: complaints("README.md", text.format(words), {"docs/figures/b.json": record})  # noqa: E731
  assert check("jax 0.12.0 and torch 2.13") == check("jax 0.12 and torch 2.13.0") == []
  assert "without the version of torch" in check("jax 0.12")[0]


def test_a_json_that_cannot_be_made_again_is_told():
  assert list(unfit(_RECORD)) == []
  changed = [
    {"commit": None}, {"commit": {"id": "a", "dirty": True}}, {"values": {}},
    {"command": "python launch/train.py --workdir=/tmp/x"}, {"values": {"video": "/data/a.mp4"}},
    {"values": {"tae_encode": {"mg_jax": {"foreign": [0.01, 0.4, None]}}}},
  ]  # fmt: skip
  found = [next(unfit(_RECORD | change), "") for change in changed]
  assert [bool(words) for words in found] == [True] * len(changed), found
