"""Movie Gen Audio: sound for a video, from text, or around known sound [MG 6.2].

`--config.data.path=DIR` is the folder of videos with their sound, and of sound alone, with their
captions; `--config.codec=DIR` the workdir of the codec's run, `--config.text.text.encoder=DIR` and
`--config.vision=DIR` the folders of the frozen T5-base and of the CLIP (`launch/convert.py`).
`:tiny` learns the sounds of the toy world, with its own encoders, and needs only the codec.
From the paper: sizes, batch, learning rate, warm-up, weight decay, steps, chunks, dropout and, in
this stage, no averaged weights. Not given: Adam's betas, the fraction of sound without video.
"""

from ml_collections import ConfigDict

from mg_jax.core.config import parse_arg, section
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.data.text.readers import TextConfig
from mg_jax.models import zoo
from mg_jax.objectives.sound_flow import SoundFlow
from mg_jax.sampling.sound_request import SoundSettings
from mg_jax.stages.experiment import EvalConfig
from mg_jax.train.loop import TrainConfig
from mg_jax.train.optim import OptimConfig

# [MG 6.2] All conditions together, and in addition text and video separately; the context has its
# own dropout in SoundFlow.
DROP = {"text": 0.1, "video": 0.1, "context": 0.0, "joint": 0.2}


def get_config(arg: str | None = None) -> ConfigDict:
  """Arguments: tiny; model (a name of `zoo.soundtrack`)."""
  args = parse_arg(arg, tiny=False, model="13b")
  config = ConfigDict()
  config.stage = "soundtrack"
  config.codec = ""
  config.vision = ""
  config.latents = ""
  config.mesh = (1, -1, 1, 1)  # FSDP
  config.model = ConfigDict(zoo.soundtrack("tiny" if args.tiny else args.model))
  config.text = ConfigDict({"text": vars(TextConfig(tokenizer="sentencepiece", length=512))})
  config.objective = section(SoundFlow, without=("model", "roles"), drop=DROP)
  config.data = section(SoundtrackConfig, global_batch=1536)
  config.optim = section(OptimConfig, lr=1e-4, warmup=5000, weight_decay=0.1)
  config.train = section(
    TrainConfig, experiment="soundtrack", steps=500_000, ema=0.0, checkpoint_every=2000
  )
  config.eval = section(EvalConfig, every=5000, previews=0)
  config.sampling = section(SoundSettings)
  if args.tiny:
    tiny(config)
  return config


def tiny(config: ConfigDict) -> None:
  """A model that learns the toy world's sounds, at 25 frames per second: one per latent."""
  config.mesh = (-1, 1, 1, 1)
  # Words, as numbers are facts here, such as the likelihood of music.
  config.text = ConfigDict({"text": vars(TextConfig(tokenizer="words", length=64))})
  # Four draws share the frames and the caption of a clip, as encoding them costs more than a draw.
  config.objective.update(time="stratified", draws=4)
  config.data.update(
    source="toy", clips=3000, held_out=256, chunks=((4.0, 1),), size=32, global_batch=8
  )
  config.optim.update(lr=1e-3, warmup=100, schedule="linear", weight_decay=0.01)
  config.train.update(steps=4000, ema=0.99, checkpoint_every=500)
  config.eval.update(every=500)
  config.sampling.update(window_s=4.0, steps=16, candidates=1)
