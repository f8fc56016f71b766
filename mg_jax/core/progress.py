"""Progress of long work: a bar on a terminal, elsewhere a line now and then.

In a log file a line such as "latents: 210/12000, 03:12 left" appears every `EVERY` seconds of work
that takes longer than that.
"""

import logging
import sys
from collections.abc import Iterable

from tqdm import tqdm

_log = logging.getLogger(__name__)
EVERY = 15.0


class _Lines:
  """A file of tqdm's whose every picture of the bar becomes a line of the log."""

  def write(self, text: str) -> None:
    if line := text.strip():
      _log.info("%s", line)

  def flush(self) -> None:
    pass


def track(iterable: Iterable | None = None, what: str = "", *, total: int | None = None) -> tqdm:
  """Shows how far work has come and how long it still takes.

  Args:
    iterable: what is worked through, which the result yields; without it call `update` and `close`.
    what: named in front.
    total: of the items, by default the length of `iterable`.
  """
  if sys.stderr.isatty():
    return tqdm(iterable, what, total, leave=False)
  return tqdm(
    iterable, what, total, leave=False, file=_Lines(), mininterval=EVERY, maxinterval=EVERY,
    miniters=1, delay=EVERY, bar_format="{desc}: {n_fmt}/{total_fmt}, {remaining} left",
  )
