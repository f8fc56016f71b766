"""The table of the oracle of looks, and the command that prints it."""

import json

from mg_jax.world.oracles.validation_looks import validate
from mg_jax.world.scene.sampling import WorldConfig


def test_rows_of_clean_and_shuffled_clips(capsys):
  rows = validate(WorldConfig.looks(), n=40, frames=8, degradations=("clean",))
  assert min(rows["clean"].values()) >= 0.95
  assert rows["shuffled"]["background"] < 0.3 and rows["shuffled"]["all"] < 0.2
  assert "shuffled" in capsys.readouterr().out


def test_the_command_measures_looks_where_they_vary(tmp_path, run_main):
  run_main("oracles", "--world=looks", "--count=3", "--size=64", f"--out={tmp_path}")
  kept = json.loads((tmp_path / "oracles.json").read_text())["accuracy"]
  assert set(kept) == {"pictures", "looks"} and "style" in kept["looks"]["clean"]
