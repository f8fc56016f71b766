"""The text encoder against the T5 encoder of transformers, on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.models.text import T5Encoder, relative_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

# One of each kind of the family, with heads that do and do not fill the width.
FIELDS = {
  "T5 1.0": {
    "vocab": 48, "width": 24, "layers": 3, "heads": 4, "head_dim": 6, "mlp_dim": 40,
    "activation": "relu", "gated": False,
  },
  "T5 1.1, ByT5": {
    "vocab": 64, "width": 32, "layers": 2, "heads": 2, "head_dim": 8, "mlp_dim": 56,
    "activation": "gelu", "gated": True,
  },
  "UL2": {
    "vocab": 40, "width": 16, "layers": 4, "heads": 1, "head_dim": 24, "mlp_dim": 20,
    "activation": "silu", "gated": True, "buckets": 16, "max_distance": 20,
  },
}  # fmt: skip


def reference(fields):
  torch.manual_seed(0)
  config = transformers.T5Config(
    vocab_size=fields["vocab"],
    d_model=fields["width"],
    num_layers=fields["layers"],
    num_heads=fields["heads"],
    d_kv=fields["head_dim"],
    d_ff=fields["mlp_dim"],
    feed_forward_proj=("gated-" if fields["gated"] else "") + fields["activation"],
    relative_attention_num_buckets=fields.get("buckets", 32),
    relative_attention_max_distance=fields.get("max_distance", 128),
    dropout_rate=0.0,
  )
  model = transformers.T5EncoderModel(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.normal_(0, 0.3)
  return model


def convert(model, fields):
  """The reference's weights as the tree of T5Encoder."""
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}

  def stack(suffix, transpose=True):
    arrays = [state[f"encoder.block.{i}.layer.{suffix}.weight"] for i in range(fields["layers"])]
    return jnp.stack([a.T if transpose else a for a in arrays])

  attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
  kernels = {name: f"0.SelfAttention.{theirs}" for name, theirs in attention.items()}
  mlp = {"gate": "wi_0", "up": "wi_1"} if fields["gated"] else {"up": "wi"}
  kernels |= {name: f"1.DenseReluDense.{theirs}" for name, theirs in (mlp | {"down": "wo"}).items()}
  layers = {name: {"kernel": stack(suffix)} for name, suffix in kernels.items()}
  layers["attention_norm"] = {"scale": stack("0.layer_norm", transpose=False)}
  layers["mlp_norm"] = {"scale": stack("1.layer_norm", transpose=False)}
  return {
    "embed": state["shared.weight"],
    "position_bias": state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
    "layers": layers,
    "final_norm": {"scale": state["encoder.final_layer_norm.weight"]},
  }


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kind", FIELDS)
def test_features_match(kind, dtype, limit):
  fields = FIELDS[kind]
  model = reference(fields)
  rng = np.random.default_rng(0)
  ids = rng.integers(2, fields["vocab"], (3, 37)).astype(np.int32)
  mask = np.arange(37)[None] < np.array([37, 20, 1])[:, None]
  with torch.no_grad():
    theirs = model(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())[0].numpy()
  theirs = theirs * mask[..., None]
  params = jax.tree.map(jnp.asarray, convert(model, fields))
  ours = T5Encoder(**fields, dtype=jnp.dtype(dtype)).apply(
    {"params": params}, jnp.asarray(ids), jnp.asarray(mask)
  )
  assert np.abs(np.asarray(ours, np.float32) - theirs).max() <= limit * np.abs(theirs).max()


def test_buckets_match():
  length = 300
  offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
  bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
  theirs = bucket(offset, bidirectional=True, num_buckets=32, max_distance=128).numpy()
  np.testing.assert_array_equal(relative_buckets(length, buckets=32, max_distance=128), theirs)
