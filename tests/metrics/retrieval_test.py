"""Retrieval at 1 against a brute force, in any batches, with captions that repeat."""

import numpy as np
import pytest

from mg_jax.metrics import retrieval
from mg_jax.metrics.retrieval import Retrieval


def _noisy(count=300, noise=0.8, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.standard_normal((count, 8)).astype(np.float32)
  text = image + noise * rng.standard_normal((count, 8)).astype(np.float32)
  return 5 * image, text


def _brute(query, offer, captions):
  hits = 0
  for i, q in enumerate(query):
    cosines = [q @ o / np.linalg.norm(q) / np.linalg.norm(o) for o in offer]
    hits += captions[int(np.argmax(cosines))] == captions[i]
  return hits


def _filled(image, text, captions, *, batch):
  found = Retrieval()
  for i in range(0, len(image), batch):
    found.add(image[i : i + batch], text[i : i + batch], captions[i : i + batch])
  return found


@pytest.mark.parametrize("batch", [300, 7])
def test_recall_is_that_of_a_brute_force(batch, monkeypatch):
  monkeypatch.setattr(retrieval, "_ROWS", 64)
  image, text = _noisy()
  captions = [f"caption {i // 2 if i < 40 else i}" for i in range(300)]
  found = _filled(image, text, captions, batch=batch)
  rates = found.compute()
  assert rates["image_to_text"].passed == _brute(image, text, captions)
  assert rates["text_to_image"].passed == _brute(text, image, captions)
  assert rates["image_to_text"].count == len(found) == 300 and found.duplicates == 20
  assert 0.2 < rates["image_to_text"].rate < 0.9, "neither chance nor a matter of course"


def test_equal_captions_are_right_for_each_other():
  image, text = np.eye(3)[[1, 0, 2]], np.eye(3)
  apart = _filled(image, text, ["a", "b", "c"], batch=3).compute()
  alike = _filled(image, text, ["a", "a", "c"], batch=3).compute()
  assert [r.passed for r in apart.values()] == [1, 1]
  assert [r.passed for r in alike.values()] == [3, 3]


def test_features_that_say_nothing_are_at_chance():
  same = np.ones((50, 4))
  rates = _filled(same, same, list(range(50)), batch=50).compute()
  assert [r.rate for r in rates.values()] == [1 / 50, 1 / 50]


def test_nothing_is_no_rate_and_pairs_must_match():
  empty = Retrieval().compute()["image_to_text"]
  assert empty.count == 0 and np.isnan(empty.rate)
  with pytest.raises(ValueError, match="2 images, 3 texts, 2 captions"):
    Retrieval().add(np.ones((2, 4)), np.ones((3, 4)), ["a", "b"])
