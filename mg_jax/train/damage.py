"""Errors about damaged checkpoints, and their remedies.

The storage library reports damage with pages of its own settings; only the array matters here.
"""

import re
from collections.abc import Iterable, Sequence

from mg_jax.core.errors import UserError

# Arrays are stored under their path with dots, and files in it, such as "ema.model.bias/.zarray".
_STORED = re.compile(r"""["']([^"'/\s]+)/""")


class DamagedError(UserError):
  """A checkpoint that exists but whose content is damaged."""

  def __init__(self, step: int, folder, what: str, older: Sequence[int] = ()):
    """The error for a damaged step in a folder of checkpoints, of which `older` ones remain."""
    self.fact = f"step {step} in {folder} is damaged: {what}"
    if older:
      remedy = (
        "train with --config.train.restore_fallback=true to set it aside and continue from step "
        f"{max(older)}"
      )
    else:
      remedy = "no older step is left, so restore it from a copy or start in another workdir"
    super().__init__(f"{self.fact}; {remedy}")


def find_leaf(error: BaseException, leaves: Iterable[str] = ()) -> str | None:
  """The path of the array named in an error of the storage library, or None.

  Args:
    error: as raised, with its causes.
    leaves: the paths of all arrays; by default any stored name counts.
  """
  paths = {path.replace("/", "."): path for path in leaves}
  link: BaseException | None = error
  while link is not None:
    for name in _STORED.findall(str(link)):
      if name in paths or (not paths and "." in name.strip(".")):
        return paths.get(name, name.replace(".", "/"))
    link = link.__cause__ or link.__context__
  return None
