"""The suites: the shapes of each at every size, read by both sides.

A suite is one piece of work. The same-work peers ("eager", "compiled") compute the same function,
for text encoders and the audio codec by transformers. The others have the layouts of published
autoencoders, shrunk to the widths printed with them: other work per frame than ours, so their times
are compared along with their multiply-adds and say nothing about the published networks.
"""

import dataclasses
from typing import Any

SAME_WORK = ("eager", "compiled")
SIZES = ("tiny", "default", "large")


@dataclasses.dataclass(frozen=True)
class Published:
  """An autoencoder of diffusers, 8 x 8 in space with 16 channels, shrunk.

  Attributes:
    time: frames per latent frame.
    widths: widths of its levels, as text.
    fields: fields that shrink it; the rest is as published.
  """

  time: int
  widths: str
  fields: dict[str, Any]


PUBLISHED = {
  "AutoencoderKLWan": Published(4, "32-64-128-128", {"base_dim": 32, "z_dim": 16}),
  "AutoencoderKLHunyuanVideo": Published(
    4, "32-64-128-128", {"block_out_channels": (32, 64, 128, 128)}
  ),
  "AutoencoderKLCosmos": Published(
    8,
    "64-128-256-256, decoder 128-256-256-256",
    {
      "encoder_block_out_channels": (64, 128, 256, 256),
      "decode_block_out_channels": (128, 256, 256, 256),
      "spatial_compression_ratio": 8,
      "temporal_compression_ratio": 8,
    },
  ),
}

# One layer of the generator with cross-attention. The MLP is the family's 8 D / 3, rounded up.
_BLOCK = {
  "tiny": {"batch": 2, "tokens": 24, "width": 32, "heads": 2, "mlp_dim": 64, "context": 8},
  "default": {
    "batch": 4, "tokens": 1024, "width": 512, "heads": 8, "mlp_dim": 1408, "context": 256,
  },
  "large": {
    "batch": 1, "tokens": 4096, "width": 1024, "heads": 16, "mlp_dim": 2816, "context": 256,
  },
}  # fmt: skip

# One layer of the 5B and of the 30B generator with 16 K tokens and with the paper's 73,728, with
# its three text streams, for accelerators only; and a product to measure their matrix unit.
_TINY_LAYER = _BLOCK["tiny"] | {"dtype": "bfloat16"}
_5B = {"width": 3072, "heads": 24, "mlp_dim": 8192}
_30B = {"width": 6144, "heads": 48, "mlp_dim": 16384}


def _layer(size: dict[str, int], tokens: int) -> dict[str, dict[str, Any]]:
  text = 512 + 256 + 100
  large = {"batch": 1, "tokens": tokens, "context": text, "dtype": "bfloat16", **size}
  return {"tiny": _TINY_LAYER, "large": large}


_PRODUCT = {
  "tiny": {"batch": 1, "side": 64, "dtype": "bfloat16"},
  "large": {"batch": 1, "side": 8192, "dtype": "bfloat16"},
}

# The paper's layout of the autoencoder at a quarter of the usual width.
_PAPER = {"channels": 32, "multipliers": (1, 2, 4, 4), "blocks": 2, "latent": 16, "groups": 32}
_TAE = {
  "tiny": {
    "batch": 1, "frames": 4, "side": 16,
    "model": {"channels": 8, "multipliers": (1, 2, 2), "blocks": 1, "latent": 4, "groups": 4},
  },
  "default": {"batch": 1, "frames": 16, "side": 128, "model": _PAPER},
  "large": {"batch": 1, "frames": 16, "side": 256, "model": _PAPER},
}  # fmt: skip

# ByT5-small, and the text tower of CLIP B/32 with a table for long prompts. Half of the prompts are
# half as long.
_T5 = {
  "tiny": {
    "batch": 2, "tokens": 8,
    "model": {
      "vocab": 40, "width": 16, "layers": 1, "heads": 2, "head_dim": 8, "mlp_dim": 24,
      "activation": "gelu",
    },
  },
  "default": {
    "batch": 32, "tokens": 128,
    "model": {
      "vocab": 384, "width": 1472, "layers": 12, "heads": 6, "head_dim": 64, "mlp_dim": 3584,
      "activation": "gelu",
    },
  },
}  # fmt: skip
_T5["large"] = _T5["default"] | {"batch": 128}
_CLIP = {
  "tiny": {
    "batch": 2, "tokens": 8,
    "model": {
      "vocab": 40, "length": 16, "width": 16, "layers": 1, "heads": 2, "mlp_dim": 24,
      "projection": 8, "end": 39,
    },
  },
  "default": {
    "batch": 32, "tokens": 128,
    "model": {
      "vocab": 49408, "length": 256, "width": 512, "layers": 12, "heads": 8, "mlp_dim": 2048,
      "projection": 512, "end": 49407,
    },
  },
}  # fmt: skip
_CLIP["large"] = _CLIP["default"] | {"batch": 128}

