import json
import pickle

import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import records
from mg_jax.data.records import RecordSource, RecordWriter


def make(shard, count=5, size=3000):
  """Records that do not compress, so that a byte in the middle of a file belongs to one."""
  for k in range(count):
    noise = np.random.default_rng([shard, k]).integers(0, 256, size, dtype=np.uint8)
    yield {"x": noise, "name": f"{shard}/{k}"}


@pytest.fixture
def folder(tmp_path):
  writer = RecordWriter(tmp_path / "set", shards=2, metadata={"mean": [0.5]})
  assert writer.write_shard(0, make(0)) == 5
  writer.write_shard(1, make(1, count=3))
  assert writer.finish() == 8
  return tmp_path / "set"


def names(source):
  return [source[i]["name"] for i in range(len(source))]


@pytest.mark.parametrize("verify", ["size", "sha256"])
def test_round_trip(folder, verify):
  source = RecordSource(folder, verify=verify)
  assert names(source) == ["0/0", "0/1", "0/2", "0/3", "0/4", "1/0", "1/1", "1/2"]
  np.testing.assert_array_equal(source[6]["x"], list(make(1))[1]["x"])
  assert source.metadata == {"mean": [0.5]}
  assert not list(folder.glob(".*"))
  with pytest.raises(IndexError):
    source[8]
  assert names(pickle.loads(pickle.dumps(source))) == names(source)


def test_tiny_and_empty_shards_are_read(tmp_path):
  writer = RecordWriter(tmp_path, shards=3, compress=False)
  for shard, count in enumerate((0, 1, 0)):
    writer.write_shard(shard, make(shard, count=count, size=1))
  writer.finish()
  assert names(RecordSource(tmp_path)) == ["1/0"]


def test_a_killed_writer_goes_on_where_it_stopped(tmp_path):
  def dies():
    yield from make(1, count=2)
    raise KeyboardInterrupt

  first = RecordWriter(tmp_path, shards=2)
  first.write_shard(0, make(0))
  with pytest.raises(KeyboardInterrupt):
    first.write_shard(1, dies())
  (tmp_path / ".partial-0123456789ab-shard-00001-of-00002.array_record").write_bytes(
    b"left by kill"
  )
  with pytest.raises(UserError, match=r"\[1\]"):
    first.finish()
  with pytest.raises(UserError, match="manifest"):
    RecordSource(tmp_path)
  second = RecordWriter(tmp_path, shards=2)
  assert second.finished_shards() == {0}
  second.write_shard(1, make(1))
  assert second.finish() == 10
  assert len(RecordSource(tmp_path)) == 10
  assert not list(tmp_path.glob(".partial*"))


def test_another_recipe_in_the_same_folder_is_refused(folder):
  for other in ({"shards": 2, "metadata": {"mean": [0.6]}}, {"shards": 3}):
    with pytest.raises(UserError, match="another recipe"):
      RecordWriter(folder, **other)
  assert RecordWriter(folder, shards=2, metadata={"mean": [0.5]}).finished_shards() == {0, 1}


def shard(folder):
  return sorted(folder.glob("*.array_record"))[0]


def damage(path, how):
  data = path.read_bytes()
  path.write_bytes(
    {
      "truncated": data[: len(data) // 2],
      "empty": b"",
      "noise": np.random.default_rng(0).bytes(len(data)),
    }[how]
  )


@pytest.mark.parametrize(
  "how, word", [("truncated", "bytes"), ("empty", "bytes"), ("noise", "0 records")]
)
def test_damaged_shards_are_refused_at_opening(folder, how, word):
  damage(shard(folder), how)
  with pytest.raises(UserError, match=f"shard-00000.*{word}"):
    RecordSource(folder)


def flip(path):
  """Changes one byte of the second record's noise."""
  data = bytearray(path.read_bytes())
  at = bytes(data).find(list(make(0))[1]["x"].tobytes()[:16])
  assert at > 0
  data[at + 1000] ^= 1
  path.write_bytes(bytes(data))


def test_a_flipped_byte_costs_one_record(tmp_path):
  writer = RecordWriter(tmp_path, shards=1, compress=False)
  writer.write_shard(0, make(0))
  writer.finish()
  flip(shard(tmp_path))
  source = RecordSource(tmp_path, limit=0.5)
  seen = names(source)
  assert [seen[k] for k in (0, 2, 3, 4)] == ["0/0", "0/2", "0/3", "0/4"]
  assert seen[1] != "0/1" and seen == names(RecordSource(tmp_path, limit=0.5))
  assert [bad.index for bad in source.quarantine.records] == [1]
  with pytest.raises(UserError, match="sha256"):
    RecordSource(tmp_path, verify="sha256")
  with pytest.raises(UserError, match="damaged"):
    names(RecordSource(tmp_path, limit=0))


def test_missing_shard_and_foreign_manifests(folder):
  manifest = json.loads((folder / records.MANIFEST).read_text())
  shard(folder).rename(folder / "elsewhere")
  with pytest.raises(UserError, match="missing"):
    RecordSource(folder)
  for text, word in (("{", "JSON"), ("[]", "object"), ('{"format": "other"}', "not a manifest")):
    (folder / records.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=word):
      RecordSource(folder)
  (folder / records.MANIFEST).write_text(json.dumps({**manifest, "shards": []}))
  with pytest.raises(UserError, match="no records"):
    RecordSource(folder)


def test_paths_in_a_manifest_stay_in_the_folder(folder):
  manifest = json.loads((folder / records.MANIFEST).read_text())
  outside = folder.parent / shard(folder).name
  shard(folder).rename(outside)
  manifest["shards"][0]["file"] = f"../{outside.name}"
  (folder / records.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(UserError, match="missing"):
    RecordSource(folder)


def test_no_folder(tmp_path):
  with pytest.raises(UserError, match="manifest"):
    RecordSource(tmp_path / "nothing")
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    RecordWriter(tmp_path / "file" / "set", shards=1)


def test_shards_keep_the_moments_of_an_array(tmp_path):
  """A shard that was written without them, as an older run has it, is read instead."""
  latents = np.random.default_rng(0).normal(3.0, [1.0, 9.0], (10, 4, 2)).astype(np.float32)
  records = [{"latent": latent} for latent in latents]
  RecordWriter(tmp_path, shards=3).write_shard(1, records[4:7])
  writer = RecordWriter(tmp_path, shards=3, moments="latent")
  assert writer.finished_shards() == {1}
  writer.write_shard(0, records[:4])
  writer.write_shard(2, records[7:])
  writer.finish()
  source, read = RecordSource(tmp_path), []
  take = source.quarantine._read
  source.quarantine._read = lambda index: read.append(index) or take(index)
  found = source.moments("latent")
  np.testing.assert_allclose(found.mean, latents.mean((0, 1), np.float64), rtol=1e-6)
  np.testing.assert_allclose(found.std, latents.std((0, 1), np.float64), rtol=1e-6)
  assert read == [4, 5, 6], "others are not read again"
