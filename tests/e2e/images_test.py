"""Every stage that looks at still images trains on a folder of them, its recipe left as it is."""

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data.media.video import write_video
from mg_jax.data.sources.recipe import latent_sources
from mg_jax.stages import experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SIDE, FRAMES = 16, 4
WIDTH = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  """Folders of images and of clips with captions, each with a file that cannot be used."""
  root = tmp_path_factory.mktemp("media")
  for name in ("images", "clips"):
    (root / name).mkdir()
  noise = np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)
  for k, suffix in enumerate([".png", ".jpg", ".webp", ".png", ".jpeg", ".png"]):
    Image.fromarray(noise[k]).save(root / "images" / f"image{k}{suffix}")
    (root / "images" / f"image{k}.txt").write_text(f"image {k}")
  for k in range(3):
    write_video(root / "clips" / f"clip{k}.mp4", np.concatenate([noise, noise[::-1]]), fps=8.0)
    (root / "clips" / f"clip{k}.txt").write_text(f"clip {k}")
  for name in ("images/bad.png", "clips/bad.mp4"):
    (root / name).write_text("nothing that could be decoded")
    (root / name).with_suffix(".txt").write_text("a caption")
  return root


def _config(name, root, media, **data):
  """The tiny config of a stage with a network of next to nothing."""
  arg = "tiny" if name == "clip" else f"tiny,size={SIDE},frames={FRAMES}"
  config = importlib.import_module(f"experiments.{name}").get_config(arg)
  config.mesh = (1, 1, 1, 1)
  config.data.update(
    source="folder", images=str(media / "images"), cache=str(root / "toy"), global_batch=2,
    holdout="none",
  )  # fmt: skip
  config.data.update(data)
  config.train.update(steps=2, log_every=1)
  config.eval.update(batch=2)
  if name.startswith("tae"):
    config.model.update(
      channels=4, multipliers=(1,), patch=(1, 4, 4), latent=2, groups=2, attention=False,
      shortcut=False,
    )  # fmt: skip
  elif name == "clip":
    for tower in (config.model.text, config.model.vision):
      tower.update(width=16, layers=1, heads=2, mlp_dim=16, projection=8)
    config.model.vision.update(size=SIDE, patch=8)
    config.data.update(height=SIDE, width=SIDE)
  else:
    config.autoencoder = str(root / "tae_image")
    config.model.dit.update(WIDTH, channels=2, patch=(1, 1, 1), max_thw=(FRAMES, 4, 4))
    config.model.dit.routes.text.features = 16
    config.model.encoders.text.update(WIDTH, head_dim=8)
    config.sampling.update(steps=2)
    config.eval.update(previews=1)
  return configs.to_dict(config)


def _train(config, workdir):
  """Runs it; returns the steps that were measured and the files that were rejected."""
  result = experiment.run(config, str(workdir))
  assert (result.status, result.step) == ("finished", 2)
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  losses = [v for line in lines for k, v in line.items() if k.endswith("loss")]
  assert losses and np.isfinite(losses).all()
  report = (workdir / "rejected.jsonl").read_text().splitlines()
  return {row["file"]: row["reason"] for row in map(json.loads, report)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, media):
  """A folder with the run of an image autoencoder on the images."""
  root = tmp_path_factory.mktemp("runs")
  rejected = _train(_config("tae_image", root, media), root / "tae_image")
  assert rejected == {"bad.png": "unreadable"}
  assert not (root / "toy").exists()
  return root


def test_text_to_image(runs, media):
  config = _config("t2i_256", runs, media)
  assert config["data"]["path"] == "" and config["data"]["video_weight"] == 0
  assert _train(config, runs / "t2i") == {"bad.png": "unreadable"}
  source = latent_sources(runs / "t2i" / "latents", "train", "image")[f"1x{SIDE}x{SIDE}"]
  assert len(source) == 6 and source[5]["captions"] == ["image 5"]
  assert (runs / "t2i" / "previews" / "step-0000002.png").is_file()


def test_images_and_clips_together(runs, media):
  config = _config(
    "t2v_256", runs, media, path=str(media / "clips"), image_weight=1, video_weight=1,
    image_batch=4,
  )  # fmt: skip
  rejected = _train(config, runs / "t2v")
  assert rejected == {"bad.mp4": "unreadable", "bad.png": "unreadable"}
  for kind, bucket, count in (("image", 1, 6), ("video", FRAMES, 12)):
    source = latent_sources(runs / "t2v" / "latents", "train", kind)[f"{bucket}x{SIDE}x{SIDE}"]
    assert len(source) == count, "four windows of each clip"
  # Both kinds have been drawn in two steps.
  lines = (runs / "t2v" / "metrics.jsonl").read_text().splitlines()
  assert sum("time/samples_per_second" in line for line in lines) == 2
  # A phase with another batch goes on in the same workdir.
  config["data"]["global_batch"], config["train"]["steps"] = 4, 3
  assert experiment.run(config, str(runs / "t2v")).step == 3


def test_contrastive(runs, media):
  config = _config("clip", runs, media, captions="all")
  assert (config["data"]["video_weight"], config["data"]["image_weight"]) == (1, 0)
  assert _train(config, runs / "clip") == {"bad.png": "unreadable"}


def test_the_toy_world_with_images_of_its_own(runs, media):
  config = _config(
    "tae_image", runs, media, source="toy", clips=4, held_out=2, video_weight=1, holdout="file"
  )
  assert _train(config, runs / "toy_tae") == {"bad.png": "unreadable"}
  assert (runs / "toy").is_dir()


def test_a_folder_of_images_given_as_clips_says_what_it_holds(runs, media):
  config = _config("tae_image", runs, media, images="", path=str(media / "images"))
  with pytest.raises(UserError, match=r"has no video; .* it has 1 \.jpeg, 1 \.jpg, 4 \.png"):
    experiment.run(config, str(runs / "none"))
