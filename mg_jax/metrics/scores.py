"""Rates of yes-or-no measurements and means of shares with their uncertainty, clip by clip.

In: one mapping of criterion -> True, False, a float in [0, 1] (a share, such as that of correct
letters) or None (not applicable) per generated clip, as the toy world's oracles return. Out: for
each criterion the rate of True, or the mean share, with its Wilson 95 % interval, as a text table
and as plain data. Plain Python: nothing here touches an accelerator.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mg_jax.core.rates import Rate, wilson

ALL = "all"


class Scores:
  """Streaming accumulator; criterion `"all"` counts the clips that passed all their criteria;
  shares do not affect it.
  """

  def __init__(self) -> None:
    self._passed: dict[str, int | float] = {}
    self._count: dict[str, int] = {}

  def add(self, result: Mapping[str, Any]) -> None:
    """Adds one clip; None and missing criteria are not counted.

    Raises:
      ValueError: on a criterion named "all", or on a value that is neither a bool nor a share.
    """
    applicable = {name: value for name, value in result.items() if value is not None}
    if ALL in applicable:
      raise ValueError(f'criterion name "{ALL}" is reserved for the conjunction')
    for name, value in applicable.items():
      if not (0 <= value <= 1 if isinstance(value, float) else value in (True, False)):
        raise ValueError(f"criterion {name} is {value!r}, not True, False or a share in 0.0..1.0")
    decided = [bool(value) for value in applicable.values() if not isinstance(value, float)]
    if decided:
      applicable[ALL] = all(decided)
    for name, value in applicable.items():
      passed = value if isinstance(value, float) else int(value)
      self._passed[name] = self._passed.get(name, 0) + passed
      self._count[name] = self._count.get(name, 0) + 1

  def compute(self) -> dict[str, Rate]:
    """Rates by criterion: "all" first, the others sorted by name."""
    names = sorted(self._count, key=lambda name: (name != ALL, name))
    return {name: wilson(self._passed[name], self._count[name]) for name in names}

  def table(self) -> str:
    """Aligned text, one criterion per line: rate, interval, counts."""
    rates = self.compute()
    width = max([len("criterion"), *map(len, rates)])
    lines = [f"{'criterion':<{width}}   rate   95 % interval   passed"]
    for name, r in rates.items():
      passed = f"{round(r.passed, 1):>3}/{r.count}"
      lines.append(f"{name:<{width}}  {r.rate:5.1%}  {r.low:5.1%} .. {r.high:6.1%}  {passed}")
    return "\n".join(lines)

  def to_dict(self) -> dict[str, dict[str, Any]]:
    """The rates ready for JSON: {criterion: {passed, count, rate, low, high}}."""
    return {name: dataclasses.asdict(rate) for name, rate in self.compute().items()}
