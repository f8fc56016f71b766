"""Fidelity of reconstructed sound, and loudness of any sound [MG 6.2].

Distances of log-mel and of linear spectra and SI-SDR as defined in `losses.audio`: the first two
are means over excerpts of one second, SI-SDR covers each whole sound. Loudness is that of ITU-R
BS.1770, by `pyloudnorm`. For the Frechet audio distance, use `metrics.frechet` on VGGish features.
"""

import functools
import math

import jax
import numpy as np

from mg_jax.losses import audio as losses

_EPS = 1e-8
BLOCK_S = 0.4  # block length of BS.1770


@functools.partial(jax.jit, static_argnames="rate")
def _measure(prediction_T, target_T, rate):
  a, b = prediction_T[None], target_T[None]
  return losses.mel_distance(a, b, rate=rate)[0], losses.stft_distance(a, b)[0]


class SoundFidelity:
  """Streaming comparison of sounds with their references; `end` separates sounds.

  Distances are weighted by the length of each sound, SI-SDR is averaged over sounds.
  """

  def __init__(self, *, rate: int):
    self.rate = rate
    self._held = np.zeros((2, 0), np.float32)
    self._samples, self._sums = 0, {"mel": 0.0, "stft": 0.0}
    # Of the current sound: count, sums, and the products pp, tt, pt of prediction and target.
    self._moments = np.zeros(6)
    self._ratios: list[float] = []

  def add(self, prediction_T: np.ndarray, target_T: np.ndarray) -> None:
    """Adds the next samples, both (n,) in [-1, 1].

    Raises:
      ValueError: if the two differ in shape.
    """
    if prediction_T.shape != target_T.shape or target_T.ndim != 1:
      raise ValueError(f"sounds of {prediction_T.shape} and {target_T.shape} cannot be compared")
    pair = np.stack([prediction_T, target_T]).astype(np.float32)
    p, t = pair.astype(np.float64)
    self._moments += [len(p), p.sum(), t.sum(), p @ p, t @ t, p @ t]
    self._held = np.concatenate([self._held, pair], axis=1)
    while self._held.shape[1] >= self.rate:
      self._excerpt(self._held[:, : self.rate])
      self._held = self._held[:, self.rate :]

  def _excerpt(self, pair: np.ndarray) -> None:
    for name, value in zip(self._sums, _measure(*pair, rate=self.rate), strict=True):
      self._sums[name] += pair.shape[1] * float(value)
    self._samples += pair.shape[1]

  def end(self) -> None:
    """Ends the current sound; the next samples belong to another one."""
    if self._held.shape[1]:
      self._excerpt(self._held)
      self._held = self._held[:, :0]
    if self._moments[0]:
      self._ratios.append(_si_sdr(self._moments))
      self._moments = np.zeros(6)

  def compute(self) -> dict[str, float]:
    """{"mel", "stft", "si_sdr" in dB, "seconds", "sounds"}; ends the sound. nan if empty."""
    self.end()
    means = {n: s / self._samples if self._samples else math.nan for n, s in self._sums.items()}
    ratio = sum(self._ratios) / len(self._ratios) if self._ratios else math.nan
    counts = {"seconds": self._samples / self.rate, "sounds": len(self._ratios)}
    return means | {"si_sdr": ratio} | counts


def _si_sdr(moments: np.ndarray) -> float:
  """As `losses.audio.si_sdr`, from the accumulated sums of a sound."""
  count, p, t, pp, tt, pt = moments
  pp, tt, pt = pp - p * p / count, tt - t * t / count, pt - p * t / count
  signal = pt**2 / (tt + _EPS)
  return 10 * math.log10((signal + _EPS) / (max(pp - signal, 0.0) + _EPS))


def loudness(wave: np.ndarray, *, rate: int) -> float:
  """Integrated loudness in LUFS (ITU-R BS.1770-4) of (T,) or, in stereo, (T, 2) in [-1, 1].

  nan if the sound is shorter than one block of 0.4 s, for which it is undefined; -inf if every
  block is below the gate of -70 LUFS, as in silence.

  Raises:
    ValueError: on other shapes, and on non-finite values.
  """
  import pyloudnorm

  if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[1] not in (1, 2)):
    raise ValueError(f"loudness of a sound of shape {wave.shape}; give (T,) or (T, 2)")
  if not np.isfinite(wave).all():
    raise ValueError("loudness of a sound with non-finite values")
  if len(wave) < BLOCK_S * rate:
    return math.nan
  with np.errstate(divide="ignore", invalid="ignore"):
    value = float(pyloudnorm.Meter(rate).integrated_loudness(np.asarray(wave, np.float64)))
  return -math.inf if math.isnan(value) else value
