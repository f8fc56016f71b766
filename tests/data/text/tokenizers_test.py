import base64
import concurrent.futures
import gzip
import itertools
import json
import pickle
import shutil

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers

from mg_jax.core.errors import UserError
from mg_jax.data.text import tokenizers
from mg_jax.data.text.prompts import encode_bytes

SENTENCES = ["a dog runs in the park", "the cat sleeps on a mat", "a blue ball rolls down </s>"]
SPECIALS = ("<|startoftext|>", "<|endoftext|>", "</s>", "<pad>", "<unk>", "<extra_id_0>")
MERGES = [("d", "o"), ("do", "g</w>"), ("r", "u"), ("ru", "n"), ("run", "s</w>"), ("!", "!</w>")]


def train(folder, **options):
  """A small sentencepiece model laid out as T5's: pad 0, end 1, unknown 2."""
  folder.mkdir(parents=True)
  ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES * 20), model_prefix=str(folder / "spiece"), vocab_size=50,
    hard_vocab_limit=False, minloglevel=2, **ids,
  )  # fmt: skip
  return folder


def pieces(folder):
  processor = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
  size = processor.vocab_size()
  return [[processor.id_to_piece(k), processor.get_score(k)] for k in range(size)]


def unigram(folder, table):
  """`tokenizer.json` with the pieces and, as in T5's, special tokens among them."""
  folder.mkdir()
  sentinels = ["<extra_id_1>", "<extra_id_0>"]
  vocab = [(piece, score) for piece, score in [*table, *([s, 0.0] for s in sentinels)]]
  library = Tokenizer(models.Unigram(vocab, unk_id=2))
  library.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
  )
  library.add_special_tokens(["<pad>", "</s>", "<unk>", *sentinels])
  library.save(str(folder / "tokenizer.json"))
  return folder


def clip_vocab(merges=MERGES):
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  rest = [chr(256 + k) for k in range(256 - len(printable))]
  alphabet = [*map(chr, printable), *rest]
  words = [*alphabet, *(a + "</w>" for a in alphabet), *map("".join, merges)]
  return {word: k for k, word in enumerate([*words, *SPECIALS[:2]])}


def clip(folder, form, vocab=None, merges=MERGES):
  folder.mkdir(exist_ok=True)
  vocab = clip_vocab() if vocab is None else vocab
  lines = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
  if form == "pair":
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text(lines)
  elif form == "list":
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(lines.encode()))
  else:
    merges = [" ".join(m) for m in merges] if form == "old json" else merges
    added = [{"id": vocab.get(s, 0), "content": s, "special": True} for s in SPECIALS[:2]]
    spec = {"added_tokens": added, "model": {"vocab": vocab, "merges": merges}}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
  return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("tokenizers")
  model = train(root / "model")
  return {
    "bytes": ("bytes", None),
    "words": ("words", None),
    "model": ("sentencepiece", model),
    "sentinels": ("sentencepiece", train(root / "marked", user_defined_symbols="<extra_id_0>")),
    "unigram": ("sentencepiece", unigram(root / "unigram", pieces(model))),
    "clip": ("clip", clip(root / "clip", "pair")),
  }


KINDS = ("bytes", "words", "model", "sentinels", "unigram", "clip")


@pytest.fixture(params=KINDS)
def tokenizer(request, folders):
  return tokenizers.open_tokenizer(*folders[request.param])


def test_every_text_starts_and_ends_alike_and_is_padded_with_zero(tokenizer):
  ids, mask = tokenizer("a dog runs", 40)
  assert ids.shape == mask.shape == (40,) and ids.dtype == np.int32 and mask.dtype == bool
  count = mask.sum()
  assert 4 <= count < 40 and mask[:count].all() and (ids[count:] == 0).all()
  assert ids.max() < tokenizer.vocabulary
  # A text without words is what every text has: its end, and before it the start of CLIP.
  empty, empty_mask = tokenizer("", 40)
  bare = empty[empty_mask].tolist()
  assert len(bare) in (1, 2) and ids[count - 1] == bare[-1]
  assert ids[0] == bare[0] or len(bare) == 1


@pytest.mark.parametrize("length", [2, 3, 5, 9])
def test_long_text_is_cut_and_keeps_its_end(tokenizer, length):
  whole, _ = tokenizer("a dog runs " * 30, 60)
  ids, mask = tokenizer("a dog runs " * 30, length)
  assert mask.all()
  np.testing.assert_array_equal(ids[:-1], whole[: length - 1])
  assert ids[-1] == whole[-1]


