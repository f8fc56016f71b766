"""Our side of every suite: the modules that runs train and sample with, compiled ahead of time."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import t2v_256, tae
from launch.bench_suites.suites import Program
from mg_jax.core.sharding import unbox
from mg_jax.evaluation import figures
from mg_jax.kernels.platform import platform
from mg_jax.models.codecs.dacvae import DACVAE
from mg_jax.models.codecs.tae import TAE
from mg_jax.models.encoders.clip import TextTower
from mg_jax.models.encoders.streams import open_streams
from mg_jax.models.encoders.t5 import T5Encoder
from mg_jax.models.generator import Generator
from mg_jax.models.inputs import abstract_latents, open_conditions
from mg_jax.models.transformer import Block, LayerInputs
from mg_jax.sampling.pipeline import TextToVideo
from mg_jax.sampling.settings import Settings
from mg_jax.train import flops

_POSITION_STD = 0.02


def block(shapes: dict[str, Any]) -> tuple[Block, dict[str, jax.Array]]:
  """The layer, and its inputs by the field names of `LayerInputs`; 1/8 of the text is padding."""
  b, width, context = (shapes[name] for name in ("batch", "width", "context"))
  dtype = shapes.get("dtype", "float32")
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape, dtype)  # noqa: E731
  inputs = {
    "x": normal(0, b, shapes["tokens"], width),
    "positions": _POSITION_STD * normal(1, shapes["tokens"], width),
    "modulation": 0.1 * normal(2, b, 6, width),
    "context": normal(3, b, context, width),
    "context_mask": jnp.broadcast_to(jnp.arange(context) < context - context // 8, (b, context)),
  }
  layer = Block(heads=shapes["heads"], mlp_dim=shapes["mlp_dim"], depth=1, dtype=dtype)
  return layer, inputs


def _block_apply(module, params, learned, fixed):
  inputs = learned | fixed
  x = inputs.pop("x")
  return module.apply({"params": params}, x, LayerInputs(**inputs))[0]


def _split(inputs):
  """Inputs with gradients, and the others."""
  fixed = ("positions", "context_mask")
  return (
    {name: value for name, value in inputs.items() if name not in fixed},
    {name: inputs[name] for name in fixed},
  )


def _block_forward(shapes):
  module, inputs = block(shapes)
  params = _init(lambda key: module.init(key, inputs["x"], _surroundings(inputs)))
  # Both sides hold their weights in the dtype they compute in.
  params = jax.tree.map(lambda x: x.astype(inputs["x"].dtype), params)
  return functools.partial(_block_apply, module), (params, *_split(inputs)), 0


def _block_step(shapes):
  apply, (params, learned, fixed), _ = _block_forward(shapes)
  loss = lambda params, learned, fixed: jnp.mean(jnp.square(apply(params, learned, fixed)))  # noqa: E731
  return jax.value_and_grad(loss, argnums=(0, 1)), (params, learned, fixed), 0


def _product(shapes):
  a, b = jax.random.normal(jax.random.key(0), (2, *[shapes["side"]] * 2), shapes["dtype"])
  return jnp.matmul, (a, b), 0


def _surroundings(inputs):
  return LayerInputs(**{name: value for name, value in inputs.items() if name != "x"})


def _init(init: Callable) -> Any:
  return jax.jit(lambda key: unbox(init(key)["params"]))(jax.random.key(0))


def _tae(shapes, method):
  module = TAE(**shapes["model"])
  frames, side = shapes["frames"], shapes["side"]
  shape = (shapes["batch"], frames, side, side, 3)
  params = _init(lambda key: module.init(key, jnp.zeros(shape)))
  options = {}
  if method == "decode":
    shape = (shapes["batch"], *module.latent_shape(frames, side, side))
    options = {"frames": frames}
  x = jnp.clip(jax.random.normal(jax.random.key(1), shape), -1, 1)
  apply = lambda params, x: module.apply({"params": params}, x, method=method, **options)  # noqa: E731
  return apply, (params, x), shapes["batch"] * frames


def _tae_step(shapes):
  """Loss and gradients of the absolute error of a reconstruction from the mean of its latent."""
  module = TAE(**shapes["model"])
  shape = (shapes["batch"], shapes["frames"], shapes["side"], shapes["side"], 3)
  params = _init(lambda key: module.init(key, jnp.zeros(shape)))
  x = jnp.clip(jax.random.normal(jax.random.key(1), shape), -1, 1)

  def loss(params, x):
    mean, _ = module.apply({"params": params}, x, method="encode")
    decoded = module.apply({"params": params}, mean, frames=shapes["frames"], method="decode")
    return jnp.mean(jnp.abs(decoded - x))

  return jax.value_and_grad(loss), (params, x), shapes["batch"] * shapes["frames"]


def _codec(shapes, method):
  module = DACVAE(**shapes["model"])
  b, latents = shapes["batch"], shapes["latents"]
  params = _init(lambda key: module.init(key, jnp.zeros((1, module.hop))))
  shape = (b, latents * module.hop) if method == "encode" else (b, latents, module.latent)
  x = jax.random.normal(jax.random.key(1), shape)
  apply = lambda params, x: module.apply({"params": params}, x, method=method)  # noqa: E731
  return apply, (params, x), b * shapes["seconds"]


def _text(shapes, tower):
  module = tower(**shapes["model"])
  b, s = shapes["batch"], shapes["tokens"]
  ids = jax.random.randint(jax.random.key(1), (b, s), 3, shapes["model"]["vocab"] - 1)
  mask = jnp.arange(s) < jnp.where(jnp.arange(b) % 2, s // 2, s)[:, None]
  params = _init(lambda key: module.init(key, ids, mask))
  apply = lambda params, ids, mask: module.apply({"params": params}, ids, mask)  # noqa: E731
  return apply, (params, ids, mask), b


_FUNCTIONS = {
  "block_forward": _block_forward,
  "block_step": _block_step,
  "product": _product,
  "tae_encode": functools.partial(_tae, method="encode"),
  "tae_decode": functools.partial(_tae, method="decode"),
  "tae_step": _tae_step,
  "dacvae_encode": functools.partial(_codec, method="encode"),
  "dacvae_decode": functools.partial(_codec, method="decode"),
  "text_t5": functools.partial(_text, tower=T5Encoder),
  "text_clip": functools.partial(_text, tower=TextTower),
}


def function(kind: str, shapes: dict[str, Any]) -> tuple[Callable, tuple, int]:
  """A pure function, its arguments, and the number of units per call."""
  return _FUNCTIONS[kind](shapes)


about = figures.describe  # versions and machine of this side


def build(kind: str, shapes: dict[str, Any], variant: str = "") -> Program:
  """The program of a suite; there is one variant."""
  del variant
  if kind == "sampling":
    return _sampling(shapes)
  fn, args, units = function(kind, shapes)
  start = time.perf_counter()
  compiled = jax.jit(fn).lower(*args).compile()
  first_s = time.perf_counter() - start
  call = lambda: jax.block_until_ready(compiled(*args))  # noqa: E731
  return Program(call, first_s, _flop(kind, shapes, fn, args), units)


def _flop(kind, shapes, fn, args) -> float:
  """With gradients, a layer has no recomputation: three times the FLOPs of the forward pass."""
  # Fused kernels hide their products; the blocked one computes the same.
  with platform("cpu"):
    if kind != "block_step":
      return flops.count(fn, *args)
    forward, _, _ = _block_forward(shapes)
    return min(flops.count(fn, *args), 3 * flops.count(forward, *args))


def pipeline(shapes: dict[str, Any]) -> TextToVideo:
  """The sampler of the tiny experiments, with random weights."""
  config, tae_config = t2v_256.get_config("tiny"), tae.get_config("tiny")
  settings = Settings(**(config.sampling.to_dict() | {"steps": shapes["steps"]}))
  autoencoder = TAE(**tae_config.model.to_dict())
  size = (settings.frames, settings.height, settings.width)
  latent = jnp.zeros((1, *autoencoder.latent_shape(*size)))
  model = Generator(**config.model.to_dict())
  text = open_streams(
    config.text.to_dict(), routes=model.routes(), trained=model.text_encoders()
  )
  shapes_of = abstract_latents(open_conditions(config.to_dict()), 1, latent.shape[1:])
  cond = {name: jax.tree.map(jnp.zeros_like, shapes_of[name]) for name in model.routes()}
  return TextToVideo(
    model=model,
    params=_init(lambda key: model.init(key, latent, jnp.zeros((1,)), cond)),
    autoencoder=autoencoder,
    autoencoder_params=_init(lambda key: autoencoder.init(key, jnp.zeros((1, *size, 3)))),
    mean=np.zeros(autoencoder.latent, np.float32),
    std=np.ones(autoencoder.latent, np.float32),
    settings=settings,
    text=text,
    batch=shapes["clips"],
  )


def _sampling(shapes):
  sampler = pipeline(shapes)
  prompts = ["a red star moves left on a dark background"] * shapes["clips"]
  call = lambda: sampler(prompts, seeds=range(shapes["clips"]))  # noqa: E731
  start = time.perf_counter()
  call()
  return Program(call, time.perf_counter() - start, units=shapes["clips"])
