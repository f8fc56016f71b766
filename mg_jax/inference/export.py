"""From a run to a folder of converted weights: what it trained, without the rest of the run.

`export` writes the autoencoder, codec or CLIP of a run as published weights are kept, or its
generator with all that sampling needs; `export_encoder` the text encoder
of one. `settle` lets a
config name runs wherever it wants encoders of text or frames.
"""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from mg_jax.core.distributed import on_main
from mg_jax.core.errors import UserError
from mg_jax.data.records import MANIFEST
from mg_jax.models.generator import from_config
from mg_jax.models.weights import converted, published
from mg_jax.train.runs import TRAINED, latent_statistics, load_role, saved_config
from mg_jax.train.workdir import LATENTS, beside, is_remote, resolve

_log = logging.getLogger(__name__)
ENCODER = "encoder"  # the folder of a run's workdir for what other runs use of it


def export(
  workdir: str | os.PathLike[str],
  target: str | os.PathLike[str],
  *,
  step: int | None = None,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes what a run trained as a folder of converted weights; returns the config written.

  An autoencoder, a codec or a CLIP is written as an imported one would be, a generator with the
  statistics of its latents. With the run's config beside it, the folder stands for the run where
  that is sampled, evaluated or started from. What the config names, such as an autoencoder, is
  still needed.

  Args:
    workdir: of the run; averaged weights are taken where it kept an average.
    target: a new folder.
    step: by default the newest.
    dtype: of the weights written.

  Raises:
    UserError: when the run has nothing to export, is missing or damaged, or `target` exists.
  """
  folder = resolve(workdir)
  stage = saved_config(folder, step=step).get("stage", "")
  if stage in _MODELS:
    role, kind = _MODELS[stage]
    run = load_role(folder, role, step=step)
    facts = {"run": run.config, "step": run.step, "seconds": round(run.seconds)}
    return published.save(target, kind, run.config["model"], run.params, facts=facts, dtype=dtype)
  if stage not in _GENERATORS:
    known = ", ".join([*_MODELS, *_GENERATORS])
    raise UserError(f"{folder} is a run of {stage}; give one of {known}")
  run = load_role(folder, "model", step=step)
  statistics = json.dumps({"metadata": latent_statistics(run.config, folder)}, indent=1)
  return published.save_run(
    target, {**run.config, "latents": ""}, "model", run.params, step=run.step,
    seconds=round(run.seconds), dtype=dtype,
    files={f"{LATENTS}/{MANIFEST}": statistics.encode()},
  )  # fmt: skip


def export_encoder(
  workdir: str | os.PathLike[str], target: str | os.PathLike[str], *, dtype: str = "float32"
) -> dict[str, Any]:
  """As `export`, but of a generator only the text encoder that it trained, as a T5.

  Raises:
    UserError: as `export`, and when a generator has not trained one text encoder.
  """
  folder = resolve(workdir)
  if saved_config(folder).get("stage", "") in _MODELS:
    return export(folder, target, dtype=dtype)
  run = load_role(folder, "model")
  encoders = from_config(run.config).text_encoders()
  if len(encoders) != 1:
    named = ", ".join(sorted(encoders)) or "none"
    raise UserError(f"{folder} trained {len(encoders)} text encoders ({named}); one is exported")
  [(name, fields)] = encoders.items()
  return published.save(target, "t5", fields, run.params[f"encoder_{name}"], dtype=dtype)


def settle(
  config: Mapping[str, Any], workdir: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
  """A config whose frozen encoders of text and frames are folders of converted weights.

  What has moved along with the run in `workdir` is found beside it. Where the config names a run,
  its encoder is exported to a folder in that run's workdir at first use, which later uses find: a
  run that continues does not change what was trained on it.

  Raises:
    UserError: as `export`.
  """

  def find(named: str) -> str:
    here = workdir and beside(workdir, named)
    return encoder_folder(os.fspath(here) if here and here.exists() else named)

  settled = dict(config)
  if "text" in config:
    settled["text"] = {
      name: {**fields, "encoder": find(fields["encoder"])}
      if fields.get("encoder") else fields
      for name, fields in config["text"].items()
    }  # fmt: skip
  if config.get("vision"):
    settled["vision"] = find(config["vision"])
  return settled


def encoder_folder(reference: str) -> str:
  """The folder of converted weights that a run or such a folder stands for, see `settle`."""
  folder = resolve(reference)
  if is_remote(folder):
    raise UserError(
      f"{reference} is remote; write its encoder to a local folder with launch/convert.py "
      "--kind=encoder, and name that"
    )
  # What is not a run is left to `converted`, which says what is missing.
  if converted.is_converted(reference) or not folder.is_dir() or not _is_run(folder):
    return reference
  target = folder / ENCODER

  def write() -> None:
    if converted.is_converted(target):
      return
    try:
      export_encoder(folder, target)
    except UserError as error:
      # Another run may have exported it meanwhile.
      if not converted.is_converted(target):
        raise UserError(
          f"the encoder of {folder} cannot be exported for other runs ({error}); write it to a "
          "folder of your own with launch/convert.py --kind=encoder, and name that"
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


_GENERATORS = ("flow_matching", "soundtrack")
# Stage -> the role that is exported as published weights are, and its kind.
_MODELS = {stage: (role, kind) for kind, (stage, role) in TRAINED.items()}
