"""What is said of a checkpoint that cannot be trusted, and what to do then.

The storage library reports damage as pages of its own settings; of these only the array matters.
"""

import re
from collections.abc import Iterable, Sequence

from mg_jax.core.errors import UserError

# Arrays are stored under their path with dots, and files in it, such as "ema.model.bias/.zarray".
_STORED = re.compile(r"""["']([^"'/\s]+)/""")


class DamagedError(UserError):
  """A checkpoint that is there but whose content cannot be trusted."""

  def __init__(self, step: int, folder, what: str, older: Sequence[int] = ()):
    """Says what is damaged of a step in a folder of checkpoints, `older` ones of which remain."""
    self.fact = f"step {step} in {folder} is damaged: {what}"
    if older:
      remedy = (
        "train with --config.train.restore_fallback=true to set it aside and go on from step "
        f"{max(older)}"
      )
    else:
      remedy = "no older step is left, so bring it back from a copy or start in another workdir"
    super().__init__(f"{self.fact}; {remedy}")


def find_leaf(error: BaseException, leaves: Iterable[str] = ()) -> str | None:
  """The path of the array that an error of the storage library speaks of, or None.

  Args:
    error: as it was raised, with what it was raised from.
    leaves: the paths of all arrays; by default every stored name counts as one.
  """
  paths = {path.replace("/", "."): path for path in leaves}
  link: BaseException | None = error
  while link is not None:
    for name in _STORED.findall(str(link)):
      if name in paths or (not paths and "." in name.strip(".")):
        return paths.get(name, name.replace(".", "/"))
    link = link.__cause__ or link.__context__
  return None
