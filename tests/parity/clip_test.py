"""Both towers of CLIP against transformers, on the same random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.models.encoders.clip import unit
from mg_jax.models.weights import converted, published
from mg_jax.models.weights.kinds import Config
from mg_jax.models.weights.layouts import KINDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

# Widths, depths, heads and patches that differ between the towers and between the configs.
CONFIGS = {
  "small": (
    {"vocab": 40, "length": 12, "width": 16, "layers": 2, "heads": 2, "mlp_dim": 24},
    {"size": 32, "patch": 8, "width": 24, "layers": 3, "heads": 3, "mlp_dim": 40},
    {"projection": 12, "activation": "quick_gelu"},
  ),
  "long text": (
    {"vocab": 64, "length": 50, "width": 24, "layers": 3, "heads": 1, "mlp_dim": 96},
    {"size": 28, "patch": 14, "width": 16, "layers": 1, "heads": 4, "mlp_dim": 64},
    {"projection": 20, "activation": "gelu", "norm_eps": 1e-2},
  ),
  "deep vision": (
    {"vocab": 48, "length": 20, "width": 32, "layers": 1, "heads": 4, "mlp_dim": 32},
    {"size": 48, "patch": 16, "width": 40, "layers": 4, "heads": 5, "mlp_dim": 20},
    {"projection": 8, "activation": "quick_gelu"},
  ),
}


def reference(text, vision, both, architecture="CLIPModel"):
  torch.manual_seed(0)
  sizes = lambda tower: {  # noqa: E731
    "hidden_size": tower["width"],
    "intermediate_size": tower["mlp_dim"],
    "num_hidden_layers": tower["layers"],
    "num_attention_heads": tower["heads"],
    "hidden_act": both["activation"],
    "projection_dim": both["projection"],
    "layer_norm_eps": both.get("norm_eps", 1e-5),
  }
  config = transformers.CLIPConfig(
    text_config=sizes(text) | {
      "vocab_size": text["vocab"], "max_position_embeddings": text["length"],
      "eos_token_id": text["vocab"] - 1, "bos_token_id": text["vocab"] - 2,
    },
    vision_config=sizes(vision) | {"image_size": vision["size"], "patch_size": vision["patch"]},
    projection_dim=both["projection"],
  )  # fmt: skip
  part = {"CLIPText": config.text_config, "CLIPVisi": config.vision_config}
  config = part.get(architecture[:8], config)
  model = getattr(transformers, architecture)(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.normal_(0, 0.3)
  return model


def close(ours, theirs, limit, size=None):
  """Whether two arrays differ by at most `limit` times their largest value, or times `size`."""
  theirs = theirs.detach().numpy()
  difference = np.abs(np.asarray(ours, np.float32) - theirs).max()
  assert difference <= limit * (np.abs(theirs).max() if size is None else size)


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_pooled_and_logits_match(name, dtype, limit, tmp_path):
  text, vision, both = CONFIGS[name]
  theirs = reference(text, vision, both)
  theirs.save_pretrained(tmp_path / "theirs")
  published.convert(tmp_path / "theirs", tmp_path / "ours", "clip")
  ours, params = converted.load(tmp_path / "ours", dtype=dtype)
  params = {"params": params}
  rng = np.random.default_rng(0)
  image = rng.standard_normal((2, vision["size"], vision["size"], 3)).astype(np.float32)
  ids = rng.integers(0, text["vocab"] - 2, (2, text["length"])).astype(np.int32)
  lengths = np.array([text["length"], 5])
  ids[np.arange(2), lengths - 1] = text["vocab"] - 1
  mask = np.arange(text["length"])[None] < lengths[:, None]

  pixels, tokens = torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(ids).long()
  attention = torch.tensor(mask).long()
  with torch.no_grad():
    out = theirs(input_ids=tokens, pixel_values=pixels, attention_mask=attention)
  written = ours.apply(params, jnp.asarray(ids), jnp.asarray(mask), method="encode_text")
  seen = ours.apply(params, jnp.asarray(image), method="encode_image")
  real = torch.tensor(mask)[..., None]
  close(written.tokens * mask[..., None], out.text_model_output.last_hidden_state * real, limit)
  close(seen.tokens, out.vision_model_output.last_hidden_state, limit)
  close(unit(written.pooled.astype(jnp.float32)), out.text_embeds, limit)
  close(unit(seen.pooled.astype(jnp.float32)), out.image_embeds, limit)
  logits = ours.apply(params, jnp.asarray(image), jnp.asarray(ids), jnp.asarray(mask))
  # Cosines of random vectors are near zero: what counts is their distance on the scale of one.
  close(logits, out.logits_per_image, limit, size=float(theirs.logit_scale.detach().exp()))


def test_a_config_in_two_places_means_the_same():
  config = {
    "text_config": {"hidden_size": 16, "hidden_act": "gelu", "num_hidden_layers": 3},
    "text_config_dict": {"hidden_size": 32, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 24, "hidden_act": "gelu"}, "vision_config_dict": None,
  }  # fmt: skip
  theirs = transformers.CLIPConfig(**config)
  ours = KINDS["clip"].read(Config(config, "config.json"), ()).fields
  for tower, fields in (("text_config", ours["text"]), ("vision_config", ours["vision"])):
    wanted = getattr(theirs, tower)
    assert (fields["width"], fields["layers"]) == (wanted.hidden_size, wanted.num_hidden_layers)
    assert fields["heads"] == wanted.num_attention_heads
    assert fields["activation"] == wanted.hidden_act


@pytest.mark.parametrize("projects", [True, False])
@pytest.mark.parametrize("tower", ["Text", "Vision"])
def test_one_tower_matches(tower, projects, tmp_path):
  text, vision, both = CONFIGS["long text"]
  suffix = "WithProjection" if projects else ""
  theirs = reference(text, vision, both, f"CLIP{tower}Model{suffix}")
  theirs.save_pretrained(tmp_path / "theirs")
  published.convert(tmp_path / "theirs", tmp_path / "ours", "clip")
  ours, params = converted.load(tmp_path / "ours")
  rng = np.random.default_rng(0)
  if tower == "Text":
    ids = rng.integers(0, text["vocab"] - 2, (2, text["length"])).astype(np.int32)
    ids[:, -1] = text["vocab"] - 1
    found = ours.apply({"params": params}, jnp.asarray(ids), jnp.ones(ids.shape, bool))
    call = {"input_ids": torch.tensor(ids).long()}
  else:
    image = rng.standard_normal((2, vision["size"], vision["size"], 3)).astype(np.float32)
    found = ours.apply({"params": params}, jnp.asarray(image))
    call = {"pixel_values": torch.tensor(image).permute(0, 3, 1, 2)}
  with torch.no_grad():
    out = theirs(**call)
  close(found.tokens, out.last_hidden_state, 1e-5)
  pooled = getattr(out, f"{'text' if tower == 'Text' else 'image'}_embeds" if projects
                   else "pooler_output")  # fmt: skip
  close(found.pooled, pooled, 1e-5)


def test_every_field_of_the_published_config_is_known(caplog):
  for name in ("CLIPConfig", "CLIPTextConfig", "CLIPVisionConfig"):
    values = getattr(transformers, name)().to_dict()
    KINDS["clip"].read(Config(values, name), ())
  assert not caplog.records
