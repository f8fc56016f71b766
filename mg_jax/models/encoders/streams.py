"""The text streams of a generator: tokenization, and frozen encoders for some [MG 3.1.4].

A frozen encoder is a folder of converted weights (`models.weights.converted`): of a T5 the features
of the last layer are used, of a CLIP or its text tower alone the tokens of that tower. Prompt ->
ids and mask (B, S) -> features (B, S, E). Streams without a folder have encoders that are trained
with the generator.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh

from mg_jax.core import config as configs
from mg_jax.core.errors import UserError
from mg_jax.core.typing import PyTree
from mg_jax.data.text.readers import Reader, TextConfig, open_reader, open_readers
from mg_jax.data.text.tokenizers import check_vocabulary
from mg_jax.models.encoders.clip import CLIP, TextTower
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.weights import converted


@dataclasses.dataclass(frozen=True)
class Streams:
  """The streams of one generator.

  Attributes:
    readers: of every stream, by name.
    encoders: of the frozen streams; none until `load`.
    params: of the encoders, possibly sharded over a mesh.
  """

  readers: Mapping[str, Reader]
  encoders: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
  params: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Names of the streams with a frozen encoder."""
    return tuple(name for name, reader in self.readers.items() if reader.config.encoder)

  @property
  def cached(self) -> tuple[str, ...]:
    """Names of frozen streams whose features are precomputed."""
    return tuple(name for name in self.frozen if self.readers[name].config.cache)

  def identity(self) -> dict[str, Any]:
    """Determines the cached features: weights, tokenizer, length, and the part that is read."""
    return {
      name: {
        "encoder": converted.digest(self.readers[name].config.encoder),
        "tokenizer": self.readers[name].config.tokenizer,
        "length": self.readers[name].config.length,
        "reads": self.readers[name].config.reads,
      }
      for name in self.cached
    }

  def load(self, mesh: Mesh | None = None, *, names: tuple[str, ...] | None = None) -> "Streams":
    """A copy with the weights of the frozen encoders, or of `names` only, loaded."""
    names = self.frozen if names is None else names
    loaded = {name: converted.load(self.readers[name].config.encoder, mesh=mesh) for name in names}
    return dataclasses.replace(
      self,
      encoders={name: module for name, (module, _) in loaded.items()},
      params={name: params for name, (_, params) in loaded.items()},
    )

  def encode(self, params: Mapping[str, PyTree], cond: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the ids of streams with a loaded encoder by features; the rest passes through.

    Args:
      params: `self.params`, as an argument of the jitted function.
      cond: anything by name; a stream is {"ids": (B, S), "mask": (B, S)}.
    """
    out = dict(cond)
    for name, module in self.encoders.items():
      entry = cond.get(name)
      if isinstance(entry, Mapping) and "ids" in entry:
        out[name] = {"features": _features(module, params[name], **entry), "mask": entry["mask"]}
    return out


def open_streams(
  text: Mapping[str, Any], *, routes: Mapping[str, Any], trained: Mapping[str, Any]
) -> Streams:
  """The streams of a config, without the weights of their encoders.

  Args:
    text: the config's section, by stream.
    routes: of the generator.
    trained: fields of the encoders that are trained with it, by stream.

  Raises:
    UserError: on a stream without a route or an encoder, with two encoders, or with mismatched
      features or vocabulary.
  """
  parsed = {
    name: configs.build(TextConfig, fields, where=f"text.{name}") for name, fields in text.items()
  }
  for name, config in parsed.items():
    if name not in routes:
      raise UserError(f"config text.{name} has no route; the model knows {', '.join(routes)}")
    if config.encoder and name in trained:
      raise UserError(
        f"config text.{name}.encoder names a frozen encoder, but model.encoders.{name} trains one; "
        "keep one of them"
      )
    if not config.encoder and name not in trained:
      raise UserError(
        f"config text.{name}.encoder is empty; give the folder of its converted weights "
        "(launch/convert.py)"
      )
  missing = sorted(set(trained) - set(parsed))
  if missing:
    raise UserError(f"config text has no {missing[0]!r}, which model.encoders trains")
  streams = Streams(open_readers(parsed))
  for name, config in parsed.items():
    where = f"text.{name}"
    if name in trained:
      encoder = configs.build(T5Encoder, trained[name], where=f"model.encoders.{name}", parent=None)
    else:
      encoder = converted.module(config.encoder)
    tower = encoder.text if isinstance(encoder, CLIP) else encoder
    if not isinstance(tower, T5Encoder | TextTower):
      raise UserError(
        f"config {where}.encoder is {config.encoder}, not a text encoder; give a T5 or a CLIP"
      )
    check_vocabulary(streams.readers[name].tokenizer, tower.vocab, where=where)
    if any(route.features != tower.width for route in routes[name]):
      raise UserError(
        f"config {where} has features of {tower.width}, but the route takes "
        f"{routes[name][0].features}"
      )
    if isinstance(tower, TextTower) and config.length > tower.length:
      raise UserError(
        f"config {where}.length is {config.length}, but its encoder takes {tower.length} tokens"
      )
  return streams


def caption_reader(text: Mapping[str, Any], model: CLIP) -> Reader:
  """The reader of captions for training a CLIP, from the config's section.

  Raises:
    UserError: if it is not one stream named "text", or its ids are not those of the text tower.
  """
  if set(text) != {"text"}:
    raise UserError(f"config text is {sorted(text)}; captions are read by one stream, 'text'")
  config = configs.build(TextConfig, text["text"], where="text.text")
  reader = open_reader(config)
  check_vocabulary(reader.tokenizer, model.text.vocab, where="model.text")
  ids, mask = reader.tokenizer("a", 8)
  if ids[mask][-1] != model.text.end:
    raise UserError(
      f"config model.text.end is {model.text.end}; the {config.tokenizer} tokenizer ends texts "
      f"with {ids[mask][-1]}"
    )
  return reader


def _features(module: nn.Module, params: PyTree, ids, mask):
  if isinstance(module, CLIP):
    return module.apply({"params": params}, ids, mask, method="encode_text").tokens
  features = module.apply({"params": params}, ids, mask)
  return features.tokens if isinstance(module, TextTower) else features
