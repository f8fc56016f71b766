"""The tokenizers against those of transformers, on the same files, and the chain to features."""

import importlib.util
import json
import pathlib
import random
import re

import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from mg_jax.data.text import tokenizers
from mg_jax.models.weights import converted, published

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

LENGTH = 24
SENTENCES = ["A dog runs in the park.", "It's 12 cats, isn't it?", "Ein café — naïve façade!"]


def texts():
  """Sentences, and random strings of characters that tokenizers treat apart."""
  rng = random.Random(0)
  letters = (
    "aZé\u0301\u0316ßİΣſ'’\"st19²½Ⅷ .,!-_<|>/\t\n\u00a0\u3000\u200b日本한\u1100\u1161🎬\u202eש"
  )
  return [*SENTENCES, "", " ", *("".join(rng.choices(letters, k=16)) for _ in range(400))]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
  """A folder with a small `spiece.model` in the layout of T5's."""
  folder = tmp_path_factory.mktemp("t5")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES * 20), model_prefix=str(folder / "spiece"), vocab_size=60,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  """A folder with a small `vocab.json` and `merges.txt` in the layout of CLIP's."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  alphabet = [chr(k) for k in (*printable, *range(256, 256 + 256 - len(printable)))]
  merges = [("a", "t"), ("i", "s</w>"), ("d", "o"), ("do", "g</w>"), ("Ã", "©"), ("1", "9</w>"),
            ("<", "|"), (".", ".</w>"), ("'", "s</w>"), ("'", "t</w>"), ("Ã", "©</w>")]  # fmt: skip
  words = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges)]
  words += [tokenizers.CLIP_START, tokenizers.CLIP_END]
  folder = tmp_path_factory.mktemp("clip")
  (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
  lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
  (folder / "merges.txt").write_text("\n".join(lines))
  return folder


def rows(theirs, text):
  out = theirs(text, max_length=LENGTH, padding="max_length", truncation=True)
  return np.array(out["input_ids"]), np.array(out["attention_mask"], bool)


def compare(ours, theirs, but=None):
  for text in texts():
    if but and but.search(text):
      continue
    ids, mask = ours(text, LENGTH)
    expected, expected_mask = rows(theirs, text)
    np.testing.assert_array_equal(mask, expected_mask, err_msg=repr(text))
    np.testing.assert_array_equal(ids[mask], expected[mask], err_msg=repr(text))


def test_bytes_match():
  compare(tokenizers.open_tokenizer("bytes"), transformers.ByT5Tokenizer())


def test_pieces_in_the_file_of_the_tokenizers_library_match(t5, tmp_path):
  theirs = transformers.T5Tokenizer.from_pretrained(t5)
  theirs.save_pretrained(tmp_path)
  assert not (tmp_path / "spiece.model").exists()
  ours = tokenizers.open_tokenizer("sentencepiece", tmp_path)
  compare(ours, theirs)
  assert ours.vocabulary == len(theirs)


def test_pieces_match(t5):
  # The tokenizers library drops a mark behind a character that is rewritten; sentencepiece, by
  # which T5 was trained, keeps it.
  but = re.compile("[ſ²½Ⅷ\u00a0\u3000][\u0301\u0316]")
  assert 20 < sum(map(bool, map(but.search, texts()))) < 100
  theirs = transformers.T5Tokenizer.from_pretrained(t5)
  compare(tokenizers.open_tokenizer("sentencepiece", t5), theirs, but)


def test_clip_matches_in_both_of_its_files(clip, tmp_path):
  theirs = transformers.CLIPTokenizer.from_pretrained(clip)
  compare(tokenizers.open_tokenizer("clip", clip), theirs)
  theirs.save_pretrained(tmp_path)
  assert not (tmp_path / "vocab.json").exists()
  compare(tokenizers.open_tokenizer("clip", tmp_path), theirs)


def test_features_of_a_text_match(t5, tmp_path):
  place = pathlib.Path(__file__).with_name("text_test.py")
  spec = importlib.util.spec_from_file_location("text_parity", place)
  text_parity = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(text_parity)
  theirs = transformers.T5Tokenizer.from_pretrained(t5)
  fields = text_parity.FIELDS["T5 1.1, ByT5"] | {"vocab": len(theirs)}
  model = text_parity.reference(fields)
  model.save_pretrained(tmp_path / "theirs")
  (tmp_path / "theirs" / "spiece.model").write_bytes((t5 / "spiece.model").read_bytes())
  published.convert(tmp_path / "theirs", tmp_path / "ours", "t5")
  encoder, params = converted.load(tmp_path / "ours")

  # The tokenizer travels with the weights.
  ours = tokenizers.open_tokenizer("sentencepiece", tmp_path / "ours")
  tokenizers.check_vocabulary(ours, fields["vocab"], where="ours")
  ids, mask = (np.stack(a) for a in zip(*(ours(s, LENGTH) for s in SENTENCES), strict=True))
  features = encoder.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask))
  expected, expected_mask = (np.stack(a) for a in
                             zip(*(rows(theirs, s) for s in SENTENCES), strict=True))  # fmt: skip
  with torch.no_grad():
    out = model(torch.tensor(expected), attention_mask=torch.tensor(expected_mask).long())[0]
  out = out.numpy() * expected_mask[..., None]
  assert np.abs(np.asarray(features) - out).max() <= 1e-5 * np.abs(out).max()
