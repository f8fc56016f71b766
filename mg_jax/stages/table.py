"""The stages by the config's `stage`; a new one is a file and a line here."""

from collections.abc import Mapping
from typing import Any

from mg_jax.core.errors import UserError
from mg_jax.stages.audio_codec import AudioCodec
from mg_jax.stages.base import Stage
from mg_jax.stages.clip import ContrastiveStage
from mg_jax.stages.soundtrack import SoundtrackStage
from mg_jax.stages.text_to_video import TextToVideoStage
from mg_jax.stages.video_codec import VideoCodec

STAGES: dict[str, Stage] = {
  "autoencoding": VideoCodec(),
  "wave_autoencoding": AudioCodec(),
  "contrastive": ContrastiveStage(),
  "flow_matching": TextToVideoStage(),
  "soundtrack": SoundtrackStage(),
}


def stage_of(config: Mapping[str, Any]) -> Stage:
  """The stage of a config. Raises UserError on one that is unknown."""
  name = config.get("stage")
  if name not in STAGES:
    raise UserError(f"config stage {name!r} is unknown; known are {', '.join(STAGES)}")
  return STAGES[name]
