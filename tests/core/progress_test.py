import io
import logging
import sys

import pytest

from mg_jax.core import progress


@pytest.fixture
def clock(monkeypatch):
  """The time that tqdm sees, seconds; a test moves it."""
  now = [100.0]
  monkeypatch.setattr("tqdm.std.time", lambda: now[0])
  monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
  return now


def test_long_work_logs_lines_with_the_time_left(clock, monkeypatch, caplog):
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  with caplog.at_level(logging.INFO):
    for _ in progress.track(range(100), "latents"):
      clock[0] += 1.0
  assert [record.message for record in caplog.records] == [
    "latents: 15/100, 01:25 left", "latents: 30/100, 01:10 left", "latents: 45/100, 00:55 left",
    "latents: 60/100, 00:40 left", "latents: 75/100, 00:25 left", "latents: 90/100, 00:10 left",
  ]  # fmt: skip


def test_short_work_is_silent(clock, monkeypatch, caplog):
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  with caplog.at_level(logging.INFO):
    for _ in progress.track(range(100), "latents"):
      clock[0] += 0.1
  assert not caplog.records


def test_a_terminal_shows_a_bar(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  monkeypatch.setattr(sys, "stderr", Terminal())
  bar = progress.track(what="latents", total=4)
  bar.update(2)
  bar.refresh()
  shown = sys.stderr.getvalue()
  bar.close()
  assert "latents:  50%|" in shown and "2/4" in shown
