"""matplotlib, imported lazily."""

from typing import Any

from mg_jax.core.errors import UserError


def pyplot() -> Any:
  """matplotlib's pyplot, drawing to files.

  Raises:
    UserError: without matplotlib.
  """
  try:
    import matplotlib
  except ImportError as e:
    raise UserError("the plot needs matplotlib: pip install -e .[plot]") from e
  matplotlib.use("Agg")
  from matplotlib import pyplot

  return pyplot
