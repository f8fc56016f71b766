"""From a run to a folder of converted weights: what it trained, as published weights are kept.

`export` writes the autoencoder, codec or CLIP of a run, or the text encoder of a generator, as a
folder that `models.weights.published` loads like imported ones. `settle` lets a config name runs
wherever it wants encoders of text or frames.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from mg_jax.core.distributed import on_main
from mg_jax.core.errors import UserError
from mg_jax.core.typing import PyTree
from mg_jax.models.generator import from_config
from mg_jax.models.weights import published
from mg_jax.train.runs import Role, load_role, saved_config
from mg_jax.train.workdir import is_remote, resolve

_log = logging.getLogger(__name__)
ENCODER = "encoder"  # the folder of a run's workdir for what other runs use of it


def export(
  workdir: str | os.PathLike[str],
  target: str | os.PathLike[str],
  *,
  step: int | None = None,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes what a run trained for `models.weights.published.load`; returns the config written.

  Args:
    workdir: of the run of an autoencoder, a codec, a CLIP, or of a generator with one text encoder,
      which is written as a T5; averaged weights where the run kept an average.
    target: a new folder.
    step: by default the newest.
    dtype: of the weights written.

  Raises:
    UserError: when the run has nothing to export, is missing or damaged, or `target` exists.
  """
  folder = resolve(workdir)
  stage = saved_config(folder, step=step).get("stage", "")
  if stage not in _EXPORTS:
    raise UserError(f"{folder} is a run of {stage}; give one of {', '.join(_EXPORTS)}")
  role, pick = _EXPORTS[stage]
  kind, fields, params = pick(load_role(folder, role, step=step), folder)
  return published.save(target, kind, fields, params, dtype=dtype)


def settle(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config whose frozen encoders of text and frames are folders of converted weights.

  Where it names a run, its encoder is exported to a folder in the run's workdir at first use, which
  later uses find: a run that continues does not change what was trained on it.

  Raises:
    UserError: as `export`.
  """
  settled = dict(config)
  if "text" in config:
    settled["text"] = {
      name: {**fields, "encoder": encoder_folder(fields["encoder"])}
      if fields.get("encoder") else fields
      for name, fields in config["text"].items()
    }  # fmt: skip
  if config.get("vision"):
    settled["vision"] = encoder_folder(config["vision"])
  return settled


def encoder_folder(reference: str) -> str:
  """The folder of converted weights that a run or such a folder stands for, see `settle`."""
  folder = resolve(reference)
  if is_remote(folder):
    raise UserError(
      f"{reference} is remote; write its encoder to a local folder with launch/convert.py "
      "--kind=run, and name that"
    )
  # Whatever is no run is left to `published`, which says what is missing.
  if published.is_converted(reference) or not folder.is_dir() or not _is_run(folder):
    return reference
  target = folder / ENCODER

  def write() -> None:
    if published.is_converted(target):
      return
    try:
      export(folder, target)
    except UserError as error:
      # Another run may have exported it meanwhile.
      if not published.is_converted(target):
        raise UserError(
          f"the encoder of {folder} cannot be exported for other runs ({error}); write it to a "
          "folder of your own with launch/convert.py --kind=run, and name that"
        ) from error
    _log.info("%s: exported, for runs that use this one as an encoder", target)

  on_main(write)
  return os.fspath(target)


def _is_run(folder: epath.Path) -> bool:
  try:
    saved_config(folder)
  except UserError:
    return False
  return True


def _model(kind: str) -> Any:
  return lambda run, folder: (kind, run.config["model"], run.params)


def _text_encoder(run: Role, folder: epath.Path) -> tuple[str, dict[str, Any], PyTree]:
  encoders = from_config(run.config).text_encoders()
  if len(encoders) != 1:
    named = ", ".join(sorted(encoders)) or "none"
    raise UserError(f"{folder} trained {len(encoders)} text encoders ({named}); one is exported")
  [(name, fields)] = encoders.items()
  return "t5", fields, run.params[f"encoder_{name}"]


# Stage -> the role that is exported, and what is written of it: kind, fields, parameters.
_EXPORTS = {
  "autoencoding": ("autoencoder", _model("autoencoder")),
  "wave_autoencoding": ("autoencoder", _model("dacvae")),
  "contrastive": ("model", _model("clip")),
  "flow_matching": ("model", _text_encoder),
}
