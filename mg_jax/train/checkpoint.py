"""Checkpoints: one Orbax composite of state, data position and meta for every stage.

A step appears only once it is complete. Arrays carry checksums, because the storage format itself
restores a damaged array without an error; they are integer sums over all elements, hence the same
under any mesh. Before anything is read, the saved tree is compared with the wanted one: path,
shape and dtype. Restoring works onto any mesh. The layout is
`<workdir>/checkpoints/<step>/{state,data,meta}`.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from mg_jax.core.errors import UserError, first_line, refusal
from mg_jax.core.tree import flatten_paths, map_paths, nest
from mg_jax.core.typing import PyTree
from mg_jax.train import integrity
from mg_jax.train.damage import DamagedError, find_leaf
from mg_jax.train.workdir import is_remote, probe, resolve

_log = logging.getLogger(__name__)
FOLDER = "checkpoints"
_ITEMS = {"data": "the data position", "meta": "the description (meta)"}


@dataclasses.dataclass(frozen=True)
class Restored:
  """A state, and what was saved with it.

  Attributes:
    state: tree of the kind that was asked for.
    step: the step it was saved at.
    data: position of the data iterator, as its `get_state` gave it.
    elapsed: seconds of wall clock the run had used.
    config: the config it was saved with.
    frozen: {role: {"origin": ..., "fingerprint": ...}} of weights that it was trained with and that
      were not saved.
  """

  state: PyTree
  step: int
  data: Any
  elapsed: float
  config: dict[str, Any]
  frozen: dict[str, Any] = dataclasses.field(default_factory=dict)


class Checkpointer:
  """Saves and restores the checkpoints of one workdir."""

  def __init__(
    self,
    workdir: str,
    *,
    name: str = "",
    keep: int = 3,
    keep_every: int = 0,
    read_only: bool = False,
  ):
    """Opens a workdir; unless read-only, what an interrupted save left is gone by the next save.

    Args:
      workdir: folder of the run.
      name: the experiment; a workdir of another one is refused. "" accepts any.
      keep: how many of the latest checkpoints stay.
      keep_every: steps divisible by this stay for ever; 0 for none.
      read_only: never writes, so a running job is not disturbed.

    Raises:
      UserError: when read-only and there is no checkpoint, or when the workdir holds another
        experiment.
    """
    self.folder = resolve(workdir) / FOLDER
    self._name = name
    if read_only and not self.folder.exists():
      raise UserError(f"no checkpoints in {resolve(workdir)}; give the workdir of a training run")
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      keep_period=keep_every or None,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=not read_only,
    )
    handlers = {
      "state": ocp.PyTreeCheckpointHandler(),
      "data": ocp.JsonCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    }
    self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
    self._read_only = read_only
    self._saving: int | None = None
    if name and self.latest is not None:
      saved = self._readable_meta().get("name", name)
      if saved != name:
        raise UserError(
          f"{resolve(workdir)} holds experiment {saved!r}, this is {name!r}; choose another workdir"
        )

  @property
  def latest(self) -> int | None:
    """The newest complete step, or None."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """All complete steps, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    data: Any,
    elapsed: float = 0.0,
    config: Mapping | None = None,
    frozen: Mapping | None = None,
  ) -> None:
    """Starts saving; returns once the arrays are copied, so the state may be donated.

    Call it before the batch of this step is drawn, with the position the iterator then has.
    `config` and `frozen` are as in `Restored`.

    Raises:
      UserError: on a parameter that is not finite, on a step that exists or is older than the
        newest, on a data position that is no JSON, and when this or an earlier save has failed.
    """
    self.wait()  # the library would do so, and mistake an earlier failure for one of this step
    leaves = flatten_paths(state)
    report = integrity.inspect(leaves)
    if report.broken:
      raise UserError(
        f"step {step} is not saved to {self.folder}: {report.broken[0]} holds NaN or infinity; "
        f"the newest good checkpoint is {self.latest}"
      )
    try:
      position = json.dumps(data, sort_keys=True)
    except TypeError as e:
      raise UserError(f"the data position {data!r} is no JSON, so it cannot be saved: {e}") from e
    meta = {
      "name": self._name,
      "step": step,
      "elapsed": float(elapsed),
      "config": dict(config or {}),
      "fingerprint": integrity.structure(leaves),
      "checksums": report.checksums,
      "data_sha256": hashlib.sha256(position.encode()).hexdigest(),
    } | ({"frozen": dict(frozen)} if frozen else {})
    meta["sha256"] = _digest(meta)
    items = ocp.args.Composite(
      state=ocp.args.PyTreeSave(nest(leaves)),
      data=ocp.args.JsonSave({"position": data}),
      meta=ocp.args.JsonSave(meta),
    )
    self._saving = step
    try:
      if jax.process_index() == 0:
        probe(self.folder)  # where no folder can be made, the library would wait for it for minutes
      saved = self._manager.save(step, args=items)
    except Exception as e:
      raise self._failure(e) from e
    if not saved:
      raise UserError(f"step {step} was not saved: {self.folder} already holds step {self.latest}")

  def wait(self) -> None:
    """Blocks until everything is on disk. Raises UserError when it did not get there."""
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
      if self._saving is not None and is_remote(self.folder):
        # The library finds its parts by listing: a store that lists too little loses them.
        self.leaves(self._saving)
      self._saving = None
    except Exception as e:
      raise self._failure(e) from e

  def close(self) -> None:
    """Waits and releases the manager."""
    self.wait()
    self._manager.close()

  def restore(
    self, target: PyTree, *, step: int | None = None, fallback: bool = False
  ) -> Restored:
    """Reads a whole state onto the shardings of `target`.

    Args:
      target: ShapeDtypeStructs or arrays with shardings; the tree must match the saved one.
      step: defaults to the newest.
      fallback: on a damaged step, go on to the next older one and, unless read-only, set the
        damaged one aside.

    Raises:
      UserError: when there is no checkpoint, the trees differ, or the content is damaged.
    """
    candidates = [step] if step is not None else self.steps()[::-1]
    if not candidates:
      raise UserError(f"no complete checkpoint in {self.folder}")
    for number in candidates:
      try:
        restored = self._restore(target, number)
        break
      except DamagedError as e:
        if not fallback or number == candidates[-1]:
          raise
        _log.warning("%s; trying an older step", e.fact)
        self._set_aside(number)
    return restored

  def leaves(self, step: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Path, shape and dtype of every saved array of a step (default: the newest)."""
    step = self.pick(step)
    try:
      tree = self._manager.item_metadata(step)["state"].tree
      flat = flatten_paths(tree, is_leaf=lambda node: hasattr(node, "shape"))
      leaves = {p: jax.ShapeDtypeStruct(m.shape, np.dtype(m.dtype)) for p, m in flat.items()}
    except Exception as e:
      raise self._damaged(step, f"{find_leaf(e) or 'the list of arrays'} cannot be read") from e
    if integrity.structure(leaves) != self.meta(step)["fingerprint"]:
      raise self._damaged(step, "the list of arrays was changed")
    return leaves

  def read(
    self, wanted: Mapping[str, jax.ShapeDtypeStruct], step: int | None = None
  ) -> dict[str, Any]:
    """Some saved arrays by path, verified, each onto the sharding given for it.

    Raises:
      UserError: when a path is missing or differs in shape or dtype, or the content is damaged.
    """
    step = self.pick(step)
    saved = self.leaves(step)
    present = {path: saved[path] for path in wanted if path in saved}
    self._compare(step, present, wanted)
    return self._read(step, wanted, self.meta(step))

  def pick(self, step: int | None) -> int:
    if step is None and self.latest is None:
      raise UserError(f"no complete checkpoint in {self.folder}")
    if step is not None and step not in self.steps():
      raise UserError(f"no step {step} in {self.folder}; there are {self.steps()}")
    return self.latest if step is None else step

  def _restore(self, target: PyTree, step: int) -> Restored:
    wanted = flatten_paths(target)
    self._compare(step, self.leaves(step), wanted)
    meta = self.meta(step)
    leaves = self._read(step, wanted, meta)
    data = self._item(step, "data")["position"]
    position = json.dumps(data, sort_keys=True)
    if hashlib.sha256(position.encode()).hexdigest() != meta["data_sha256"]:
      raise self._damaged(step, "the data position was changed")
    state = map_paths(lambda path, _: leaves[path], target)
    return Restored(state, step, data, meta["elapsed"], meta["config"], meta.get("frozen", {}))

  def _compare(self, step: int, saved: Mapping, wanted: Mapping) -> None:
    lines = integrity.differences(saved, wanted)
    if lines:
      shown = "\n  ".join(lines[:20] + (["..."] if len(lines) > 20 else []))
      raise UserError(
        f"step {step} in {self.folder} does not fit this model ({len(lines)} differences); use the "
        f"config it was saved with, or a warm start:\n  {shown}"
      )

  def _read(self, step: int, wanted: Mapping, meta: Mapping) -> dict[str, Any]:
    place = SingleDeviceSharding(jax.local_devices()[0])
    target = nest({
      path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or place)
      for path, x in wanted.items()
    })
    args = ocp.args.PyTreeRestore(
      item=target,
      restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      partial_restore=True,
    )
    try:
      items = self._manager.restore(step, args=ocp.args.Composite(state=args))
    except Exception as e:
      raise self._damaged(step, f"{find_leaf(e, wanted) or 'an array'} cannot be read") from e
    leaves = flatten_paths(items["state"])
    found = integrity.inspect(leaves).checksums
    for path, value in found.items():
      if value != meta["checksums"].get(path):
        raise self._damaged(step, f"{path} differs from its checksum")
    return leaves

  def _item(self, step: int, item: str) -> Any:
    try:
      args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
      return self._manager.restore(step, args=args)[item]
    except Exception as e:
      raise self._damaged(step, f"{_ITEMS[item]} cannot be read") from e

  def meta(self, step: int) -> dict[str, Any]:
    """What was saved with a step besides its arrays. Raises UserError when it is damaged."""
    meta = self._item(step, "meta")
    if not isinstance(meta, dict) or meta.get("sha256") != _digest(meta):
      raise self._damaged(step, f"{_ITEMS['meta']} was changed")
    return meta

  def _readable_meta(self) -> dict[str, Any]:
    """The newest meta that can be read; a damaged step is reported when it is restored."""
    for step in self.steps()[::-1]:
      try:
        return self.meta(step)
      except DamagedError as e:
        _log.warning("%s", e.fact)
    return {}

  def _damaged(self, step: int, what: str) -> UserError:
    if not (self.folder / str(step)).exists():
      return UserError(
        f"step {step} in {self.folder} was removed while it was read, as its run goes on and keeps "
        "only the latest; run the same command again"
      )
    return DamagedError(step, self.folder, what, [s for s in self.steps() if s < step])

  def _set_aside(self, step: int) -> None:
    if self._read_only:
      return
    if jax.process_index() == 0:
      ends = itertools.chain([""], (f"_{n}" for n in itertools.count(2)))
      places = (self.folder.parent / f"damaged_{step}{end}" for end in ends)
      (self.folder / str(step)).rename(next(place for place in places if not place.exists()))
    self._manager.reload()

  def _failure(self, error: Exception) -> UserError:
    """The sentence of a failed save; what it has left behind is removed, as a disk may be full."""
    self._manager.reload()  # or the failed step would count as the newest
    if jax.process_index() == 0 and not is_remote(self.folder):
      for left in self.folder.glob(f"*{ocp.path.atomicity.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    return self.explain(f"step {self._saving} cannot be saved to {self.folder}", error)

  def explain(self, what: str, error: Exception) -> UserError:
    """A sentence for a run that has to end: what went wrong, what is safe, how to go on."""
    told = refusal(error)
    reason, remedy = (told.reason, f"{told.remedy} and run") if told else (first_line(error), "run")
    safe = "there is no checkpoint yet" if self.latest is None else (
      f"the newest good checkpoint is step {self.latest}"
    )
    return UserError(f"{what}, {reason}; {safe}, {remedy} the same command again")


def _digest(meta: Mapping[str, Any]) -> str:
  rest = {key: value for key, value in meta.items() if key != "sha256"}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
