"""Short-time spectra of a waveform, for the sound oracles.

wave (T,), 48 kHz  ->  power density (frames, bins): a sum over bins times their width is a mean
square.
"""

import numpy as np

from mg_jax.core.errors import UserError

RATE = 48_000


def checked(wave: np.ndarray) -> np.ndarray:
  """The waveform as float64; raises UserError unless it is finite floats (T,) of 100 ms or more."""
  wave = np.asarray(wave)
  if wave.ndim != 1 or wave.dtype.kind != "f" or len(wave) < RATE // 10:
    raise UserError(
      f"got {wave.dtype} of shape {wave.shape}; pass floats (T,) at {RATE} Hz, 0.1 s or longer"
    )
  if not np.isfinite(wave).all():
    raise UserError("the sound holds non-finite values; repair it or leave it out")
  return wave.astype(np.float64)


def densities(wave: np.ndarray, *, window: int, hop: int) -> tuple[np.ndarray, np.ndarray]:
  """Power density (frames, bins) with a Hann window, and the frequencies of the bins (bins,).

  Frame i is centred on sample i * hop; the ends are zero-padded.
  """
  padded = np.pad(wave, (window // 2, window // 2 + hop))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  taper = np.hanning(window + 1)[:-1]
  spectra = np.fft.rfft(frames * taper, axis=1)
  power = 2 * (spectra.real**2 + spectra.imag**2) / (RATE * np.square(taper).sum())
  return power, np.fft.rfftfreq(window, 1 / RATE)


def band(hz: np.ndarray, low: float, high: float) -> slice:
  """The bins from `low` to `high`."""
  return slice(*np.searchsorted(hz, (low, high)))
