"""A proportion with Wilson's 95 % interval. Plain Python."""

import dataclasses
import math

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal


@dataclasses.dataclass(frozen=True)
class Rate:
  """A proportion of `passed` among `count`, with its 95 % interval [low, high], all in 0..1.
  For shares, `passed` is their sum."""

  passed: int | float
  count: int
  rate: float
  low: float
  high: float


def wilson(passed: int | float, count: int, *, z: float = Z_95) -> Rate:
  """Wilson's score interval of a proportion; with count = 0 the rate is nan on [0, 1].

  Unlike the normal interval it stays inside [0, 1] and keeps a width at 0 % and at 100 %, where
  small samples often end. Shares vary less than yes-or-no outcomes of the same mean, so for a mean
  of shares the interval is conservative.

  Raises:
    ValueError: unless 0 <= passed <= count.
  """
  if not 0 <= passed <= count:
    raise ValueError(f"{passed} passed of {count} is not a proportion")
  if count == 0:
    return Rate(0, 0, math.nan, 0.0, 1.0)
  rate = passed / count
  scale = 1 + z * z / count
  centre = (rate + z * z / (2 * count)) / scale
  half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / scale
  low = 0.0 if passed == 0 else centre - half  # exact; the formula leaves a rounding error
  high = 1.0 if passed == count else centre + half
  return Rate(passed, count, rate, low, high)
