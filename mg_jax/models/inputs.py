"""What a generator reads, from its config: text streams, conditions, shapes of batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.data import condition_section
from mg_jax.data.conditions import Condition, Frames
from mg_jax.data.sources.soundtracks import SoundtrackConfig
from mg_jax.data.text.condition import Text
from mg_jax.data.text.readers import TextConfig
from mg_jax.models import conditioning
from mg_jax.models.encoders.streams import Streams, open_streams
from mg_jax.models.generator import Generator, from_config


def text_streams(config: Mapping[str, Any], model: Generator) -> Streams:
  """The text encoders of a generator, without the weights of frozen ones."""
  return open_streams(
    config["text"], routes=model.routes(), trained=model.text_encoders()
  )


def open_conditions(
  config: Mapping[str, Any], text: Streams | None = None
) -> dict[str, Condition]:
  """The conditions of a generator's config that a batch carries, by name.

  Args:
    config: with the sections "text" and, optionally, "conditions".
    text: the opened streams; without them conditions have shapes and nulls, but read no caption.
  """
  model = from_config(config)
  routes, trained = model.routes(), model.text_encoders()
  found: dict[str, Condition] = {}
  for name, fields in config["text"].items():
    stream = configs.build(TextConfig, fields, where=f"text.{name}")
    frozen = name not in trained
    found[name] = Text(
      stream.length, routes[name][0].features if frozen else 0, cached=frozen and stream.cache,
      reader=text.readers[name] if text else None,
    )  # fmt: skip
  others = condition_section.build(config.get("conditions", {}))
  if twice := sorted(found.keys() & others.keys()):
    raise UserError(f"config text and conditions both have {twice[0]!r}; rename one of them")
  return found | others


def soundtrack_conditions(
  config: Mapping[str, Any], data: SoundtrackConfig, *, rate: float, text: Streams | None = None
) -> dict[str, Condition]:
  """Those of a generator of sound: text and video; the context is a latent itself.

  Args:
    config, text: as for `open_conditions`.
    data: of the config.
    rate: latents per second.
  """
  model = from_config(config)
  frozen = "video" not in model.vision_encoders()
  features = model.routes()["video"][0].features if frozen else 0
  video = Frames(rate, float(data.fps), data.size, features)
  return open_conditions(config, text) | {"video": video}


def abstract_latents(
  found: Mapping[str, Condition], rows: int, latent: Sequence[int]
) -> dict[str, Any]:
  """Shapes of a batch of latents (t, h, w, C) with its conditions."""
  shape = jax.ShapeDtypeStruct
  return {
    "latent": shape((rows, *latent), jnp.float32), "index": shape((rows,), jnp.int32),
    **conditioning.abstract(found, rows, tuple(latent[:3])),
  }  # fmt: skip
