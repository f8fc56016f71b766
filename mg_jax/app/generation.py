"""Dispatches the flags of `launch/generate.py` to their task."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from mg_jax.app import clips, soundtracks
from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.core.mesh import parse_mesh
from mg_jax.sampling import guidance

_log = logging.getLogger(__name__)
_SOUND = ("guidance", "steps", "method", "candidates", "window_s", "hop_s", "long_form")
_VIDEO = ("guidance", "steps", "method", "frames", "fps", "height", "width", "schedule")
# Options of a task besides those of all, `_ALL`.
_TAKEN: dict[str, tuple[str, ...]] = {
  "video": (*_VIDEO, "prompts", "image", "tiles", "first_frame", "video", "extend"),
  "soundtrack": (*_SOUND, "video", "sound", "music", "extend", "infill"),
  "sound": (*_SOUND, "sound", "music", "extend", "infill", "seconds"),
}
_ALL = (
  "task", "workdir", "prompt", "condition", "out", "seed", "overwrite", "mesh", "dtype",
  "distributed",
)  # fmt: skip


def generate(options: Mapping[str, Any]) -> None:
  """Runs the task of `options`, flag name -> value; None and empty values count as not given.

  Raises:
    UserError: on a flag of another task, and as the tasks do.
  """
  if options["distributed"]:
    distributed.initialize(trains=False)
  task = options["task"]
  # Zero is a value: --guidance=0.
  given = {n: v for n, v in options.items() if not (v is None or v is False or v == [])}
  if "guidance" in given:
    given["guidance"] = guidance.read(given["guidance"])
  for name in given:
    if name not in (*_ALL, *_TAKEN[task]):
      raise UserError(f"--{name} is not for --task={task}; see --help")
  if task == "video":
    clips.generate(
      options["workdir"],
      texts=options["prompt"],
      file=options["prompts"],
      out=options["out"],
      seed=options["seed"],
      image=options["image"],
      first_frame=options["first_frame"],
      condition=options["condition"],
      video=options["video"],
      extend=options["extend"],
      mesh=options["mesh"],
      dtype=options["dtype"],
      tiles=options["tiles"],
      overwrite=options["overwrite"],
      **{name: given[name] for name in _VIDEO if name in given},
    )
    return
  if task == "soundtrack" and not (options["video"] or options["sound"]):
    raise UserError("give --video, the file to add sound to; from text alone: --task=sound")
  if not options["out"]:
    end = ".mp4" if options["video"] else ".wav"
    raise UserError(f"--out is missing; give a file such as out{end}")
  order = soundtracks.Order(
    out=options["out"],
    video=options["video"],
    sound=options["sound"],
    prompts=tuple(options["prompt"]),
    music=tuple(options["music"]),
    seconds=options["seconds"],
    extend=tuple(options["extend"]),
    infill=tuple(options["infill"]),
    condition=tuple(options["condition"]),
    seed=options["seed"],
    overwrite=options["overwrite"],
  )
  changes = {name: given[name] for name in _SOUND if name in given}
  load = functools.partial(_load, options["workdir"], options["mesh"], options["dtype"])
  for path in soundtracks.make(order, load, **changes):
    _log.info("%s", path)


def _load(workdir: str, mesh: list[str], dtype: str | None) -> Any:
  from mg_jax.inference.load_sound import load_soundtrack

  return load_soundtrack(workdir, mesh=parse_mesh(mesh), dtype=dtype)
