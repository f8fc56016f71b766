"""Folders of records in ArrayRecord shards: random access, and resumable writing.

A folder has `shard-00000-of-00004.array_record` and so on, one JSON receipt per finished shard
(count, bytes, sha256, and optionally the moments of an array), and `manifest.json` once every shard
is complete: {"format", "metadata", "shards": [receipt...]}. A folder without one is not read. A
shard is written under a temporary name, closed, synced and renamed, since an ArrayRecord file is
empty until it is closed, and an empty or foreign file opens without an error as a file without
records; hence every shard is checked against its receipt when a source opens. Each record is a
group of its own, so that reading one does not decode its neighbours.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

from mg_jax.core.errors import UserError
from mg_jax.data import atomic, encoding
from mg_jax.data.moments import Moments
from mg_jax.data.quarantine import Quarantine
from mg_jax.data.schema import Record

FORMAT = "mg_jax records 1"
MANIFEST = "manifest.json"
_SUFFIX = ".array_record"


class RecordWriter:
  """Writes a folder of records shard by shard; after a restart only missing shards are written.

  Several processes may write different shards of one folder; one of them calls `finish`.

  Args:
    folder: created if missing.
    shards: number of shards, >= 1.
    metadata: JSON-serialisable description kept in the manifest; must be the same after a restart.
    compress: zstd on each record; worthwhile for pixels, not for latents.
    moments: name of the array whose moments per channel are stored with each shard, if any.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    shards: int,
    metadata: dict[str, Any] | None = None,
    compress: bool = True,
    moments: str = "",
  ):
    if shards < 1:
      raise ValueError(f"shards must be at least 1, got {shards}")
    self.folder = pathlib.Path(folder)
    self.shards, self._moments = shards, moments
    self._metadata = json.loads(json.dumps(metadata or {}))
    self._identity = hashlib.sha256(
      json.dumps([FORMAT, shards, self._metadata], sort_keys=True).encode()
    ).hexdigest()
    self._options = "group_size:1," + ("zstd:3" if compress else "uncompressed")
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"{folder}: records cannot be written there ({error}); choose another folder."
      ) from error
    self.finished_shards()

  def finished_shards(self) -> set[int]:
    """Returns the numbers of the shards that are complete on disk.

    Raises:
      UserError: if the folder has shards of another writer (other metadata or shard count).
    """
    finished = set()
    for receipt_path in self.folder.glob("shard-*.json"):
      receipt = _read_json(receipt_path)
      shard_path = self.folder / str(receipt.get("file"))
      if receipt.get("identity") != self._identity:
        raise UserError(
          f"{self.folder} has records of another recipe ({receipt_path.name}); "
          "remove the folder or write to a new one."
        )
      if shard_path.is_file() and shard_path.stat().st_size == receipt["bytes"]:
        finished.add(receipt["shard"])
    return finished

  def write_shard(self, shard: int, records: Iterable[Record]) -> int:
    """Writes one whole shard, replacing it if it exists; returns its number of records."""
    from array_record.python import array_record_module

    if not 0 <= shard < self.shards:
      raise ValueError(f"shard {shard} is not within 0..{self.shards - 1}")
    path = self.folder / f"shard-{shard:05d}-of-{self.shards:05d}{_SUFFIX}"
    path.with_suffix(".json").unlink(missing_ok=True)
    for stale in self.folder.glob(f"{atomic.PREFIX}*-{path.name}"):
      stale.unlink()
    count, moments = 0, Moments()
    with atomic.replacing(path) as partial:
      writer = array_record_module.ArrayRecordWriter(os.fspath(partial), self._options)
      try:
        for record in records:
          writer.write(encoding.encode(record))
          count += 1
          if self._moments:
            moments.add(record[self._moments])
      finally:
        writer.close()
    receipt = {
      "identity": self._identity,
      "shard": shard,
      "file": path.name,
      "records": count,
      "bytes": path.stat().st_size,
      "sha256": _sha256(path),
    }
    if self._moments:
      receipt["moments"] = {self._moments: moments.to_json()}
    atomic.write_json(path.with_suffix(".json"), receipt)
    return count

  def finish(self) -> int:
    """Writes the manifest and returns the number of records in the folder.

    Raises:
      UserError: if shards are missing.
    """
    missing = sorted(set(range(self.shards)) - self.finished_shards())
    if missing:
      raise UserError(f"{self.folder}: shards {missing} are not written yet; write them first.")
    receipts = sorted(
      (_read_json(path) for path in self.folder.glob("shard-*.json")), key=lambda r: r["shard"]
    )
    atomic.write_json(
      self.folder / MANIFEST,
      {"format": FORMAT, "metadata": self._metadata, "shards": receipts},
    )
    return sum(receipt["records"] for receipt in receipts)


