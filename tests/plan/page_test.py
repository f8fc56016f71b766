"""The page of plans: every row is a command that can be given, and the page is what is there."""

import dataclasses
import importlib
import json
from pathlib import Path

from experiments import t2v_256, t2v_768
from mg_jax.core import config as configs
from mg_jax.core.topology import check_exists
from mg_jax.plan.page import ROWS, Row, missing, path, render
from mg_jax.plan.training import abstract_training
from tests.plan.report_test import PLAN
from tests.train.tiny import NAMES

_ROOT = Path(__file__).resolve().parents[2]
ROW = Row("Here", "tae.py", "v5p:4x4x4 x 2", "--remat=full --mesh=2,1,1,1")
GPU = Row("There", "tae.py", "h200:64", "--what=decode")


def test_a_row_is_a_command():
  assert ROW.arguments == [
    "--config=experiments/tae.py", "--topology=v5p:4x4x4", "--slices=2", "--remat=full",
    "--mesh=2,1,1,1",
  ]  # fmt: skip
  assert GPU.arguments[1:5] == ["--platform=cuda", "--target=h200", "--gpus=64", "--hosts=8"]
  assert ROW.name == "tae.py_v5p_4x4x4_x_2_remat_full_mesh_2_1_1_1"


def _recipe(row):
  """Experiment and argument of a row."""
  name, _, arg = row.config.partition(":")
  return name.removesuffix(".py"), arg


def test_rows_have_names_of_their_own_and_places_that_there_are():
  assert len({row.name for row in ROWS}) == len(ROWS)
  for row in ROWS:
    assert (_ROOT / "experiments" / f"{_recipe(row)[0]}.py").is_file()
    chip, _, shape = row.where.partition(":")
    if chip in ("h100", "h200"):
      assert int(shape) % 8 == 0 or int(shape) == 1
    else:
      check_exists(row.where.partition(" x ")[0])


def test_every_recipe_has_a_row_as_committed_on_a_tpu_and_on_a_gpu():
  committed = [row for row in ROWS if not row.rest]
  for recipe in NAMES:
    chips = {row.where.partition(":")[0] for row in committed if _recipe(row)[0] == recipe}
    assert {"h200", "v5p"} <= chips, recipe


def test_every_phase_that_changes_the_program_has_a_row():
  for name, phases in (("t2v_256", t2v_256.PHASES), ("t2v_768", t2v_768.PHASES)):
    rows = [_recipe(row)[1] or "phase=1" for row in ROWS if _recipe(row)[0] == name]
    programs = {}
    for phase in phases:
      config = importlib.import_module(f"experiments.{name}").get_config(f"phase={phase}")
      programs.setdefault((config.data.global_batch, tuple(config.mesh)), []).append(phase)
    for same in programs.values():
      assert any(f"phase={phase}" in rows for phase in same), (name, same)


def test_batches_divide_over_their_meshes():
  for row in ROWS:
    sizes = [a.removeprefix("--mesh=") for a in row.arguments if a.startswith("--mesh=")]
    batch = [a.partition("global_batch=")[2] for a in row.arguments if "global_batch=" in a]
    if sizes and batch:
      data, fsdp, _, _ = map(int, sizes[0].split(","))
      assert int(batch[0]) % (data * fsdp) == 0, row
    name, arg = _recipe(row)
    config = importlib.import_module(f"experiments.{name}").get_config(arg or None)
    if "--what=" not in row.rest:
      assert abstract_training(configs.to_dict(config))[1]


def test_the_page_is_what_is_there(tmp_path):
  rows = (ROW, GPU)
  assert missing(tmp_path, rows) == [ROW, GPU]
  path(tmp_path, GPU).write_text(json.dumps({**PLAN, "what": "decode", "topology": "h200:64"}))
  assert missing(tmp_path, rows) == [ROW]
  page = render(tmp_path, "# Plans\n", rows)
  assert page.startswith("# Plans\n\n## There\n\n| pod |") and "## Here" not in page
  assert "| tae, decode on h200:64 | 128 |" in page
  assert "## Not planned yet\n\n- `tae.py` on v5p:4x4x4 x 2: `--remat=full" in page
  path(tmp_path, ROW).write_text(json.dumps(PLAN))
  both = render(tmp_path, "# Plans\n", rows)
  assert both.index("## Here") < both.index("## There") and "Not planned" not in both


def test_rows_of_several_recipes_name_theirs(tmp_path):
  other = dataclasses.replace(ROW, config="dacvae.py")
  for row in (ROW, other):
    path(tmp_path, row).write_text(json.dumps({**PLAN, "topology": "v5p:4x4x4"}))
  page = render(tmp_path, "# Plans\n", (ROW, other))
  assert "| tae on v5p:4x4x4 | 128 |" in page and "| dacvae on v5p:4x4x4 | 128 |" in page
  assert "| v5p:4x4x4 | 128 |" in render(tmp_path, "# Plans\n", (ROW,))


def test_committed_plans_are_those_of_rows():
  files = {file.stem for file in (_ROOT / "docs/plans").glob("*.json")}
  assert files and files <= {row.name for row in ROWS}
