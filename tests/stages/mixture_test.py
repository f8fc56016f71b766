"""A mixture of data sets with a condition of its own: from the config to a generated clip."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mg_jax.inference.load import load_text_to_video
from mg_jax.models.inputs import open_conditions
from mg_jax.stages import experiment
from mg_jax.train.writer import FILE as METRICS
from tests.train import tiny

FACE = {
  "kind": "image", "size": 4, "constant": "face.png",
  "encoder": {"size": 4, "patch": 4, "width": 8, "layers": 1, "heads": 1, "mlp_dim": 8},
  "route": {"kind": "cross", "features": 8},
}  # fmt: skip
STYLE = {"kind": "class_id", "classes": 3, "route": {"kind": "modulate", "classes": 3}}


@pytest.fixture
def pictures(tmp_path):
  """Three pictures, of which the last has no style."""
  folder, rows = tmp_path / "pictures", []
  folder.mkdir()
  for k in range(3):
    Image.new("RGB", (16, 16), (80 * k, 0, 0)).save(folder / f"{k}.png")
    rows.append({"file": f"{k}.png", "caption": "red"} | ({"style": k} if k < 2 else {}))
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder)


def test_clips_of_one_world_and_pictures_of_a_folder_train_a_condition(tmp_path, pictures):
  mixture = {
    "toy": {"weight": 2, "constants": {"style": 2}},
    "own": {"images": pictures, "image_weight": 1, "video_weight": 0, "holdout": "none"},
  }
  tae = tiny.tae(tmp_path, mixture=mixture)
  config = tiny.t2v(tmp_path, mixture=mixture) | {"conditions": {"style": STYLE}}
  tae["eval"]["previews"] = config["eval"]["previews"] = 0
  experiment.run(tae, str(tmp_path / "tae"))
  config["train"]["steps"] = 3
  config["objective"]["drop"] = {"text": 0.0, "style": 0.0}
  assert experiment.run(config, str(tmp_path / "t2v")).step == 3
  lines = [json.loads(line) for line in (tmp_path / "t2v" / METRICS).read_text().splitlines()]
  assert any("eval/fm_loss" in name for line in lines for name in line)
  pipeline = load_text_to_video(tmp_path / "t2v")
  learned = pipeline.params["dit"]["conditioner"]["style_modulate"]
  table = np.asarray(learned["table"])
  assert table[2].any() and table[:2].any(), "styles of a constant and of captions were trained"
  learned["table"] = np.random.default_rng(0).normal(size=table.shape).astype(np.float32)
  clips = [
    pipeline(["a star"], seeds=[0], given=[given], guidance=1.0)
    for given in ({}, {"style": 0}, {"style": 1})
  ]
  assert all((a != b).any() for i, a in enumerate(clips) for b in clips[:i])


def test_the_config_of_a_run_holds_the_files_of_constants(tmp_path, monkeypatch):
  """Sampling depends neither on the current directory nor on the files."""
  stub = SimpleNamespace(
    objective=None, hooks=(), preprocess=None, feed=SimpleNamespace(stream=lambda **_: None)
  )
  monkeypatch.setattr(experiment, "build", lambda config, *_: stub)
  monkeypatch.setattr(experiment, "step_flops", lambda *_: 0.0)
  monkeypatch.setattr(experiment, "train", lambda *_, description, **__: description)
  monkeypatch.chdir(tmp_path)
  Image.new("RGB", (4, 4), (0, 200, 0)).save("face.png")
  config = tiny.t2v(tmp_path) | {"conditions": {"face": FACE}}
  saved = json.loads(json.dumps(experiment.run(config, str(tmp_path / "t2v"))))
  (tmp_path / "face.png").unlink()
  assert (open_conditions(saved)["face"].value == (0, 200, 0)).all()
