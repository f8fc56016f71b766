"""The batch contract between data and training, and the one record type of a decoded clip.

Sources are random access (`len(source)`, `source[i]`) and pure: the same index gives the same
record in every process, in every epoch. A feed turns records into batches of one shape, as
dictionaries of numpy arrays without object types. Autoencoding gets {"video": uint8 (B, T, H, W,
3), "frames": int32 (B,), "index": int32 (B,)}. Flow matching on cached latents gets {"latent":
float32 (B, t, h, w, C) normalised per channel, "fps": float32 (B,), "index": int32 (B,)} and, for
every stream of text by its name, {"ids": int32 (B, S), "mask": bool (B, S)} or, where features of a
frozen encoder are cached, {"features": (B, S, E), "mask"}. An image is a one-frame video (T = 1).
Pixels stay uint8 up to the device, where a model maps them to [-1, 1]. Evaluation batches carry one
more entry, "valid": bool (B,), False on the rows that only fill up the last batch.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np

Record = dict[str, Any]
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Clip:
  """A decoded clip.

  Attributes:
    video: uint8 (T, H, W, 3), RGB.
    frames: how many leading frames are real, 1..T; the rest repeat the last real one.
    fps: frames per second at which `video` samples the clip; > 0.
    caption: the text, possibly empty.
    key: a stable name of the clip for logs and reports; never used as a path.
    variants: other wordings of the caption, possibly none.
    camera: what the camera does, as in "pan left"; empty where that is not known.
    wave: float32 (samples,) in [-1, 1] at 48 kHz, as long as the video; None where none is given.
    sound_caption: the text of the sound, possibly empty.
  """

  video: np.ndarray
  frames: int
  fps: float
  caption: str
  key: str
  variants: tuple[str, ...] = ()
  camera: str = ""
  wave: np.ndarray | None = None
  sound_caption: str = ""

  def __post_init__(self) -> None:
    if self.video.dtype != np.uint8 or self.video.ndim != 4 or self.video.shape[-1] != 3:
      raise ValueError(
        f"clip {self.key!r}: video must be uint8 (T, H, W, 3), "
        f"got {self.video.dtype} {self.video.shape}"
      )
    if not 1 <= self.frames <= self.video.shape[0]:
      raise ValueError(
        f"clip {self.key!r}: frames={self.frames} is not within 1..{self.video.shape[0]}"
      )
    if not self.fps > 0:
      raise ValueError(f"clip {self.key!r}: fps={self.fps} is not positive")
    if self.wave is not None and (self.wave.dtype != np.float32 or self.wave.ndim != 1):
      raise ValueError(
        f"clip {self.key!r}: wave must be float32 (T,), got {self.wave.dtype} {self.wave.shape}"
      )


@runtime_checkable
class Source(Protocol):
  """Random access to clips or records; pure in the index, picklable, safe to share by threads."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Any: ...
