"""Named sizes of models, as plain fields that an experiment can change before it builds them.

"30b" is the paper's generator and "5b" that of its ablations [MG 3.1.3]; "1b" is a third party's.
Of "7b" (the upsampler), "9b" and "17b" (the scaling study) only the totals are published: their
shapes follow the family's rule F = 8 D / 3, which gives 16 D^2 parameters per layer, with heads of
128. "tiny" trains on a CPU with its own text encoder. The models of soundtracks [MG 6.2] follow the
same rule. For "13b" the paper has 36 layers of width 4608 and F = 18,432: in the two matrices of an
MLP without a gate that is as many parameters as in our three of 12,288. Of the smaller ones only
totals are published. Published encoders for conditioning or evaluation, the image autoencoders that
a temporal one can be initialised from, and the audio codecs have names of their own.
"""

from typing import Any

from mg_jax.core.config import module_fields
from mg_jax.core.errors import UserError
from mg_jax.core.tree import count_params, flatten_paths
from mg_jax.data.text import prompts as tokens
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.dit import VideoDiT
from mg_jax.models.encoders.clip import TextTower, VisionTower
from mg_jax.models.encoders.t5 import T5Encoder

# layers, width, MLP width, heads
_SIZES = {
  "1b": (24, 1536, 4096, 16),
  "5b": (32, 3072, 8192, 24),
  "7b": (30, 3840, 10240, 30),
  "9b": (40, 3840, 10240, 30),
  "17b": (40, 5120, 13824, 40),  # 8 D / 3 rounded up to a multiple of 512
  "30b": (48, 6144, 16384, 48),
}

_SOUNDTRACKS = {
  "300m": (24, 896, 2432, 7),
  "1b": (28, 1536, 4096, 12),
  "3b": (30, 2560, 6912, 20),  # 8 D / 3 rounded up to a multiple of 128
  "9b": (34, 4096, 11008, 32),
  "13b": (36, 4608, 12288, 36),
}
# [MG 6.2] T5-base, the vision tower of a MetaCLIP H/14, and the codec; 30 s of 25 latents each.
_SOUND_FEATURES, _MAX_LATENTS = {"text": 768, "video": 1024, "context": 128}, 750

# [MG 3.1.4] Feature sizes of the frozen text encoders.
_FROZEN_TEXT = {"ul2": 4096, "metaclip": 1280, "byt5": 1472}

# vocab, width, layers, heads, head_dim, mlp_dim, activation, gated
_TEXT = {
  "t5-base": (32128, 768, 12, 12, 64, 3072, "relu", False),
  "t5-v1_1-xxl": (32128, 4096, 24, 64, 64, 10240, "gelu", True),
  "ul2": (32128, 4096, 32, 16, 256, 16384, "silu", True),
  "byt5-small": (384, 1472, 12, 6, 64, 3584, "gelu", True),
}
_TEXT_FIELDS = (
  "vocab", "width", "layers", "heads", "head_dim", "mlp_dim", "activation", "gated"
)

# Text: width, layers, heads, mlp_dim; vision: patch, width, layers, heads, mlp_dim; projection.
_CLIP = {
  "b32": ((512, 12, 8, 2048), (32, 768, 12, 12, 3072), 512),
  "b16": ((512, 12, 8, 2048), (16, 768, 12, 12, 3072), 512),
  "l14": ((768, 12, 12, 3072), (14, 1024, 24, 16, 4096), 768),
  "h14": ((1024, 24, 16, 4096), (14, 1280, 32, 16, 5120), 1024),
  "g14": ((1280, 32, 20, 5120), (14, 1664, 48, 16, 8192), 1280),
}

# channels, multipliers, blocks, latent, groups; the two differ in their weights only.
_AUTOENCODERS = dict.fromkeys(("sd3", "flux"), (128, (1, 2, 4, 4), 2, 16, 32))
_AUTOENCODER_FIELDS = ("channels", "multipliers", "blocks", "latent", "groups")

# [MG 6.2] 48 kHz to 25 latents per second; "tiny" has the same latent rate, for runs on a CPU.
_CODECS = {
  "dacvae": {},
  "tiny": {"channels": 8, "hidden": 128, "decoder_channels": 128, "latent": 16},
}

# [MG 3.1.3] 32 latent frames, and sides of up to 96 tokens: 1536 px at 8 px by 2 per token.
_MAX_THW = (32, 96, 96)


def names() -> tuple[str, ...]:
  """All names of `generator`; `soundtrack` has its own."""
  return ("tiny", *_SIZES)


def generator(name: str) -> dict[str, Any]:
  """Fields of models.generator.Generator, a new dictionary at each call.

  Raises:
    UserError: on an unknown name.
  """
  if name == "tiny":
    text = {"width": 128, "layers": 2, "heads": 4, "head_dim": 32, "mlp_dim": 256}
    dit = {
      "width": 256,
      "layers": 4,
      "heads": 4,
      "mlp_dim": 704,
      "qk_norm": True,
      "unroll": 4,
      "max_thw": (16, 16, 16),
      "routes": {"text": {"kind": "cross", "features": text["width"]}},
    }
    encoders = {"text": {"kind": "t5"} | module_fields(T5Encoder, **text)}
    return {"dit": module_fields(VideoDiT, **dit), "encoders": encoders}
  if name not in _SIZES:
    raise UserError(f"unknown model {name!r}; known are {', '.join(names())}")
  layers, width, mlp_dim, heads = _SIZES[name]
  dit = {
    "width": width,
    "layers": layers,
    "heads": heads,
    "mlp_dim": mlp_dim,
    "max_thw": _MAX_THW,
    "routes": {n: {"kind": "cross", "features": size} for n, size in _FROZEN_TEXT.items()},
    "dtype": "bfloat16",
  }
  return {"dit": module_fields(VideoDiT, **dit), "encoders": {}}


