"""The torch side of every suite: our networks in PyTorch, and autoencoders of diffusers."""

import contextlib
import functools
import math
import os
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from launch.bench_suites import peers
from launch.bench_suites.suites import PUBLISHED, Program
from mg_jax.evaluation import figures

# Memory format of a video and of its kernels.
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _block(shapes: dict[str, Any], learn: bool):
  b, width, context = (shapes[name] for name in ("batch", "width", "context"))
  dtype = getattr(torch, shapes.get("dtype", "float32"))
  randn = functools.partial(torch.randn, dtype=dtype)
  module = peers.Block(width, shapes["heads"], shapes["mlp_dim"]).to(dtype)
  real = torch.arange(context) < context - context // 8
  inputs = {
    "x": randn(b, shapes["tokens"], width, requires_grad=learn),
    "positions": 0.02 * randn(shapes["tokens"], width),
    "modulation": (0.1 * randn(b, 6, width)).requires_grad_(learn),
    "context": randn(b, context, width, requires_grad=learn),
    "context_mask": real.expand(b, context),
  }
  return module, inputs


def _product(shapes, wrap):
  a, b = torch.randn(2, *[shapes["side"]] * 2, dtype=getattr(torch, shapes["dtype"]))
  fn = wrap(torch.matmul)
  return lambda: fn(a, b)


def _block_forward(shapes, wrap):
  module, inputs = _block(shapes, learn=False)
  fn = wrap(module)
  return lambda: fn(**inputs)


def _block_step(shapes, wrap):
  module, inputs = _block(shapes, learn=True)
  fn = wrap(lambda inputs: module(**inputs).square().mean())
  leaves = [*module.parameters(), *(value for value in inputs.values() if value.requires_grad)]

  def call():
    for leaf in leaves:
      leaf.grad = None
    fn(inputs).backward()

  return call


