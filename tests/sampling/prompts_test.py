import json
import re

import pytest

from mg_jax.core.errors import UserError
from mg_jax.data.sources import toy
from mg_jax.data.text.readers import Reader, TextConfig
from mg_jax.data.text.tokenizers import open_tokenizer
from mg_jax.sampling import prompts
from mg_jax.world.scene.sampling import WorldConfig


def test_ordinary_text_passes_unchanged():
  for text in ["a red ball rolls", "🎈🐶 une fête", "../../etc/passwd", "</s> FPS-99", "a\x00b"]:
    assert prompts.check(text) == (text, None)


def test_long_and_empty_prompts_come_with_a_sentence():
  text, notice = prompts.check("é" * 10_001)
  assert len(text) == 10_000 and "10001" in notice and "10000" in notice
  assert prompts.check("é" * 10_000)[1] is None
  for empty in ["", "  \t "]:
    text, notice = prompts.check(empty)
    assert text == "" and "without any text" in notice


def test_text_file_has_one_prompt_a_line(tmp_path):
  path = tmp_path / "list.txt"
  path.write_bytes("\ufeffa ball\r\n\n  two \u2028 suns 🌞  \n".encode())
  assert prompts.read(path) == [("a ball", None), ("two \u2028 suns 🌞", None)]


def test_jsonl_may_carry_seeds_and_empty_prompts(tmp_path):
  path = tmp_path / "list.jsonl"
  rows = [{"prompt": "a ball\nrolls", "seed": 3}, {"prompt": ""}, {"prompt": "x", "seed": None}]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert prompts.read(path) == [("a ball\nrolls", 3), ("", None), ("x", None)]


@pytest.mark.parametrize("content,message", [
  ("{\"prompt\": \"a\"}\nnot json", "line 2"),
  ("[" * 100_000, "line 1"),
  ("{\"text\": \"a\"}", "no \"prompt\""),
  ("{\"prompt\": 3}", "no \"prompt\""),
  ("{\"prompt\": \"a\", \"seed\": 1.5}", "seed"),
  ("{\"prompt\": \"a\", \"seed\": true}", "seed"),
  ("\n \n", "no prompt"),
])
def test_malformed_files_are_user_errors(tmp_path, content, message):
  path = tmp_path / "list.jsonl"
  path.write_text(content)
  with pytest.raises(UserError, match=message):
    prompts.read(path)


def test_unreadable_files_are_user_errors(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    prompts.read(tmp_path / "absent.txt")
  (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="UTF-8"):
    prompts.read(tmp_path / "binary.txt")


def test_plan_gives_seeds_names_and_notices():
  entries = [("a ball", None), ("../../x/$(y)", 7), ("", None), ("a ball", None)]
  planned, notices = prompts.plan(entries, seed=10)
  assert [p.seed for p in planned] == [10, 7, 12, 13]
  assert len({p.name for p in planned}) == 4
  assert all(re.fullmatch(r"\d{4}-[0-9a-f]{8}-seed\d+", p.name) for p in planned)
  assert len(notices) == 1 and notices[0].startswith("Prompt 2:")


def test_names_follow_the_text_and_the_seed():
  name = lambda text, seed: prompts.plan([(text, None)], seed=seed)[0][0].name  # noqa: E731
  assert name("a", 0) == name("a", 0)
  assert len({name("a", 0), name("b", 0), name("a", 1)}) == 3
  assert name("\ud800", 0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_outside_their_range_are_user_errors(seed):
  with pytest.raises(UserError, match="seed"):
    prompts.plan([("a", None)], seed=seed)


def test_held_out_captions_are_those_of_the_validation_split():
  world = WorldConfig.simple()
  held = prompts.held_out(world, 4)
  assert held == prompts.held_out(world, 6)[:4] and all(seed is None for _, seed in held)
  recipe = toy.ToyRecipe(frames=2, height=24, width=24, train=1, validation=4, world=world)
  validation = toy.ToySource(recipe, "validation")
  assert [text for text, _ in held] == [validation[i].caption for i in range(4)]


def test_a_prompt_that_the_model_reads_in_part_is_told():
  # 16 tokens: "FPS-8 ", nine bytes, the end; of the quoted words three and the end.
  texts = ["a red ba", "a red bal", "a red ball", "ééééé", "", 'a "CAT"', 'a "GOAT"']
  planned, _ = prompts.plan([(text, None) for text in texts], seed=0)
  readers = {
    "letters": Reader(TextConfig(length=4, reads="quoted"), open_tokenizer("bytes")),
    "text": Reader(TextConfig(length=16), open_tokenizer("bytes")),
  }
  notices = prompts.cut(planned, readers, tags={"fps": 8.0})
  assert [notice[:25] for notice in notices] == [
    "Prompt 2: text reads only", "Prompt 3: text reads only", "Prompt 6: letters reads o"
  ]
  assert notices[2].endswith("its first 4 tokens, tags included.")