class RecordSource:
  """Random access to the records of a finished folder; bad ones are replaced and counted.

  Args:
    folder: a folder finished by `RecordWriter`.
    verify: "size" checks size and record count of each shard against the manifest, "sha256" also
      its bytes.
    limit: fraction of the records that may be bad, see `Quarantine`.
    setting: as there.

  Raises:
    UserError: if the folder, its manifest or a shard is missing, empty or inconsistent with the
      manifest.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    verify: Literal["size", "sha256"] = "size",
    limit: float = 0.05,
    setting: str = "",
  ):
    from array_record.python import array_record_data_source

    self.folder = pathlib.Path(folder)
    manifest_path = self.folder / MANIFEST
    if not manifest_path.is_file():
      raise UserError(f"{folder} has no {MANIFEST}; give a folder of records that was finished.")
    manifest = _read_json(manifest_path)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("shards"), list):
      raise UserError(f"{manifest_path} is not a manifest of {FORMAT!r}; write the folder again.")
    self.metadata: dict[str, Any] = manifest["metadata"]
    self._receipts: list[dict[str, Any]] = manifest["shards"]
    paths = []
    for receipt in self._receipts:
      path = self.folder / pathlib.PurePath(receipt["file"]).name
      _check_shard(path, receipt, verify)
      paths.append(f"{path}[0:{receipt['records']}]")
    self._length = sum(receipt["records"] for receipt in self._receipts)
    if not self._length:
      raise UserError(f"{folder} has no records; write some first.")
    self._records = array_record_data_source.ArrayRecordDataSource(paths)
    self.quarantine = Quarantine(
      self._read,
      self._length,
      errors=(encoding.RecordError,),
      name=self._name,
      limit=limit,
      setting=setting,
    )

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < self._length:
      raise IndexError(f"record {index} of {self._length}")
    return self.quarantine.read(index)

  def moments(self, name: str) -> Moments:
    """Moments per channel of an array over all records; shards without stored ones are read."""
    total, first = Moments(), 0
    for receipt in self._receipts:
      indices = range(first, first + receipt["records"])
      first = indices.stop
      if kept := receipt.get("moments", {}).get(name):
        total.merge(Moments(**kept))
      else:
        for index in indices:
          total.add(self[index][name])
    return total

  def _name(self, index: int) -> str:
    return f"{self.folder.name} record {index}"

  def _read(self, index: int) -> Record:
    try:
      data = self._records[index]
    except RuntimeError as error:
      # The reader reports a failed checksum this way, without an exception type of its own.
      raise encoding.RecordError(f"its bytes are damaged ({error})") from error
    return encoding.decode(data)


def _check_shard(path: pathlib.Path, receipt: dict[str, Any], verify: str) -> None:
  from array_record.python import array_record_module

  if not path.is_file():
    raise UserError(f"{path} is missing but named in {MANIFEST}; copy the folder again.")
  size = path.stat().st_size
  if size != receipt["bytes"]:
    raise UserError(
      f"{path} has {size} bytes instead of the {receipt['bytes']} of {MANIFEST}; copy it again."
    )
  if verify == "sha256" and _sha256(path) != receipt["sha256"]:
    raise UserError(f"{path} does not have the sha256 of {MANIFEST}; copy it again.")
  reader = array_record_module.ArrayRecordReader(os.fspath(path))
  count = reader.num_records()
  # The reader raises on a malformed file only when it is closed; the count is 0 then.
  with contextlib.suppress(RuntimeError):
    reader.close()
  if count != receipt["records"]:
    raise UserError(
      f"{path} opens with {count} records instead of the {receipt['records']} of "
      f"{MANIFEST}; copy it again."
    )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON ({error}); write the folder again.") from error
  if not isinstance(value, dict):
    raise UserError(f"{path} is not a JSON object; write the folder again.")
  return value


def _sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
