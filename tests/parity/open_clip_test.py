"""CLIP in the layout of open_clip against its computation in torch, on the same random weights.

open_clip itself is compared with where it can be imported: it needs torchvision, which does not go
with every torch. Its network is therefore written down here once more, array for array; where both
are there, they are compared as well.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.models.encoders.clip import MEAN, STD, unit
from mg_jax.models.weights import converted, published

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CONFIGS = {
  "MetaCLIP": {
    "embed_dim": 12, "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 24, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2},
  },
  "OpenCLIP": {
    "embed_dim": 20,
    "vision_cfg": {
      "image_size": 28, "layers": 1, "width": 20, "head_width": 5, "patch_size": 14,
      "mlp_ratio": 3.0,
    },
    "text_cfg": {"context_length": 30, "vocab_size": 64, "width": 24, "heads": 1, "layers": 3},
  },
}  # fmt: skip


class QuickGELU(torch.nn.Module):
  def forward(self, x):
    return x * torch.sigmoid(1.702 * x)


class Block(torch.nn.Module):
  def __init__(self, width, heads, ratio, activation):
    super().__init__()
    self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
    self.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
    self.mlp = torch.nn.Sequential()
    self.mlp.add_module("c_fc", torch.nn.Linear(width, int(width * ratio)))
    self.mlp.add_module("gelu", activation())
    self.mlp.add_module("c_proj", torch.nn.Linear(int(width * ratio), width))

  def forward(self, x, mask):
    h = self.ln_1(x)
    x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
    return x + self.mlp(self.ln_2(x))


class Transformer(torch.nn.Module):
  def __init__(self, *sizes, layers):
    super().__init__()
    self.resblocks = torch.nn.ModuleList([Block(*sizes) for _ in range(layers)])

  def forward(self, x, mask=None):
    for block in self.resblocks:
      x = block(x, mask)
    return x


class Vision(torch.nn.Module):
  def __init__(self, config, features, activation):
    super().__init__()
    width, side = config["width"], config["patch_size"]
    parameter = lambda *shape: torch.nn.Parameter(torch.zeros(shape))  # noqa: E731
    self.class_embedding, self.proj = parameter(width), parameter(width, features)
    self.positional_embedding = parameter((config["image_size"] // side) ** 2 + 1, width)
    self.conv1 = torch.nn.Conv2d(3, width, side, stride=side, bias=False)
    self.ln_pre, self.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
    heads, ratio = width // config["head_width"], config.get("mlp_ratio", 4.0)
    self.transformer = Transformer(width, heads, ratio, activation, layers=config["layers"])

  def forward(self, image):
    x = self.conv1(image).flatten(2).transpose(1, 2)
    x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
    x = self.transformer(self.ln_pre(x + self.positional_embedding))
    return self.ln_post(x[:, 0]) @ self.proj


class Model(torch.nn.Module):
  def __init__(self, config):
    super().__init__()
    text, features = config["text_cfg"], config["embed_dim"]
    activation = QuickGELU if config.get("quick_gelu") else torch.nn.GELU
    self.visual = Vision(config["vision_cfg"], features, activation)
    sizes = text["width"], text["heads"], 4.0, activation
    self.transformer = Transformer(*sizes, layers=text["layers"])
    self.token_embedding = torch.nn.Embedding(text["vocab_size"], text["width"])
    parameter = lambda *shape: torch.nn.Parameter(torch.zeros(shape))  # noqa: E731
    self.positional_embedding = parameter(text["context_length"], text["width"])
    self.ln_final = torch.nn.LayerNorm(text["width"])
    self.text_projection, self.logit_scale = parameter(text["width"], features), parameter()

  def encode_image(self, image):
    return self.visual(image)

  def encode_text(self, ids):
    length = ids.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = self.token_embedding(ids) + self.positional_embedding[:length]
    x = self.ln_final(self.transformer(x, mask))
    return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


def official(config, custom=False):
  open_clip = pytest.importorskip("open_clip")
  sizes = json.loads(json.dumps(config))
  cls = open_clip.CustomTextCLIP if custom else open_clip.CLIP
  return cls(**sizes)


MAKERS = {
  "written down": Model,
  "open_clip": official,
  "open_clip, custom text": lambda config: official(config, custom=True),
}


def awake(model):
  torch.manual_seed(0)
  with torch.no_grad():
    for p in model.parameters():
      p.normal_(0, 0.3)
  return model.eval()


def texts(config):
  """Texts with an end each, and padding with the id 0 behind it."""
  length, vocab = config["text_cfg"]["context_length"], config["text_cfg"]["vocab_size"]
  ids = np.random.default_rng(0).integers(1, vocab - 2, (2, length)).astype(np.int32)
  lengths = np.array([length, 5])
  mask = np.arange(length)[None] < lengths[:, None]
  ids[np.arange(2), lengths - 1] = vocab - 1
  return ids * mask, mask


def images(config):
  side = config["vision_cfg"]["image_size"]
  return np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32)


def close(ours, theirs):
  """Whether two arrays differ by at most 1e-5 of the largest value."""
  theirs = theirs.detach().numpy()
  assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("maker", MAKERS)
def test_features_match(maker, name, tmp_path):
  config = CONFIGS[name]
  theirs = awake(MAKERS[maker](config))
  preprocess = {"mean": list(MEAN), "std": list(STD)}
  described = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
  (tmp_path / "open_clip_config.json").write_text(described)
  torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
  published.convert(tmp_path, tmp_path / "ours", "clip")
  ours, params = converted.load(tmp_path / "ours")
  (ids, mask), image = texts(config), images(config)
  variables = {"params": params}
  written = ours.apply(variables, jnp.asarray(ids), jnp.asarray(mask), method="encode_text")
  seen = ours.apply(variables, jnp.asarray(image), method="encode_image")
  pixels, tokens = torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(ids).long()
  with torch.no_grad():
    pooled = theirs.encode_text(tokens), theirs.encode_image(pixels)
  close(written.pooled, pooled[0])
  close(seen.pooled, pooled[1])
  logits = ours.apply(variables, jnp.asarray(image), jnp.asarray(ids), jnp.asarray(mask))
  cosines = unit(seen.pooled) @ unit(written.pooled).T
  np.testing.assert_allclose(
    logits, float(theirs.logit_scale.detach().exp()) * cosines, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_down_is_open_clip(name):
  model, theirs = awake(Model(CONFIGS[name])), official(CONFIGS[name]).eval()
  theirs.load_state_dict(model.state_dict())
  ids = torch.tensor(texts(CONFIGS[name])[0]).long()
  pixels = torch.tensor(images(CONFIGS[name])).permute(0, 3, 1, 2)
  with torch.no_grad():
    close(model.encode_text(ids), theirs.encode_text(ids))
    close(model.encode_image(pixels), theirs.encode_image(pixels))