# The published audio codec at 25 latents per second.
_CODEC = {
  "tiny": {
    "batch": 1, "seconds": 1, "latents": 5,
    "model": {
      "channels": 2, "rates": (2, 4), "hidden": 8, "decoder_channels": 8, "latent": 3,
    },
  },
  "default": {
    "batch": 1, "seconds": 4, "latents": 100,
    "model": {
      "channels": 64, "rates": (2, 8, 10, 12), "hidden": 1024, "decoder_channels": 1536,
      "latent": 128,
    },
  },
}  # fmt: skip
_CODEC["large"] = _CODEC["default"] | {"seconds": 16, "latents": 400}

_SAMPLING = {
  "tiny": {"clips": 1, "steps": 2},
  "default": {"clips": 4, "steps": 16},
  "large": {"clips": 16, "steps": 16},
}


@dataclasses.dataclass(frozen=True)
class Suite:
  """One piece of work.

  Attributes:
    name: its name in `--suites`.
    kind: the builder of `ours` and `peers`.
    sizes: size -> shapes; suites for accelerators only have no default size.
    peers: variants of the torch side.
    unit: unit of the rate; the shapes hold the number of units per call.
  """

  name: str
  kind: str
  sizes: dict[str, dict[str, Any]]
  peers: tuple[str, ...] = ()
  unit: str = ""


SUITES = {
  suite.name: suite
  for suite in (
    Suite("dit_block_forward", "block_forward", _BLOCK, SAME_WORK),
    Suite("dit_block_step", "block_step", _BLOCK, SAME_WORK),
    Suite("tae_encode", "tae_encode", _TAE, SAME_WORK + tuple(PUBLISHED), "frames"),
    Suite("tae_decode", "tae_decode", _TAE, SAME_WORK + tuple(PUBLISHED), "frames"),
    Suite("tae_step", "tae_step", _TAE, SAME_WORK + tuple(PUBLISHED), "frames"),
    Suite("text_t5", "text_t5", _T5, SAME_WORK, "prompts"),
    Suite("text_clip", "text_clip", _CLIP, SAME_WORK, "prompts"),
    Suite("dacvae_encode", "dacvae_encode", _CODEC, SAME_WORK, "s of sound"),
    Suite("dacvae_decode", "dacvae_decode", _CODEC, SAME_WORK, "s of sound"),
    Suite("sampling", "sampling", _SAMPLING, (), "clips"),
    Suite("product", "product", _PRODUCT, SAME_WORK),
    Suite("layer_5b_16k", "block_step", _layer(_5B, 16_384), SAME_WORK),
    Suite("layer_5b_73k", "block_step", _layer(_5B, 73_728), SAME_WORK),
    Suite("layer_30b_16k", "block_step", _layer(_30B, 16_384), SAME_WORK),
    Suite("layer_30b_73k", "block_step", _layer(_30B, 73_728), SAME_WORK),
  )
}


def widths(variant: str, shapes: dict[str, Any]) -> str:
  """Channels of the levels of a video autoencoder, ours or a peer; "" for other work."""
  if variant in PUBLISHED:
    return PUBLISHED[variant].widths
  model = shapes.get("model", {})
  return "-".join(str(model["channels"] * m) for m in model.get("multipliers", ()))


@dataclasses.dataclass(frozen=True)
class Program:
  """A program to time.

  Attributes:
    call: runs it once and waits for the result.
    first_s: seconds of tracing, compiling and, for torch, the first call.
    flop: FLOPs of one call as implemented by this program; 0: unknown.
    units: number of the suite's units per call.
  """

  call: Any
  first_s: float
  flop: float = 0.0
  units: int = 0
