"""The page of plans, docs/plans.md: every paper-size recipe on TPUs and GPUs.

A row is a name and the arguments of `launch/plan.py`; its plan is a JSON file in a folder, so the
page is rendered from the existing plans and an interrupted run continues with the missing ones.
"""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from mg_jax.plan import report as plan_report


@dataclasses.dataclass(frozen=True)
class Row:
  """A plan of the page.

  Attributes:
    section: heading.
    config: file of experiments/, with its argument after a colon.
    where: "v5p:4x4x8", "v5p:16x16x24 x 1", or "h200:64".
    rest: the other arguments.
  """

  section: str
  config: str
  where: str
  rest: str

  @property
  def name(self) -> str:
    """Name of its file."""
    text = f"{self.config} {self.where} {self.rest}".replace("--", "").replace("config.", "")
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text).strip("_")

  @property
  def arguments(self) -> list[str]:
    """Arguments of `launch/plan.py`."""
    chip, _, shape = self.where.partition(":")
    if chip in ("h100", "h200"):
      hosts = max(1, int(shape) // 8)
      place = ["--platform=cuda", f"--target={chip}", f"--gpus={shape}", f"--hosts={hosts}"]
    else:
      topology, _, slices = self.where.partition(" x ")
      place = [f"--topology={topology}"] + ([f"--slices={slices}"] if slices else [])
    return [f"--config=experiments/{self.config}", *place, *shlex.split(self.rest)]


def _committed(config: str, *places: str) -> list[Row]:
  return [Row(_COMMITTED, config, where, "") for where in places]


def _rows(section: str, config: str, *pairs: tuple[str, str], common: str = "") -> list[Row]:
  return [Row(section, config, where, f"{common} {rest}".strip()) for where, rest in pairs]


_BATCH = "--config.data.global_batch="
_ULYSSES = "--config.model.dit.context_parallel=ulysses"
_FULL = "--remat=full"
_COMMITTED = "The recipes as committed"
_AUTOENCODERS = "Autoencoders, a training step"
_SOUND = "Sound for video, 30 s: 750 tokens"

# Over all of a three-dimensional torus the TPU compiler turns all-gathers of weights into
# all-reduces, which send twice as much: without other axes, weights are split over two dimensions.
ROWS: tuple[Row, ...] = (
  *_committed("t2i_256.py", "h200:1536", "v5p:8x12x16"),
  *_committed("t2v_256.py", "h200:3072", "v5p:12x16x16"),
  *_committed("t2v_256.py:phase=2", "h200:6144", "v5p:16x16x24"),
  # Phase 2 differs from phase 1 only in its learning rate.
  *_committed("t2v_768.py", "h200:6144", "v5p:16x16x24"),
  *_committed("t2v_768.py:phase=3", "h200:6144", "v5p:16x16x24"),
  *_committed("t2v_768.py:phase=4", "h200:4096", "v5p:16x16x16"),
  *_committed("t2v_sft.py", "h200:512", "v5p:8x8x8"),
  *_committed("t2i_1024.py", "h200:512", "v5p:8x8x8"),
  *_committed("t2i_1024_tune.py", "h200:64", "v5p:4x4x4"),
  *_committed("ablation_t2i.py", "h200:512", "v5p:8x8x8"),
  *_committed("ablation_t2v.py", "h200:512", "v5p:8x8x8"),
  *_committed("tae_image.py", "h200:64", "v5p:4x4x4"),
  *_committed("tae.py", "h200:64", "v5p:4x4x4"),
  *_committed("tae_gan.py", "h200:64", "v5p:4x4x4"),
  *_committed("dacvae.py", "h200:8", "v5p:2x2x1"),
  *_committed("clip.py", "h200:512", "v5p:8x8x8"),
  *_committed("clip_long.py", "h200:512", "v5p:8x8x8"),
  *_committed("soundtrack.py", "h200:384", "v5p:4x8x12"),
  *_committed("soundtrack_finetune.py", "h200:64", "v5p:4x4x4"),
  *_rows(
    "Text to video at 768 px, 73,920 tokens: where it fits", "t2v_768.py",
    ("h200:64", f"--mesh=1,8,1,8 {_BATCH}8"),
    ("v5p:4x4x8", f"--mesh=1,16,1,8 {_BATCH}16"),
    ("v6e:16x16", f"--mesh=1,32,1,8 {_BATCH}32"),
    ("tpu7x:4x4x4", f"--mesh=1,16,1,8 {_BATCH}16"),
    common=_FULL,
  ),
  *_rows(
    "Text to video at 768 px: weak scaling, one clip for every eight devices", "t2v_768.py",
    ("h200:256", f"--mesh=1,32,1,8 {_BATCH}32"),
    ("h200:1024", f"--mesh=1,128,1,8 {_BATCH}128"),
    ("v5p:8x8x8", f"--mesh=1,64,1,8 {_BATCH}64"),
    ("v5p:8x16x16", f"--mesh=1,256,1,8 {_BATCH}256"),
    ("v5p:16x16x24", f"--mesh=1,768,1,8 {_BATCH}768"),
    ("v5p:8x8x8 x 12", f"--mesh=12,64,1,8 {_BATCH}768"),
    common=_FULL,
  ),
  *_rows(
    "Text to video at 768 px: other splits and policies", "t2v_768.py",
    ("h200:256", f"--mesh=1,64,1,4 --remat=attention {_BATCH}64"),
    ("h200:256", f"--mesh=1,32,2,4 --remat=attention {_BATCH}32"),
    ("h200:256", f"--mesh=1,64,1,4 --remat=full {_BATCH}64"),
    ("v5p:8x8x8", f"--mesh=1,128,1,4 --remat=full {_BATCH}128"),
    ("v5p:8x8x8", f"--mesh=1,128,1,4 --remat=attention {_BATCH}128"),
  ),
  *_rows(
    "Text to video at 768 px: what `--search` finds", "t2v_768.py",
    ("h200:256", f"--mesh=2,32,1,4 --remat=mlp {_BATCH}64"),
    ("v5p:8x8x8", f"--mesh=1,64,4,2 --remat=mlp {_ULYSSES} {_BATCH}64"),
    ("v6e:16x16", f"--mesh=1,32,4,2 --remat=full {_ULYSSES} {_BATCH}32"),
    ("tpu7x:4x4x4", f"--mesh=1,16,4,2 --remat=mlp {_ULYSSES} {_BATCH}16"),
  ),
  *_rows(
    "Text to video at 256 px", "t2v_256.py",
    ("h200:64", f"--mesh=1,16,1,4 {_BATCH}32"),
    ("v5p:4x4x8", f"--mesh=1,32,1,4 {_BATCH}64"),
    ("v6e:16x16", f"--mesh=1,64,1,4 {_BATCH}128"),
    ("tpu7x:4x4x4", f"--mesh=1,32,1,4 {_BATCH}64"),
    common=_FULL,
  ),
  *_rows(
    _AUTOENCODERS, "tae_image.py",
    ("h200:8", ""), ("v5p:2x4x4", ""), ("v6e:4x8", ""), ("tpu7x:2x2x4", ""),
  ),
  *(
    row
    for config in ("tae.py", "tae_gan.py")
    for row in _rows(
      _AUTOENCODERS, config, ("h200:8", "--config.train.accumulate=8"), ("v5p:2x4x4", ""),
      ("v6e:4x8", "--config.train.accumulate=2"), ("tpu7x:2x2x4", ""),
    )
  ),
  *_rows(
    _AUTOENCODERS, "dacvae.py",
    ("v6e:2x4", ""), ("tpu7x:2x2x1", ""),
  ),
  *_rows(
    "CLIP with long prompts, a training step", "clip_long.py",
    ("h200:64", "--config.train.accumulate=8"), ("v5p:4x4x8", "--config.train.accumulate=4"),
    ("v6e:16x16", "--config.train.accumulate=8"), ("tpu7x:4x4x4", "--config.train.accumulate=4"),
  ),
  *_rows(
    _SOUND, "soundtrack.py",
    ("h200:64", f"--mesh=1,64,1,1 {_BATCH}512"),
    ("h200:256", f"--mesh=4,64,1,1 {_BATCH}2048"),
    ("v5p:4x4x4", f"--mesh=4,16,1,1 {_BATCH}256"),
    ("v5p:4x4x4", "--mesh=4,16,1,1 --config.train.accumulate=4"),
    ("v6e:16x16", f"--mesh=1,256,1,1 {_BATCH}1536"),
    ("tpu7x:4x4x4", f"--mesh=8,16,1,1 {_BATCH}512"),
    common=_FULL,
  ),
  *_rows(
    _SOUND, "soundtrack_finetune.py",
    ("h200:64", "--mesh=1,64,1,1"), ("v5p:4x4x4", "--mesh=4,16,1,1"),
    ("v6e:16x16", "--mesh=1,256,1,1"), ("tpu7x:4x4x4", "--mesh=8,16,1,1"),
    common=_FULL,
  ),
  *_rows(
    "Sampling: one guided step of 256 frames at 768 px", "t2v_768.py",
    ("h200:8", "--mesh=1,2,1,4"), ("v5p:2x2x1", "--mesh=1,1,1,4"),
    ("v5p:2x2x4", "--mesh=1,2,1,8"), ("v6e:4x8", "--mesh=1,2,2,8"),
    ("tpu7x:2x2x4", "--mesh=1,2,2,8"),
    common="--what=sample",
  ),
  *(
    row
    for what in ("encode", "decode")
    for row in _rows(
      "Autoencoder: 256 frames of 768 x 768", "tae.py", ("h200:1", ""), ("v5p:2x2x1", ""),
      common=f"--what={what} --frames=256 --height=768 --width=768",
    )
  ),
  *_rows(
    "Autoencoder, frame by frame: 256 frames of 1080 x 1920 decoded", "tae_image.py",
    ("h200:1", ""), ("v5p:2x2x1", ""),
    common="--what=decode --frames=256 --height=1080 --width=1920",
  ),
)  # fmt: skip


def missing(folder: pathlib.Path, rows: Sequence[Row] = ROWS) -> list[Row]:
  """Rows without a plan in the folder."""
  return [row for row in rows if not path(folder, row).is_file()]


def path(folder: pathlib.Path, row: Row) -> pathlib.Path:
  """Path of a row's plan."""
  return folder / f"{row.name}.json"


def render(folder: pathlib.Path, intro: str, rows: Sequence[Row] = ROWS) -> str:
  """The page from the existing plans; rows without one are listed at its end."""
  lines, heading = [intro.rstrip()], ""
  for row in rows:
    file = path(folder, row)
    if not file.is_file():
      continue
    plan: dict[str, Any] = json.loads(file.read_text())
    if row.section != heading:
      heading = row.section
      columns = plan_report.ROW_HEAD.count("|") - 1
      lines += ["", f"## {heading}", "", f"{plan_report.ROW_HEAD}", "|---" * columns + "|"]
    several = any(r.config != row.config for r in rows if r.section == row.section)
    lines.append(_line(plan, row, named=several))
  left = missing(folder, rows)
  if left:
    lines += ["", "## Not planned yet", ""]
    for row in left:
      how = f"`{row.rest}`" if row.rest else "as committed"
      lines.append(f"- `{row.config}` on {row.where}: {how}")
  return "\n".join(lines) + "\n"


def _line(plan: dict[str, Any], row: Row, *, named: bool) -> str:
  text = plan_report.row(plan)
  coded = plan["what"] in ("encode", "decode")
  if not (named or coded):
    return text
  which = row.config.replace(".py:phase=", ", phase ").removesuffix(".py")
  which += f", {plan['what']}" if coded else ""
  return text.replace(f"| {plan['topology']}", f"| {which} on {plan['topology']}", 1)
