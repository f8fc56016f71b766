import hashlib
import pathlib

import pytest

from mg_jax.core import shipped
from mg_jax.core.errors import UserError


@pytest.fixture
def cast(tmp_path, monkeypatch):
  monkeypatch.setattr(shipped, "FOLDER", tmp_path / "cast")
  (tmp_path / "cast" / "codec").mkdir(parents=True)
  (tmp_path / "cast" / "codec" / "config.json").write_text("{}")
  return tmp_path / "cast"


def test_a_name_of_the_cast_is_a_folder_of_the_package(cast):
  assert shipped.names() == ["cast/codec"]
  assert shipped.locate("cast/codec") == shipped.locate("cast/codec/") == str(cast / "codec")
  assert shipped.is_shipped("cast/codec") and shipped.is_shipped(cast / "codec")


def test_the_folder_is_known_by_every_path_that_leads_to_it(cast, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "link").symlink_to(cast / "codec")
  for path in ("./cast/codec", "link", tmp_path / "link", str(cast / ".." / "cast" / "codec")):
    assert shipped.is_shipped(path), path
    assert shipped.results(path) == pathlib.Path("runs/cast/codec")


def test_results_never_go_to_the_package(cast):
  for reference in ("cast/codec", "cast/codec/", cast / "codec", f"{cast}/codec/"):
    assert shipped.results(reference) == pathlib.Path("runs/cast/codec")
  assert shipped.results("runs/codec") == pathlib.Path("runs/codec")


@pytest.mark.parametrize("path", ["runs/cast/codec", "/cast/codec", "castle"])
def test_anything_else_is_a_path(cast, path):
  assert shipped.locate(path) == path
  assert not shipped.is_shipped(path)
  assert shipped.locate(pathlib.Path("runs")) == "runs"


def test_a_name_that_is_not_of_the_cast_is_refused(cast):
  with pytest.raises(UserError, match=r"cast/x is not of the cast; choose one of cast/codec, or"):
    shipped.locate("cast/x")


def test_an_installation_without_weights_says_so(cast):
  (cast / "codec" / "config.json").unlink()
  with pytest.raises(UserError, match="no shipped weights; install mg_jax from its repository"):
    shipped.locate("cast/codec")


def test_a_file_is_the_one_that_was_shipped(cast):
  file = cast / "codec" / "weights.safetensors"
  digest = hashlib.sha256(b"weights").hexdigest()
  with pytest.raises(UserError, match="is missing; install mg_jax again"):
    shipped.verify(file, digest)
  file.write_bytes(b"weights")
  shipped.verify(file, digest)
  file.write_bytes(b"weightz")
  with pytest.raises(UserError, match="is damaged"):
    shipped.verify(file, digest)