def test_bytes_are_those_of_the_byte_tokenizer():
  ours = tokenizers.open_tokenizer("bytes")
  for a, b in zip(ours("né\0", 6), encode_bytes("né\0", 6), strict=True):
    np.testing.assert_array_equal(a, b)
  assert ours.vocabulary == 259


def test_words_have_an_id_each_that_hides_their_letters():
  ids, mask = tokenizers.open_tokenizer("words")('A sign, a "SIGN"', 10)
  a, sign, comma, again, quote, shouted, end = ids[mask][[0, 1, 2, 3, 4, 5, 7]].tolist()
  assert mask.sum() == 8 and end == 1
  assert a == again and sign == shouted and len({a, sign, comma, quote, end}) == 5
  other, _ = tokenizers.open_tokenizer("words")("signs", 10)
  assert other[0] != sign and other[1] == 1


def test_sentence_pieces_are_those_of_the_library(folders):
  folder = folders["model"][1]
  processor = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
  for kind in ("model", "unigram"):
    tokenizer = tokenizers.open_tokenizer(*folders[kind])
    for text in ("the dog sleeps", "  a  blue  cat ", "", "zebra & 3 cats", *SPECIALS):
      ids, mask = tokenizer(text, 40)
      assert ids[mask].tolist() == [*processor.encode(text), 1], (kind, text)


@pytest.mark.parametrize("form", ["pair", "list", "json", "old json"])
def test_clip_ids_in_every_form_of_its_files(tmp_path, form):
  tokenizer = tokenizers.open_tokenizer("clip", clip(tmp_path, form))
  vocab = clip_vocab()
  assert tokenizer.vocabulary == len(vocab) == 512 + len(MERGES) + 2
  words = [SPECIALS[0], "dog</w>", "run", "t</w>", "1</w>", "2</w>", "!", "!!</w>", SPECIALS[1]]
  ids, mask = tokenizer("DOG \t\n runt12!!!", 12)
  assert ids[mask].tolist() == [vocab[word] for word in words]


def test_clip_composes_characters_and_spells_bytes(tmp_path):
  tokenizer = tokenizers.open_tokenizer("clip", clip(tmp_path, "pair"))
  np.testing.assert_array_equal(tokenizer("e\u0301", 8)[0], tokenizer("É", 8)[0])
  # U+00E9 is the bytes C3 A9, both of which print as themselves.
  vocab = clip_vocab()
  assert tokenizer("é", 4)[0].tolist()[1:3] == [vocab["Ã"], vocab["©</w>"]]


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("joint", ["", " "])
def test_special_tokens_in_a_text_are_data(tokenizer, special, joint):
  ids, mask = tokenizer(f"a dog{joint}{special}{joint}runs", 60)
  empty, empty_mask = tokenizer("", 4)
  assert not set(ids[mask][1:-1]) & {0, 1, *empty[empty_mask]}
  assert mask.sum() > tokenizer("a dog runs", 60)[1].sum()


def test_no_sentinel_is_reached(folders):
  for kind in ("sentinels", "unigram"):
    name, folder = folders[kind]
    if kind == "sentinels":
      table = pieces(folder)
    else:
      table = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    sentinel = [piece for piece, _ in table].index("<extra_id_0>")
    ids, _ = tokenizers.open_tokenizer(name, folder)("a <extra_id_0> dog<extra_id_0>", 60)
    assert sentinel not in ids