def _latent(shapes, frames, factor):
  side = shapes["side"] // factor[1]
  return (shapes["batch"], shapes["model"]["latent"], -(-frames // factor[0]), side, side)


def _channels_last(module):
  for parameter in module.parameters():
    if parameter.ndim in _LAST:
      parameter.data = parameter.data.to(memory_format=_LAST[parameter.ndim])
  return module


def _tae(part):
  def make(shapes, wrap):
    frames, side, model = shapes["frames"], shapes["side"], shapes["model"]
    factor = (2 ** (len(model["multipliers"]) - 1),) * 2
    if part == "encode":
      module, shape = peers.Encoder(**model), (shapes["batch"], 3, frames, side, side)
    else:
      module, shape = peers.Decoder(**model), _latent(shapes, frames, factor)
    fn, x = wrap(_channels_last(module)), torch.randn(shape).to(memory_format=_LAST[5])
    return lambda: fn(x)

  return make


def _tae_step(shapes, wrap):
  side, model = shapes["side"], shapes["model"]
  encoder, decoder = (_channels_last(part(**model)) for part in (peers.Encoder, peers.Decoder))
  x = torch.randn(shapes["batch"], 3, shapes["frames"], side, side)
  x = x.to(memory_format=_LAST[5]).clamp(-1, 1)
  fn = wrap(lambda x: (decoder(encoder(x)[0]) - x).abs().mean())
  leaves = [*encoder.parameters(), *decoder.parameters()]

  def call():
    for leaf in leaves:
      leaf.grad = None
    fn(x).backward()

  return call


def _text(shapes, wrap, make):
  ids = torch.randint(3, shapes["model"]["vocab"] - 1, (shapes["batch"], shapes["tokens"]))
  length = torch.full((shapes["batch"], 1), shapes["tokens"])
  length[1::2] //= 2
  mask = (torch.arange(shapes["tokens"]) < length).long()
  fn = wrap(make(shapes["model"]).eval())
  return lambda: fn(input_ids=ids, attention_mask=mask)


def _t5(model):
  from transformers import T5Config, T5EncoderModel

  return T5EncoderModel(
    T5Config(
      vocab_size=model["vocab"], d_model=model["width"], num_layers=model["layers"],
      num_heads=model["heads"], d_kv=model["head_dim"], d_ff=model["mlp_dim"],
      feed_forward_proj=f"gated-{model['activation']}",
    )
  )


def _clip(model):
  from transformers import CLIPTextConfig, CLIPTextModelWithProjection

  return CLIPTextModelWithProjection(
    CLIPTextConfig(
      vocab_size=model["vocab"], hidden_size=model["width"], num_hidden_layers=model["layers"],
      num_attention_heads=model["heads"], intermediate_size=model["mlp_dim"],
      max_position_embeddings=model["length"], projection_dim=model["projection"],
      eos_token_id=model["end"],
    )
  )


def codec(model):
  """(encoder to mean and scale, decoder) of transformers' modules; channels before time."""
  from transformers import DacConfig
  from transformers.models.dac.modeling_dac import DacDecoder
  from transformers.models.pe_audio.modeling_pe_audio import PeAudioDacEncoder

  config = DacConfig(
    encoder_hidden_size=model["channels"], downsampling_ratios=list(model["rates"]),
    decoder_hidden_size=model["decoder_channels"], codebook_dim=model["latent"],
  )
  conv = functools.partial(torch.nn.Conv1d, kernel_size=1)
  encoder = torch.nn.Sequential(
    PeAudioDacEncoder(config), conv(config.hidden_size, 2 * model["latent"])
  )
  decoder = torch.nn.Sequential(conv(model["latent"], config.hidden_size), DacDecoder(config))
  return encoder.eval(), decoder.eval()


def _codec(part):
  def make(shapes, wrap):
    encoder, decoder = codec(shapes["model"])
    b, latents = shapes["batch"], shapes["latents"]
    if part == "encode":
      fn, x = wrap(encoder), torch.randn(b, 1, latents * math.prod(shapes["model"]["rates"]))
    else:
      fn, x = wrap(decoder), torch.randn(b, shapes["model"]["latent"], latents)
    return lambda: fn(x)

  return make


_FUNCTIONS = {
  "block_forward": _block_forward,
  "block_step": _block_step,
  "product": _product,
  "tae_encode": _tae("encode"),
  "tae_decode": _tae("decode"),
  "tae_step": _tae_step,
  "dacvae_encode": _codec("encode"),
  "dacvae_decode": _codec("decode"),
  "text_t5": functools.partial(_text, make=_t5),
  "text_clip": functools.partial(_text, make=_clip),
}

def _published(name, kind, shapes):
  import diffusers

  about = PUBLISHED[name]
  module = getattr(diffusers, name)(**about.fields).eval()
  frames = shapes["frames"] + 1  # causal in time: 1 + 4 k or 1 + 8 k
  x = torch.randn(shapes["batch"], 3, frames, shapes["side"], shapes["side"])
  if kind == "tae_encode":
    return lambda: module.encode(x), frames
  if kind == "tae_step":
    x = x.clamp(-1, 1)

    def step():
      module.zero_grad()
      decoded = module.decode(module.encode(x).latent_dist.mode()).sample
      (decoded - x).abs().mean().backward()

    return step, frames
  side = shapes["side"] // 8
  z = torch.randn(shapes["batch"], 16, 1 + shapes["frames"] // about.time, side, side)
  return lambda: module.decode(z), frames


def about() -> dict[str, Any]:
  """Versions of this side."""
  return {"versions": figures.versions(("torch", "diffusers", "transformers"))}


def build(kind: str, shapes: dict[str, Any], variant: str) -> Program:
  """A peer's program of a suite.

  Raises:
    Exception: whatever the peer raises, such as inductor without a C++ compiler.
  """
  torch.manual_seed(0)
  device = _device()
  torch.set_default_device(device)
  # Units are prompts for texts, frames for videos, seconds for sound.
  per_row = shapes.get("frames", "tokens" in shapes and "model" in shapes)
  units = shapes["batch"] * shapes.get("seconds", per_row)
  if variant in PUBLISHED:
    call, frames = _published(variant, kind, shapes)
    units = shapes["batch"] * frames
  else:
    call = _FUNCTIONS[kind](shapes, torch.compile if variant == "compiled" else lambda fn: fn)
  if not kind.endswith("_step"):
    call = torch.inference_mode()(call)
  if device == "cuda":
    torch.cuda.empty_cache()  # of the previous program
    call = _waited(call)
  start = time.perf_counter()
  call()
  first_s = time.perf_counter() - start
  flop = 0.0
  if variant != "compiled":
    with FlopCounterMode(display=False) as counter:
      call()
    flop = counter.get_total_flops()
  return Program(call, first_s, flop, units)


def _device() -> str:
  """The device of our side, which uses the CPU by default."""
  on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
  return "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"


def _waited(call):
  """A call that waits for its result on a GPU, with every fused attention available."""
  from torch.nn.attention import SDPBackend, sdpa_kernel

  # Fastest first on Hopper.
  order = [getattr(SDPBackend, f"{name}_ATTENTION") for name in ("CUDNN", "FLASH", "EFFICIENT")]

  def waited():
    with contextlib.ExitStack() as stack:
      stack.enter_context(sdpa_kernel([*order, SDPBackend.MATH], set_priority=True))
      call()
      torch.cuda.synchronize()

  return waited
