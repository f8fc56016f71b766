"""Sound for a video file, from text, or around known sound, as files [MG 6.2].

A video gets its sound as out.mp4, its picture copied bit by bit; sound alone is out.wav. Next to it
are out.wav, out.json (request and result, with the scores of all candidates and the loudness of the
result) and, with matplotlib installed, out.png, waveform and spectrogram. All of them appear
together when all is done, or none does. Frames are read window by window, so memory does not grow
with the video. Of several processes only the first writes.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mg_jax.app import known_sound
from mg_jax.core import distributed
from mg_jax.core.errors import UserError
from mg_jax.data import atomic
from mg_jax.data.condition_section import parse
from mg_jax.data.media import audio, muxing, video
from mg_jax.data.text import sound_prompts as sound_text
from mg_jax.metrics.audio import loudness
from mg_jax.sampling import prompts, sound_plots
from mg_jax.sampling.sound_request import Request, Video

_log = logging.getLogger(__name__)
SHOWN_S = 30.0  # length of the sound in the plot
MAX_FPS = 50.0  # twice the latents per second: more frames would not be used


@dataclasses.dataclass(frozen=True)
class Order:
  """A user's request; `check` validates it.

  Attributes:
    out: the file, .mp4 with a video, else .wav.
    video: the video to add sound to.
    sound: the sound to extend or fill; by default the video's own.
    prompts: sound other than music, one for the whole or one per window; empty is no text.
    music: its music, likewise; empty, or "", is no music.
    seconds: length of a sound that follows neither a video nor another sound.
    extend: seconds to generate after the known sound, negative: before it.
    infill: spans START:END in s to replace.
    condition: values of the model's other conditions, NAME=VALUE each.
    seed: seed of the sound, 0..2**32-1.
    overwrite: replaces existing files.
  """

  out: str
  video: str | None = None
  sound: str | None = None
  prompts: tuple[str, ...] = ()
  music: tuple[str, ...] = ()
  seconds: float | None = None
  extend: tuple[float, ...] = ()
  infill: tuple[str, ...] = ()
  condition: tuple[str, ...] = ()
  seed: int = 0
  overwrite: bool = False

  @property
  def files(self) -> dict[str, pathlib.Path]:
    """Kind -> path of every output file."""
    out = pathlib.Path(self.out)
    kinds = ("mp4", "wav", "png", "json") if self.video else ("wav", "png", "json")
    return {kind: out.with_suffix(f".{kind}") for kind in kinds}

  def check(self) -> None:
    """Validates the order.

    Raises:
      UserError: if its fields contradict each other, or a file would be overwritten or cannot be
        written.
    """
    out, wanted = pathlib.Path(self.out), ".mp4" if self.video else ".wav"
    if out.suffix != wanted:
      what = "a video with its sound" if self.video else "a sound"
      raise UserError(f"{out} cannot be written: {what} is saved as {wanted}")
    for path in self.files.values():
      for source in filter(None, (self.video, self.sound)):
        if path.exists() and os.path.exists(source) and path.samefile(source):
          raise UserError(f"{source} would be overwritten; choose another --out")
      atomic.check_writable(path)
      if path.exists() and not self.overwrite:
        raise UserError(f"{path} exists already; pass --overwrite or another --out")
    around = bool(self.extend or self.infill)
    if self.sound and not around:
      raise UserError(f"--sound={self.sound} is kept whole; give --extend or --infill")
    if around and not (self.video or self.sound):
      raise UserError("--extend and --infill need a sound; give --sound, or a --video with sound")
    if self.seconds is not None and (self.video or self.sound):
      raise UserError("--seconds is for sound from text alone; leave it out")
    if not (self.video or self.sound):
      if self.seconds is None:
        raise UserError("--seconds is missing; give the length of the sound")
      if not 0 < self.seconds < math.inf:
        raise UserError(f"--seconds={self.seconds:g} is not a valid length; give a positive one")
      if not any(text.strip() for text in (*self.prompts, *self.music)):
        raise UserError("no prompt given; describe the sound with --prompt or --music")
    known_sound.parse_extend(self.extend), known_sound.parse_infill(self.infill)
    self.captions()

  def captions(self) -> tuple[tuple[str, ...], list[str]]:
    """Captions for `Request`, and warnings about the prompts.

    Raises:
      UserError: unless there are as many prompts as music, or one of either.
    """
    notices, sounds = [], []
    for text in self.prompts:
      text, notice = prompts.check(text)
      sounds.append(text)
      if notice and text:
        notices.append(notice)
    counts = {len(sounds) or 1, len(self.music) or 1}
    if len(counts) > 1 and min(counts) > 1:
      raise UserError(
        f"there are {len(sounds)} prompts and {len(self.music)} of music; give one for each "
        "window, or one for all"
      )
    if voices := sound_text.voices(" ".join((*sounds, *self.music))):
      notices.append(
        f"The prompt asks for a voice ({', '.join(voices)}), but neither speech nor singing can be "
        "generated; the sound has neither."
      )
    count, captions = max(counts), []
    for i in range(count):
      sound, music = (
        (texts[i % len(texts)] if texts else "") for texts in (sounds, self.music)
      )
      has_music = bool(music.strip())
      captions.append(
        sound_text.caption(sound, music, has_music=has_music) if has_music or sound else ""
      )
    return tuple(captions), notices


def make(order: Order, load: Callable[[], Any], **changes: Any) -> list[pathlib.Path]:
  """Generates and writes a request; returns the paths of all files.

  Args:
    order: the request, validated here.
    load: returns the soundtrack pipeline; called after all other checks.
    **changes: settings that differ from the pipeline's.

  Raises:
    UserError: if a file cannot be used or written, or the request is invalid.
  """
  distributed.on_main(order.check)
  info = video.probe(order.video) if order.video else None
  source = order.sound or (order.video if order.extend or order.infill else None)
  if source:
    audio.probe(source)
  captions, notices = order.captions()
  with _files(order.files) as parts:
    if info:
      # A dry run with silence: a damaged video fails now rather than after generation.
      silence = np.zeros(1, np.float32)
      distributed.on_main(muxing.add_sound, order.video, silence, out=parts["mp4"])
    for notice in notices:
      _log.warning("%s", notice)
    pipeline = load()
    known = source and known_sound.place(
      source,
      rate=pipeline.rate,
      picture_s=info.duration_s if info else None,
      own=order.sound is None,
      extend=known_sound.parse_extend(order.extend),
      infill=known_sound.parse_infill(order.infill),
    )
    seconds = known.seconds if known else info.duration_s if info else order.seconds
    request = Request(
      seconds=seconds,
      captions=captions,
      video=frames_of(order.video, info, size=pipeline.size) if info else None,
      known=known.wave if known else None,
      keep=known.keep if known else (),
      given=parse(order.condition, pipeline.conditions) if order.condition else {},
      seed=order.seed,
    )
    result = pipeline(request, **changes)
    level = loudness(result.wave, rate=pipeline.rate)
    record = {
      "origin": pipeline.origin,
      "settings": dataclasses.asdict(dataclasses.replace(pipeline.settings, **changes)),
      "video": order.video,
      "sound": order.sound,
      "seconds": seconds,
      # None, as JSON has no infinity: silence, or shorter than the 0.4 s of a block.
      "loudness_lufs": level if math.isfinite(level) else None,
      "seed": order.seed,
      "captions": list(captions),
      "conditions": list(order.condition),
      "made": known.generated if known else [(0.0, seconds)],
      "scores": np.asarray(result.scores, np.float64).tolist(),
      "chosen": int(result.chosen),
      "notices": notices,
    }
    distributed.on_main(_write, order, parts, result.wave, record, rate=pipeline.rate)
  return [path for path in order.files.values() if path.exists()]


def _write(
  order: Order, parts: dict[str, pathlib.Path], wave: np.ndarray, record: dict[str, Any], *,
  rate: int,
) -> None:
  audio.write_wav(parts["wav"], wave, rate=rate)
  if order.video:
    muxing.add_sound(order.video, wave, out=parts["mp4"], rate=rate)
  try:
    shown = wave[: round(SHOWN_S * rate)]
    sound_plots.plot(parts["png"], shown, rate=rate, title=record["captions"][0])
  except UserError as e:
    _log.warning("no plot: %s", e)
  # Through JSON, so that a caption with any characters can be written.
  text = json.dumps(record).encode("utf-8", errors="replace").decode("utf-8")
  atomic.write_json(parts["json"], json.loads(text))


def frames_of(
  path: str | os.PathLike[str], info: video.VideoInfo, *, size: tuple[int, int]
) -> Video:
  """A reader of spans of a video, as `Request.video`; keeps no frames.

  Frames are those shown at k / fps, at the file's frame rate but at most MAX_FPS.
  """
  fps = min(info.fps, MAX_FPS)
  count = max(1, math.ceil(info.duration_s * fps - 1e-3))

  def read(start_s: float, end_s: float) -> tuple[np.ndarray, float]:
    first = min(max(0, math.ceil(start_s * fps - 1e-3)), count - 1)
    last = min(max(first + 1, math.ceil(end_s * fps - 1e-3)), count)
    frames = video.read_clip(
      path, start_s=first / fps, fps=fps, frames=last - first, size=size
    )
    return frames, fps

  return read


@contextlib.contextmanager
def _files(targets: dict[str, pathlib.Path]) -> Iterator[dict[str, pathlib.Path]]:
  """Yields temporary paths; those written are renamed to the targets, all together.

  Processes other than the first get paths that they must not write.

  Raises:
    UserError: if the folder cannot be written.
  """
  if not distributed.is_main():
    yield targets
    return
  folder = next(iter(targets.values())).parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
    held = tempfile.TemporaryDirectory(prefix=atomic.PREFIX, dir=folder)
  except OSError as e:
    raise UserError(f"{folder} cannot be written ({e.strerror}); choose another --out") from e
  with held as name:
    parts = {kind: pathlib.Path(name) / path.name for kind, path in targets.items()}
    yield parts
    # The record last: an old one must not describe new files.
    targets["json"].unlink(missing_ok=True)
    for kind, part in parts.items():
      if part.exists():
        os.replace(part, targets[kind])
      else:
        targets[kind].unlink(missing_ok=True)