AWKWARD = [
  "nul\0inside", "\0", "שלום \u202e", "🎬👩\u200d👧", "a\u0301\u0316" * 50, "\ufeff\uffff", "▁▁",
  " \t",
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_give_ids(tokenizer, text):
  ids, mask = tokenizer(text, 16)
  assert mask[0] and (ids >= 0).all() and (ids < tokenizer.vocabulary).all()


def test_lone_surrogates_are_question_marks(tokenizer):
  np.testing.assert_array_equal(tokenizer("a\ud800 \udfff", 16)[0], tokenizer("a? ?", 16)[0])


@pytest.mark.parametrize("unit", ["a dog runs ", "a", " ", "a! ", "\0", "🎬"])
def test_megabyte_has_the_ids_of_its_beginning(tokenizer, unit):
  ids, mask = tokenizer(unit * (1_000_000 // len(unit)), 20)
  begin, begin_mask = tokenizer(unit * 4000, 20)
  np.testing.assert_array_equal(ids, begin)
  np.testing.assert_array_equal(mask, begin_mask)


@pytest.mark.parametrize("kind", ["unigram", "clip"])
def test_parts_have_the_ids_of_the_whole(folders, kind, monkeypatch):
  tokenizer = tokenizers.open_tokenizer(*folders[kind])
  text = "a dog -- runs,  the\n cat's 3 mats e\u0301 !! down " * 6
  monkeypatch.setattr(tokenizers, "_PART", 10**6)
  whole = tokenizer(text, 400)
  for size in (1, 7, 30):
    monkeypatch.setattr(tokenizers, "_PART", size)
    np.testing.assert_array_equal(tokenizer(text, 400), whole)


def test_tokenizers_travel_between_processes_and_threads(tokenizer):
  packed = pickle.dumps(tokenizer)
  assert len(packed) < 1000 and pickle.loads(packed) == tokenizer
  tokenizers._load.cache_clear()
  copy = pickle.loads(packed)
  texts = [f"dog {k} runs" for k in range(200)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda text: copy(text, 24)[0], texts))
  np.testing.assert_array_equal(found, [tokenizer(text, 24)[0] for text in texts])


def test_files_are_read_once_and_anew_when_they_change(tmp_path, monkeypatch):
  folder = clip(tmp_path / "clip", "pair")
  first = tokenizers.open_tokenizer("clip", folder)
  monkeypatch.chdir(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(tokenizers, "_read_bytes", None)
    again = tokenizers.open_tokenizer("clip", "clip")
    assert again == first and again("dog", 4)[0][1] == clip_vocab()["dog</w>"]
  clip(folder, "pair", vocab=clip_vocab(MERGES[:2]), merges=MERGES[:2])
  assert tokenizers.open_tokenizer("clip", folder).vocabulary == 512 + 2 + 2


@pytest.mark.parametrize("kind", KINDS)
def test_too_short_a_length_is_told(folders, kind):
  tokenizer = tokenizers.open_tokenizer(*folders[kind])
  least = 2 if kind == "clip" else 1
  assert tokenizer("dog", least)[1].all()
  for length in (least - 1, -3):
    with pytest.raises(UserError, match=f"at least {least}"):
      tokenizer("dog", length)


def test_missing_files_are_told(tmp_path):
  with pytest.raises(UserError, match="choose one of bytes, words, sentencepiece, clip"):
    tokenizers.open_tokenizer("word", tmp_path)
  with pytest.raises(UserError, match="needs the folder"):
    tokenizers.open_tokenizer("clip")
  (tmp_path / "vocab.json").write_text("{}")
  for folder in (tmp_path, tmp_path / "none"):
    with pytest.raises(UserError, match="has no spiece.model or tokenizer.json"):
      tokenizers.open_tokenizer("sentencepiece", folder)
    with pytest.raises(UserError, match="vocab.json with merges.txt"):
      tokenizers.open_tokenizer("clip", folder)
  folder = clip(tmp_path / "gone", "pair")
  tokenizer = tokenizers.open_tokenizer("clip", folder)
  tokenizers._load.cache_clear()
  shutil.rmtree(folder)
  with pytest.raises(UserError, match="cannot be read"):
    tokenizer("dog", 4)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
DAMAGED = [b"", POINTER, b"\x00\xff" * 40, b"[" * 100_000, b"[1]", b'{"model": 3}', b"\x1f\x8bab"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("name, file", [
  ("sentencepiece", "spiece.model"), ("sentencepiece", "tokenizer.json"),
  ("clip", "tokenizer.json"), ("clip", "vocab.json"), ("clip", "merges.txt"),
  ("clip", "bpe_simple_vocab_16e6.txt.gz"),
])  # fmt: skip
def test_damaged_files_are_told(tmp_path, name, file, content):
  if file in ("vocab.json", "merges.txt"):
    clip(tmp_path, "pair")
  (tmp_path / file).write_bytes(content)
  with pytest.raises(UserError, match=str(tmp_path)) as told:
    tokenizers.open_tokenizer(name, tmp_path)
  assert "\n" not in str(told.value) and len(str(told.value)) < 400


def test_cut_files_are_told(tmp_path, folders):
  clip(tmp_path / "clip", "list")
  cases = {folders["model"][1] / "spiece.model", folders["unigram"][1] / "tokenizer.json"}
  for file in (*cases, tmp_path / "clip" / "bpe_simple_vocab_16e6.txt.gz"):
    name = "clip" if file.suffix == ".gz" else "sentencepiece"
    data = file.read_bytes()
    for k, share in enumerate((0.3, 0.6, 0.9)):
      folder = tmp_path / f"{file.suffix}{k}"
      folder.mkdir()
      (folder / file.name).write_bytes(data[: int(len(data) * share)])
      with pytest.raises(UserError, match="damaged|no end token"):
        tokenizers.open_tokenizer(name, folder)


def test_vocabularies_of_another_kind_are_told(tmp_path, folders):
  clip(tmp_path / "a", "json")
  with pytest.raises(UserError, match="no sentence pieces.*T5"):
    tokenizers.open_tokenizer("sentencepiece", tmp_path / "a")
  with pytest.raises(UserError, match="no byte pairs.*CLIP"):
    tokenizers.open_tokenizer("clip", folders["unigram"][1])
  with pytest.raises(UserError, match="no end token"):
    tokenizers.open_tokenizer("sentencepiece", train(tmp_path / "endless", eos_id=-1))


@pytest.mark.parametrize("vocab, merges, words", [
  ([], MERGES, "JSON object"),
  ({"a": "b"}, MERGES, "words and ids"),
  ({"a": True}, MERGES, "words and ids"),
  ({"a": 2**40}, MERGES, "not consecutive"),
  ({word: k + 1 for word, k in clip_vocab().items()}, MERGES, "not consecutive"),
  ({"a": 0, "b": 1}, MERGES, "lacks 512 tokens"),
  (None, [*MERGES, ("q", "zz")], "merge.*zz.*does not fit"),
  (None, [*MERGES, ("d", "o", "g")], "does not fit"),
  (None, [*MERGES, ("dog",)], "does not fit"),
])  # fmt: skip
def test_vocabularies_that_do_not_fit_are_told(tmp_path, vocab, merges, words):
  with pytest.raises(UserError, match=words):
    tokenizers.open_tokenizer("clip", clip(tmp_path, "pair", vocab=vocab, merges=merges))


def test_a_damaged_normalizer_is_told(tmp_path, folders, capfd):
  spec = json.loads((folders["unigram"][1] / "tokenizer.json").read_text())
  table = base64.b64encode(b"\xff" * 30).decode()
  spec["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": table}
  (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
  with pytest.raises(UserError, match="damaged"):
    tokenizers.open_tokenizer("sentencepiece", tmp_path)


class Sized:
  def __init__(self, vocabulary):
    self.vocabulary = vocabulary


@pytest.mark.parametrize("ids, rows", [(32000, 32128), (32100, 32128), (259, 384), (49408, 49408)])
def test_published_pairs_of_tokenizer_and_encoder_pass(ids, rows):
  tokenizers.check_vocabulary(Sized(ids), rows, where="text_encoder")


@pytest.mark.parametrize("ids, rows", [(49408, 32128), (259, 32128), (385, 384), (1000, 1513)])
def test_other_pairs_are_told(ids, rows):
  with pytest.raises(UserError, match=f"^text_encoder: .*{ids} ids.*{rows} rows"):
    tokenizers.check_vocabulary(Sized(ids), rows, where="text_encoder")


def test_published_vocabularies_give_published_ids(media, tmp_path):
  golden = media / "golden" / "tokenizer_goldens.json"
  if not golden.is_file():
    pytest.skip(f"no {golden}")
  list_of_clip = "bpe_simple_vocab_16e6.txt.gz"
  (tmp_path / "spiece.model").symlink_to(media / "tokenizers" / "t5-base.spiece.model")
  (tmp_path / list_of_clip).symlink_to(media / "tokenizers" / list_of_clip)
  opened = {
    "t5": tokenizers.open_tokenizer("sentencepiece", tmp_path),
    "byt5": tokenizers.open_tokenizer("bytes"),
    "clip": tokenizers.open_tokenizer("clip", tmp_path),
  }
  assert [t.vocabulary for t in opened.values()] == [32000, 259, 49408]
  items = json.loads(golden.read_text())["items"]
  assert len(items) > 40
  for item, (key, tokenizer) in itertools.product(items, opened.items()):
    # Texts that the file leaves out are still there as their bytes.
    text = bytes(k - 3 for k in item["byt5"][:-1]).decode()
    assert item["text"] in (None, text)
    ids, mask = tokenizer(text, len(item[key]))
    assert ids.tolist() == item[key], (key, text)
    assert ids[mask][-1] == (49407 if key == "clip" else 1)
