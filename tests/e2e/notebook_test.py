"""The package as a notebook uses it: plain Python, no command line, no flags parsed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _python(folder, program):
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)],
    capture_output=True, text=True, timeout=280, cwd=folder,
    env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr and "UnparsedFlag" not in done.stderr
  return done.stdout


def test_data_are_built_by_processes_and_read_by_threads(tmp_path):
  out = _python(tmp_path, """
    from absl import flags
    from mg_jax.data.sources import recipe, toy, toy_records
    from mg_jax.data.sources.clip_config import DataConfig

    toy._WORTH_PIXELS = 0  # start processes even for a handful of clips
    config = DataConfig(clips=5, held_out=2, frames=2, height=16, width=16, global_batch=2)
    stored = toy_records.build(recipe.toy_recipe(config), "data", processes=2)
    train = recipe.open_sources(config, "train")["2x16x16"]
    stream = recipe.clip_feed(config).stream(threads=2)
    shapes = {next(stream)["video"].shape for _ in range(6)}
    stream.close()
    print(len(train), train[4].caption != "", shapes, flags.FLAGS.is_parsed())
  """)  # fmt: skip
  assert out.splitlines()[-1] == "5 True {(2, 2, 16, 16, 3)} False"


def test_loader_processes_feed_a_stream(tmp_path):
  out = _python(tmp_path, """
    import numpy as np
    from mg_jax.data.sources import recipe
    from mg_jax.data.sources.clip_config import DataConfig

    config = DataConfig(clips=5, held_out=2, frames=2, height=16, width=16, global_batch=2)
    feed = recipe.clip_feed(config)
    streams = [feed.stream(workers=1), feed.stream(threads=0)]
    same = all(
      np.array_equal(*(next(stream)["video"] for stream in streams)) for _ in range(3)
    )
    for stream in streams:
      stream.close()
    del stream, streams
    print(same)
  """)  # fmt: skip
  assert out.splitlines()[-1] == "True"


@pytest.mark.slow
def test_an_experiment_trains_and_samples(tmp_path):
  out = _python(tmp_path, """
    from absl import flags
    from experiments import t2v_256, tae
    from mg_jax.stages import experiment
    from mg_jax.inference.load import load_text_to_video

    def small(config):
      config.data.update(clips=4, held_out=2, global_batch=2)
      config.train.update(steps=1)
      config.eval.update(batch=2, previews=0)
      return config

    autoencoder = small(tae.get_config("tiny,size=16,frames=4"))
    autoencoder.model.update(
      channels=4, multipliers=(1,), groups=2, attention=False, shortcut=False
    )
    print(experiment.run(autoencoder, "runs/tae").status)
    generator = small(t2v_256.get_config("tiny,size=16,frames=4"))
    generator.autoencoder = "runs/tae"
    width = {"width": 16, "layers": 1, "heads": 1, "mlp_dim": 16}
    generator.model.dit.update(width)
    generator.model.dit.routes.text.features = 16
    generator.model.encoders.text.update(width, head_dim=8)
    generator.data.image_weight = 0
    generator.sampling.steps = 2
    print(experiment.run(generator, "runs/t2v").status)
    pipeline = load_text_to_video("runs/t2v")
    print(pipeline(["a red star moves left"], seeds=[3]).shape, flags.FLAGS.is_parsed())
  """)  # fmt: skip
  assert out.splitlines()[-3:] == ["finished", "finished", "(1, 4, 16, 16, 3) False"]
