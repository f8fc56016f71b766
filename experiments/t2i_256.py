"""Text to image at 256 px, the first stage of the generator [MG 3.2.2, Table 3].

Every later stage of the generator derives from this config. `:tiny` trains on single frames of the
toy world. The autoencoder's workdir is given with `--config.autoencoder=DIR`, the folders of the
frozen text encoders with `--config.text.ul2.encoder=DIR` and so on (`launch/convert.py`).

Images are square, and position tables have one row per token of a side: tables grow two-fold in the
joint stage, which adds other aspect ratios, and three-fold at 768 px. The table of time has one
row, which that stage repeats for every latent frame.
"""

from ml_collections import ConfigDict

from experiments import tae_image
from mg_jax.core.config import parse_arg, section
from mg_jax.data.sources.clip_config import DataConfig
from mg_jax.data.text.readers import TextConfig
from mg_jax.models import zoo
from mg_jax.objectives.flow_matching import FlowMatching
from mg_jax.sampling.settings import Settings
from mg_jax.stages.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig

# [MG 3.1.4] 256 tokens for MetaCLIP are from the paper; the other two lengths are common choices.
TEXT = {
  "ul2": vars(TextConfig(tokenizer="sentencepiece", length=512)),
  "metaclip": vars(TextConfig(tokenizer="clip", length=256)),
  "byt5": vars(TextConfig(tokenizer="bytes", length=100, reads="quoted")),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; model (a name of the zoo); size, frames, letters and spelt (with tiny).

  letters: for `--config.data.world=signs`, adds the stream of the letters of quoted words;
  spelt=false removes it again, to measure its effect.
  """
  args = parse_arg(arg, tiny=False, model="30b", size=32, frames=16, letters=False, spelt=True)
  config = ConfigDict()
  config.stage = "flow_matching"
  config.autoencoder = ""
  # FSDP over 1536 devices, 6 images per device [MG Table 3].
  config.mesh = (1, -1, 1, 1)
  config.latents = ""
  config.model = ConfigDict(zoo.generator("tiny" if args.tiny else args.model))
  config.text = ConfigDict(TEXT)
  # The paper gives no dropout rates for text: 10 % for each stream, 10 % for all together.
  config.objective = section(
    FlowMatching, without=("model", "roles"), drop=drop(config.model)
  )
  config.data = section(
    DataConfig, source="folder", frames=1, height=256, width=256, fps=16.0, image_weight=1,
    video_weight=0, global_batch=9216, camera_tags=True,
  )
  # The paper only gives the learning rate of the video model's optimizer.
  config.optim = section(OptimConfig, lr=1e-4, warmup=2000)
  config.train = section(
    TrainConfig, experiment="t2i_256", steps=210_000, ema=0.9999, checkpoint_every=2000
  )
  config.eval = section(EvalConfig, every=5000, previews=0)
  config.sampling = section(Settings, frames=1, height=256, width=256, fps=16.0)
  if args.tiny:
    tiny(config, size=args.size, frames=args.frames)
    if args.letters:
      add_letters(config, spelt=args.spelt)
  set_tables(config, rows=1, sides=side_tokens(config))
  return config


def side_tokens(config: ConfigDict) -> int:
  """Tokens along the longer side of a frame."""
  return max(config.data.height, config.data.width) // 8 // config.model.dit.patch[1]


def set_tables(config: ConfigDict, *, rows: int, sides: int) -> None:
  """Position tables for `rows` latent frames and `sides` tokens of height and of width."""
  config.model.dit.max_thw = (rows, sides, sides)


def start_from(config: ConfigDict, after: str, *, tiny: bool) -> None:
  """A warm start from a run of the experiment `after`, with stretched position tables.

  Tiny runs may also start from random parameters.
  """
  config.train.warm_start.update(
    after=f"a run of experiments/{after}.py", required=not tiny,
    ema=config.train.ema > 0, grow=((r"/positions/(time|height|width)$", "interpolate"),),
  )


def drop(model: ConfigDict) -> dict[str, float]:
  """Dropout of each text stream separately, and of all of them together."""
  return {name: 0.1 for name in model.dit.routes} | {"joint": 0.1}


def tiny(config: ConfigDict, *, size: int, frames: int) -> None:
  """A model that learns the toy world in minutes on two cores."""
  config.text = ConfigDict({"text": vars(TextConfig(length=40))})
  # The caption is much of the work of a small clip: four draws share it.
  config.objective.update(drop={"text": 0.1}, time="stratified", draws=4)
  config.mesh = (-1, 1, 1, 1)
  config.data.update(
    source="toy", clips=tae_image.TINY_CLIPS, frames=frames, height=size, width=size,
    fps=tae_image.tiny_fps(frames), windows=4, global_batch=16, camera_tags=False,
  )
  config.optim.update(lr=2e-3, warmup=50, schedule="linear", weight_decay=0.01)
  config.train.update(steps=2000, ema=0.99, checkpoint_every=500)
  config.eval.update(every=500, previews=8)
  config.sampling.update(
    height=size, width=size, fps=config.data.fps, steps=16, guidance=3.0
  )


def add_letters(config: ConfigDict, *, spelt: bool) -> None:
  """The tiny counterpart of the ByT5 stream: only the letters to be drawn."""
  model = config.model
  # As in the paper, the encoder of the whole prompt does not know the spelling of its words.
  config.text.text.tokenizer = "words"
  # A letter is smaller than two latents.
  model.dit.patch = (1, 1, 1)
  if spelt:
    model.encoders.byt5 = ConfigDict(model.encoders.text.to_dict())
    model.dit.routes.byt5 = {"kind": "cross", "features": model.encoders.byt5.width}
    config.text.byt5 = vars(TextConfig(length=8, reads="quoted"))
    config.objective.drop = {"text": 0.05, "byt5": 0.05, "joint": 0.1}
