"""Renders docs/plans.md: plans every recipe of the paper for pods, without them, one at a time.

python launch/plans.py --only=h200

Existing plans are kept, so the command can be stopped and run again; the page is rewritten after
each plan. A plan takes from half a minute to some minutes.
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.plan import page as plan_page

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = flags.DEFINE_string("folder", "docs/plans", "Folder of plans as JSON.")
_PAGE = flags.DEFINE_string("page", "docs/plans.md", "Page to write.")
_ONLY = flags.DEFINE_string("only", "", "Plan only rows with these words in their arguments.")
_QUICK = flags.DEFINE_bool("quick", False, "Plan TPUs with --quick, see launch/plan.py.")
_LIMIT = flags.DEFINE_integer("limit", 1000, "Maximal number of plans to compute now.")


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  folder, page = _ROOT / _FOLDER.value, _ROOT / _PAGE.value
  folder.mkdir(parents=True, exist_ok=True)
  words, failed = _ONLY.value.split(), 0
  rows = [
    row
    for row in plan_page.missing(folder)
    if all(word in " ".join(row.arguments) for word in words)
  ]
  for row in rows[: _LIMIT.value]:
    file = plan_page.path(folder, row)
    if file.is_file():  # Written by another process meanwhile.
      continue
    command = [sys.executable, str(_ROOT / "launch/plan.py"), *row.arguments, f"--json={file}"]
    if _QUICK.value and "cuda" not in " ".join(row.arguments):
      command.append("--quick")
    print(" ".join(command[1:]), flush=True)
    # One process per plan: a compiler does not free its memory, and may crash its process.
    failed += subprocess.run(command, cwd=_ROOT).returncode not in (0, 1)
    page.write_text(plan_page.render(folder, (folder / "intro.md").read_text()))
  page.write_text(plan_page.render(folder, (folder / "intro.md").read_text()))
  return 1 if failed else 0


if __name__ == "__main__":
  # Programs for devices that are not attached cannot be read from the cache.
  config.run(main, cached=False)
