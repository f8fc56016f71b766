"""README.md and docs/ say what their JSON files hold; `tests/pages.py` has the rules."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mg_jax.plan import page as plan_page
from tests.pages import blocks, complaints, unfit, wrong_numbers

_ROOT = Path(__file__).resolve().parents[1]

# Beginnings of what stands without a JSON still, being older than `--figure`. Take out what is made
# anew or deleted; nothing may be added.
LEGACY: dict[str, tuple[str, ...]] = {
  "README.md": (
    "100 % | 98 % | 84 % | 47 %",
    "Shapes are the hard part at 32 px",
  ),
  "docs/encoders.md": (
    "CHECKPOINT is a Hugging Face folder",
  ),
  "docs/figures.md": (
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
    "The speed against PyTorch",
    "With the audio codec at its published size",
    "All measurements on one CUDA GPU",
  ),
  "docs/outliers.md": (
    "mean | 0 |",
    "mean | 0.005 |",
    "mean | 0.05 |",
    "mean | 0.5 |",
    "sum | 1 |",
    "The penalty does what its formula says",
    "A weight of 1 with a sum",
    "The paper's weight is too large",
    "Where no such content was",
    "Spots on real clips",
    "The shortcut that the paper describes",
  ),
  "docs/plans.md": (
    "Weights split over all three dimensions",  # of the mesh of 1,64,1,1 there is no plan
  ),
}
LEGACY_CURVES = {
  "codec_real", "codec_toy", "memory_720p", "soundtrack_tiny", "tae_real128", "tae_toy64",
}  # fmt: skip

# What prose says of plans: (file, phrase, plan in docs/plans/, where each number of it is found).
_30B = "t2v_768.py_{}_data.global_batch_{}"
_PEAK = ("memory/peak", "memory/limit")


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
  ("docs/plans.md", "106 GB with",
   "soundtrack.py_v5p_4x4x4_remat_full_mesh_4_16_1_1_data.global_batch_256", (_sent_gb,)),
)  # fmt: skip


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
  held = [phrase for file, phrase, *_ in PLANS if file == path]
  text, legacy = (_ROOT / path).read_text(), LEGACY.get(path, ())
  found = complaints(path, text, _records(), legacy=legacy, held=held)
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


def test_phrases_that_are_held_elsewhere_need_no_link():
  text = "## A\n\nIt fits (25 of 118 GiB), and takes 3 GiB.\n"
  (told,) = complaints("a.md", text, {}, held=["25 of 118 GiB"])
  assert "['3'] are figures" in told


def test_legacy_ends_when_the_figure_has_its_json():
  text = "## Old\n\nIt reached 27.1 dB.\n"
  check = lambda text: complaints("a.md", text, {}, legacy=["It reached"])  # noqa: E731
  assert check(text) == []
  assert "'It reached' is legacy no more" in check("## Old")[0]
  assert "without a link" in check(text + "\nIt got 3 dB.")[0]


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
