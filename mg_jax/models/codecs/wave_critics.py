"""Critics of waveforms, for the adversarial loss of the audio codec [MG 6.2].

Those of DAC: one per period p, on the samples folded into p columns, and one per window, on the
complex spectrum, in five bands with a stack of convolutions each. Inputs have their mean removed
and are normalised to a peak of 0.8, so critics are invariant to level. `weight_norm` learns every
kernel as a direction and norms, as DAC does.

wave (B, T) in [-1, 1] -> for each critic, logits (positive for real) and the features before them
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mg_jax.core.errors import UserError
from mg_jax.core.sharding import shard
from mg_jax.core.typing import Array, Float
from mg_jax.kernels.spectrum import stft
from mg_jax.nn.conv import PlaneConv

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))  # of half the sample rate
PEAK = 0.8
_SLOPE = 0.1  # of leaky ReLUs
_EPS = 1e-9

# Output of a critic: logits and features.
Judgement = tuple[Array, list[Array]]


def _stack(convs: Sequence[PlaneConv], x: Array) -> list[Array]:
  features = []
  for conv in convs:
    x = shard(jax.nn.leaky_relu(conv(x), _SLOPE), "batch", "time", "height", "channels")
    features.append(x)
  return features


class PeriodCritic(nn.Module):
  """Critic of columns of samples `period` apart; all `widths` but the last divide time by three."""

  period: int
  widths: tuple[int, ...]
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BT: Float[Array, "B T"]) -> Judgement:
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}
    wave = jnp.pad(wave_BT, ((0, 0), (0, -wave_BT.shape[1] % self.period)), mode="reflect")
    x = wave.reshape(len(wave), -1, self.period, 1)
    last = len(self.widths) - 1
    convs = [
      PlaneConv(width, (5, 1), (1 if i == last else 3, 1), name=f"conv{i}", **how)
      for i, width in enumerate(self.widths)
    ]
    features = _stack(convs, x)
    logit = PlaneConv(1, (3, 1), name="logit", **how)
    return logit(features[-1]).astype(jnp.float32), features


class SpectrumCritic(nn.Module):
  """Critic of the spectrum of one `window`: bands separately, then concatenated."""

  window: int
  width: int
  bands: tuple[tuple[float, float], ...] = BANDS
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BT: Float[Array, "B T"]) -> Judgement:
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}
    spectrum = stft(wave_BT, window=self.window, hop=self.window // 4)
    count, ends, features = spectrum.shape[2], [], []
    for k, (low, high) in enumerate(self.bands):
      band = spectrum[:, :, int(low * count) : int(high * count)]
      shapes = [((3, 9), (1, 1))] + [((3, 9), (1, 2))] * 3 + [((3, 3), (1, 1))]
      convs = [
        PlaneConv(self.width, kernel, strides, name=f"band{k}_conv{i}", **how)
        for i, (kernel, strides) in enumerate(shapes)
      ]
      features += _stack(convs, band)
      ends.append(features[-1])
    logit = PlaneConv(1, (3, 3), name="logit", **how)
    return logit(jnp.concatenate(ends, axis=2)).astype(jnp.float32), features


class WaveCritics(nn.Module):
  """All critics.

  Attributes:
    periods: one critic each; () for none.
    period_widths: their channels.
    windows: of the spectra, one critic each; () for none.
    spectrum_width: channels of spectrum critics.
    bands: ranges of the spectrum, from 0 to 1 (half the sample rate).
    weight_norm: learns kernels as directions and norms (`nn.weight_norm`).
  """

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  period_widths: tuple[int, ...] = (32, 128, 512, 1024, 1024)
  windows: tuple[int, ...] = (2048, 1024, 512)
  spectrum_width: int = 32
  bands: tuple[tuple[float, float], ...] = BANDS
  weight_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, wave_BT: Float[Array, "B T"]) -> list[Judgement]:
    _check(self)
    wave = wave_BT - jnp.mean(wave_BT, axis=1, keepdims=True)
    wave = PEAK * wave / (jnp.max(jnp.abs(wave), axis=1, keepdims=True) + _EPS)
    how = {"weight_norm": self.weight_norm, "dtype": self.dtype}
    critics = [
      PeriodCritic(p, self.period_widths, name=f"period{p}", **how) for p in self.periods
    ]
    critics += [
      SpectrumCritic(w, self.spectrum_width, self.bands, name=f"window{w}", **how)
      for w in self.windows
    ]
    return [critic(wave) for critic in critics]


def _check(critics: WaveCritics) -> None:
  if not critics.periods and not critics.windows:
    raise UserError("critics.periods and critics.windows are both empty; give at least one critic")
  if min(critics.periods, default=1) < 1 or not critics.period_widths:
    raise UserError(
      f"critics.periods {critics.periods} with widths {critics.period_widths} are invalid; give "
      "positive periods and at least one width"
    )
  for window in critics.windows:
    for low, high in critics.bands:
      bins = 1 + window // 2
      if window % 4 or not 0 <= int(low * bins) < int(high * bins) <= bins:
        raise UserError(
          f"critics.windows has {window}, whose band from {low} to {high} has no bins; "
          "give multiples of 4 and bands within 0 and 1"
        )
