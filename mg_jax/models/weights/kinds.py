"""The interface for importing a family of published models; `models.weights.layouts` lists them.

A `Kind` turns a published config and the names of its arrays into a `Layout`: the fields of one of
our modules, and where each of its parameters comes from. An array or config value that is neither
used nor known to be irrelevant to the result is rejected by name. An unknown field of the config is
named in a warning. Layers of a transformer are stacked along a new first axis, and kernels are (in,
out).
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.errors import UserError

_log = logging.getLogger(__name__)

# Config fields of any version of transformers or diffusers that do not change features: origin,
# outputs, text generation, labels, training, other libraries.
IRRELEVANT = frozenset("""
  _attn_implementation_autoset _commit_hash _diffusers_version _name_or_path architectures
  bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
  cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
  early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
  finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label
  initializer_factor initializer_range is_encoder_decoder label2id length_penalty max_length
  max_new_tokens min_length model_type no_repeat_ngram_size num_beam_groups num_beams
  num_return_sequences output_attentions output_hidden_states output_past output_scores pad_token_id
  prefix problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
  sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
  tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
  typical_p use_bfloat16 use_cache
""".split())
# Fields that any config may have and that change the result, with their harmless values.
_HARMLESS = {
  "is_decoder": (False,), "add_cross_attention": (False,), "pruned_heads": ({},),
  "quantization_config": (),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one of our parameters comes from.

  Attributes:
    names: the published arrays, one per layer of a stack, else one.
    change: from published to ours, one array at a time.
    stacked: whether the arrays are stacked along a leading axis of layers.
  """

  names: tuple[str, ...]
  change: Callable[[np.ndarray], np.ndarray] = lambda a: a
  stacked: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
  """One published model as one of ours.

  Attributes:
    kind: the name in `KINDS` of our model.
    fields: of its module.
    places: of all its parameters, by path.
    ignored: regular expressions for prefixes of the names of irrelevant arrays.
    copies: arrays that must be equal to another one, by name.
    facts: of the published config, stored with the fields; our code does not use them.
  """

  kind: str
  fields: dict[str, Any]
  places: dict[str, Place]
  ignored: tuple[str, ...] = ()
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Config(Mapping[str, Any]):
  """A published config that records which of its fields were read.

  A field that is null counts as absent, as in the published code.
  """

  def __init__(self, values: Mapping[str, Any], where: str):
    self._values = {name: value for name, value in values.items() if value is not None}
    self._read: set[str] = set()
    self._sections: list[Config] = []
    self.where = where

  def __getitem__(self, name: str) -> Any:
    self._read.add(name)
    return self._values[name]

  def __contains__(self, name: object) -> bool:
    return name in self._values

  def __iter__(self):
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def section(self, name: str) -> "Config":
    """The config inside a field."""
    self._sections.append(Config(dict(self[name]), f"{self.where}: {name}"))
    return self._sections[-1]

  def demand(self, name: str, *supported: Any) -> None:
    """Checks that a field, if present, has a supported value.

    Raises:
      UserError: if it has another.
    """
    if name in self and self[name] not in supported:
      known = " or ".join(map(repr, supported)) or "none"
      raise UserError(
        f"{self.where} has {name} {self[name]!r}, of which only {known} is supported; give a "
        "checkpoint with that"
      )

  def check_family(self, kind: str, types: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    """Checks that `model_type`, or else the names of the classes, are of a family.

    Raises:
      UserError: if they are of another.
    """
    classes = [str(name) for name in self.get("architectures") or ()]
    described = self.get("model_type")
    if described is None:
      foreign = [name for name in classes if not name.startswith(prefixes)]
      described = foreign[0] if foreign else None
    elif described in types:
      described = None
    if described is not None:
      raise UserError(
        f"{self.where} describes a model of type {described!r}, which kind {kind} does not read; "
        f"give one of type {' or '.join(types)}"
      )

  def close(self, irrelevant: Collection[str] = ()) -> None:
    """Checks fields that every config may have, and warns of unknown ones.

    Args:
      irrelevant: fields of this family that do not change features.

    Raises:
      UserError: if a field that changes the result is set.
    """
    for name, supported in _HARMLESS.items():
      self.demand(name, *supported)
    if unknown := sorted(set(self) - self._read - IRRELEVANT - set(irrelevant)):
      _log.warning(
        "%s has unknown fields, which are ignored: %s", self.where, ", ".join(unknown)
      )
    for section in self._sections:
      section.close(irrelevant)


@dataclasses.dataclass(frozen=True)
class Kind:
  """One of our models, and the published ones that become it.

  Attributes:
    module: of our model.
    inputs: from the fields of `module` to the shapes of its inputs.
    read: from a published config and the names of its arrays to a layout, of this kind or of
      another for parts of a model; None if another kind reads it.
  """

  module: type[nn.Module]
  inputs: Callable[[Mapping[str, Any]], list[jax.ShapeDtypeStruct]]
  read: Callable[[Config, Collection[str]], Layout] | None = None


def text_inputs(fields: Mapping[str, Any]) -> list[jax.ShapeDtypeStruct]:
  """Inputs of a text encoder: ids and mask."""
  del fields
  return [jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1, 2), jnp.bool_)]


def transpose(a: np.ndarray) -> np.ndarray:
  """A kernel of torch's Linear."""
  return a.T


def norm(ours: str, theirs: str) -> dict[str, Place]:
  """Places of a normalisation with a bias."""
  return {f"{ours}/scale": Place((f"{theirs}.weight",)), f"{ours}/bias": Place((f"{theirs}.bias",))}