def soundtrack(name: str) -> dict[str, Any]:
  """Fields of models.generator.Generator for a model of soundtracks, as `generator`.

  Raises:
    UserError: on an unknown name.
  """
  if name == "tiny":
    text = {"width": 128, "layers": 2, "heads": 4, "head_dim": 32, "mlp_dim": 256}
    tower = {"width": 96, "layers": 2, "heads": 4, "mlp_dim": 256, "projection": 96}
    features = {"text": text["width"], "video": tower["projection"], "context": 32}
    sizes, encoders = (4, 192, 512, 3), {
      "text": {"kind": "t5"} | module_fields(T5Encoder, **text),
      "video": {"kind": "vision"}
      | module_fields(VisionTower, **tower, size=32, patch=8, activation="gelu"),
    }  # fmt: skip
    rest = {"max_thw": (100, 1, 1), "qk_norm": True, "unroll": 4}
  elif name in _SOUNDTRACKS:
    features, sizes, encoders = _SOUND_FEATURES, _SOUNDTRACKS[name], {}
    rest = {"max_thw": (_MAX_LATENTS, 1, 1), "dtype": "bfloat16"}
  else:
    raise UserError(
      f"unknown model of soundtracks {name!r}; known are tiny, {', '.join(_SOUNDTRACKS)}"
    )
  kinds = {"text": "cross", "video": "add", "context": "concat"}
  routes = {n: {"kind": kind, "features": features[n]} for n, kind in kinds.items()}
  layers, width, mlp_dim, heads = sizes
  dit = module_fields(
    VideoDiT, channels=features["context"], patch=(1, 1, 1), width=width, layers=layers,
    heads=heads, mlp_dim=mlp_dim, routes=routes, **rest,
  )  # fmt: skip
  return {"dit": dit, "encoders": encoders}


def text_encoder(name: str) -> dict[str, Any]:
  """Fields of models.encoders.t5.T5Encoder for a published encoder, as `generator`.

  "ul2" and "byt5-small" encode prompts of videos [MG 3.1.4], "t5-base" those of soundtracks
  [MG 6.2]; "t5-v1_1-xxl" is as wide as UL2.

  Raises:
    UserError: on an unknown name.
  """
  if name not in _TEXT:
    raise UserError(f"unknown text encoder {name!r}; known are {', '.join(_TEXT)}")
  return module_fields(T5Encoder, **dict(zip(_TEXT_FIELDS, _TEXT[name], strict=True)))


def clip(name: str) -> dict[str, Any]:
  """Fields of models.encoders.clip.CLIP for a published size of MetaCLIP, as `generator`.

  "g14" is the one whose text features are 1280 wide [MG 3.1.4]. Activations are MetaCLIP's. "tiny"
  encodes bytes and images of 32 pixels.

  Raises:
    UserError: on an unknown name.
  """
  if name == "tiny":
    tower = {"width": 128, "layers": 2, "heads": 4, "mlp_dim": 512, "projection": 128}
    return {
      "text": module_fields(TextTower, **tower, vocab=tokens.VOCABULARY, end=tokens.EOS),
      "vision": module_fields(VisionTower, **tower, size=32, patch=4),
    }
  if name not in _CLIP:
    raise UserError(f"unknown CLIP {name!r}; known are tiny, {', '.join(_CLIP)}")
  text, (patch, *vision), projection = _CLIP[name]
  names = ("width", "layers", "heads", "mlp_dim")
  towers = {
    "text": (TextTower, dict(zip(names, text, strict=True))),
    "vision": (VisionTower, dict(zip(names, vision, strict=True)) | {"patch": patch}),
  }
  return {
    tower: module_fields(cls, projection=projection, **fields)
    for tower, (cls, fields) in towers.items()
  }


def autoencoder(name: str) -> dict[str, Any]:
  """Fields of models.codecs.tae.TAE for a published image autoencoder, as `generator`.

  Raises:
    UserError: on an unknown name.
  """
  if name not in _AUTOENCODERS:
    raise UserError(f"unknown autoencoder {name!r}; known are {', '.join(_AUTOENCODERS)}")
  values = dict(zip(_AUTOENCODER_FIELDS, _AUTOENCODERS[name], strict=True))
  return module_fields(TAE, temporal=False, **values)


def codec(name: str) -> dict[str, Any]:
  """Fields of models.codecs.dacvae.DACVAE, the published codec or a small one, as `generator`.

  Raises:
    UserError: on an unknown name.
  """
  if name not in _CODECS:
    raise UserError(f"unknown codec {name!r}; known are {', '.join(_CODECS)}")
  return module_fields(DACVAE, **_CODECS[name])


def block_parameters(params: Any) -> int:
  """Parameter count of the transformer's layers, by which sizes are named; takes abstract trees.

  Excludes patch embedding, head, positions, modulation, conditions and text encoders.
  """
  flat = flatten_paths(params)
  return count_params([leaf for path, leaf in flat.items() if "transformer/layers/" in path])
