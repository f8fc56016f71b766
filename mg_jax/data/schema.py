"""The contract of batches between data and training, and the type of a decoded sample.

Sources are random access (`len(source)`, `source[i]`) and pure: the same index gives the same
record in every process, in every epoch. A feed turns records into batches of one shape, as
dictionaries of numpy arrays without object dtypes. Autoencoding gets {"video": uint8 (B, T, H, W,
3), "frames": int32 (B,), "index": int32 (B,)}. Flow matching on cached latents gets {"latent":
float32 (B, t, h, w, C) normalised per channel, "fps": float32 (B,), "index": int32 (B,)} and, for
every text stream by name, {"ids": int32 (B, S), "mask": bool (B, S)} or, if features of a frozen
encoder are cached, {"features": (B, S, E), "mask"}. An image is a one-frame video (T = 1). Pixels
are mapped from uint8 to [-1, 1] on the device, by the model. Evaluation batches have one more
entry, "valid": bool (B,), False on the rows that only pad the last batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Record = dict[str, Any]
Batch = dict[str, Any]
Split = Literal["train", "validation"]


@dataclasses.dataclass(frozen=True)
class Sample:
  """A decoded clip, image, sound or soundtrack.

  Attributes:
    video: uint8 (T, H, W, 3), RGB; None for sound alone.
    frames: number of leading real frames, 1..T; the rest repeat the last real one. 0 without video.
    fps: frame rate of `video`; > 0 if there is one.
    caption: the text, possibly empty.
    key: a stable name of the sample for logs and reports; never used as a path.
    variants: other wordings of the caption, possibly none.
    camera: camera motion, as in "pan left"; empty if unknown.
    wave: float32 (samples,) in [-1, 1], or int16 with full scale 2^15, at the sample rate of its
      source; None without sound. It lasts as long as the video, if there is one.
    sound_caption: the caption of the sound, possibly empty.
    given: values of conditions by name, as a caption file states them.
    root: the folder that file names in `given` are relative to.
  """

  video: np.ndarray | None
  frames: int
  fps: float
  caption: str
  key: str
  variants: tuple[str, ...] = ()
  camera: str = ""
  wave: np.ndarray | None = None
  sound_caption: str = ""
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  root: str = ""

  def __post_init__(self) -> None:
    video, wave = self.video, self.wave
    if video is None and (wave is None or self.frames):
      raise ValueError(f"sample {self.key!r}: {self.frames} frames, but no video or no sound")
    if video is not None:
      if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(
          f"sample {self.key!r}: video must be uint8 (T, H, W, 3), got {video.dtype} {video.shape}"
        )
      if not 1 <= self.frames <= video.shape[0]:
        raise ValueError(
          f"sample {self.key!r}: frames={self.frames} is not within 1..{video.shape[0]}"
        )
      if not self.fps > 0:
        raise ValueError(f"sample {self.key!r}: fps={self.fps} is not positive")
    if wave is not None and (wave.dtype not in (np.float32, np.int16) or wave.ndim != 1):
      raise ValueError(
        f"sample {self.key!r}: wave must be float32 or int16 (T,), got {wave.dtype} {wave.shape}"
      )


@runtime_checkable
class Source(Protocol):
  """Random access to samples or records; pure in the index, picklable, thread-safe."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Any: ...
