"""Sound of any file encoded and decoded by a codec, measured next to the original [MG 6.2].

Everything but the plot is a stream: memory does not grow with the length of the sound. The original
is written as the codec gets it: one channel, 16 bits, at the codec's rate, louder samples clipped.
"""

import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.media.audio import read_audio, read_blocks, write_blocks
from mg_jax.metrics.audio import SoundFidelity
from mg_jax.models.codecs.chunking import ChunkedCodec
from mg_jax.stages import plots

_log = logging.getLogger(__name__)
SHOWN_S = 30.0  # length of the sound in the plot


def reconstruct_sound(
  codec: ChunkedCodec,
  path: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  seconds: float | int | None = None,
) -> dict[str, Any]:
  """Writes the reconstruction of a sound, and next to it the original, measures and spectrograms.

  Args:
    codec: the codec.
    path: the file, sound or video.
    out: a wav. For `out.wav` also writes `out-original.wav`, `out.json`, and, with matplotlib
      installed, `out.png` of the first 30 s.
    seconds: stops after this time.

  Returns:
    The contents of the JSON: {"sound", "rate", "seconds", "mel", "stft", "si_sdr", "latents"}.
    SI-SDR of a silent original is far below zero and meaningless.

  Raises:
    UserError: if the sound cannot be read or `out` cannot be written.
  """
  out, path, rate = pathlib.Path(out), pathlib.Path(path), codec.model.sample_rate
  original = out.with_name(f"{out.stem}-original.wav")
  if out.suffix.lower() != ".wav":
    raise UserError(f"{out} cannot be written: a reconstructed sound is saved as .wav")
  if any(p.exists() and path.exists() and p.samefile(path) for p in (out, original)):
    raise UserError(f"{path} would be overwritten; choose another name for the reconstruction")
  if seconds is not None and not 0 < seconds < math.inf:
    raise UserError(f"--seconds={seconds} hold no sound; give a positive time")
  for written in (out, original, out.with_suffix(".json"), out.with_suffix(".png")):
    atomic.check_writable(written)
  length = write_blocks(original, read_blocks(path, rate=rate, seconds=seconds), rate=rate)
  fidelity = SoundFidelity(rate=rate)
  # One read for the codec, one to compare with: latents depend on later sound.
  latents = codec.encode_stream(read_blocks(original, rate=rate))
  decoded = codec.decode_stream(latents, length=length)
  write_blocks(out, _measured(decoded, read_blocks(original, rate=rate), fidelity), rate=rate)
  report = {
    "sound": str(path), "rate": rate, "latents": codec.model.latent_shape(length)[0],
    **fidelity.compute(),
  }  # fmt: skip
  del report["sounds"]
  atomic.write_json(out.with_suffix(".json"), report)
  try:
    shown = [[read_audio(p, rate=rate, seconds=SHOWN_S) for p in (original, out)]]
    plots.spectrograms(shown, ("original", "reconstruction"), out.with_suffix(".png"), rate=rate)
  except UserError as e:
    _log.warning("no plot: %s", e)
  return report


def _measured(
  decoded: Iterator[np.ndarray], original: Iterator[np.ndarray], fidelity: SoundFidelity
) -> Iterator[np.ndarray]:
  """The decoded sound as a stream, compared with the same samples of the original."""
  held = np.zeros(0, np.float32)
  for wave in decoded:
    parts = [held]
    while sum(map(len, parts)) < len(wave):
      parts.append(next(original))
    joined = np.concatenate(parts)
    held = joined[len(wave) :]
    fidelity.add(wave, joined[: len(wave)])
    yield wave
