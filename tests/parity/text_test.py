"""The byte encoder against the T5 encoder of transformers, on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.models.text import ByteT5, relative_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {"vocab": 48, "width": 24, "layers": 3, "heads": 4, "head_dim": 8, "mlp_dim": 40}


def reference():
  torch.manual_seed(0)
  cfg = transformers.T5Config(
    vocab_size=SIZES["vocab"],
    d_model=SIZES["width"],
    num_layers=SIZES["layers"],
    num_heads=SIZES["heads"],
    d_kv=SIZES["head_dim"],
    d_ff=SIZES["mlp_dim"],
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
  )
  model = transformers.T5EncoderModel(cfg).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.normal_(0, 0.3)
  return model


def convert(model):
  """The reference's weights as the tree of ByteT5."""
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}

  def stack(suffix, transpose=True):
    arrays = [state[f"encoder.block.{i}.layer.{suffix}.weight"] for i in range(SIZES["layers"])]
    return jnp.stack([a.T if transpose else a for a in arrays])

  kernels = {
    "query": "0.SelfAttention.q",
    "key": "0.SelfAttention.k",
    "value": "0.SelfAttention.v",
    "out": "0.SelfAttention.o",
    "gate": "1.DenseReluDense.wi_0",
    "up": "1.DenseReluDense.wi_1",
    "down": "1.DenseReluDense.wo",
  }
  layers = {name: {"kernel": stack(suffix)} for name, suffix in kernels.items()}
  layers["attention_norm"] = {"scale": stack("0.layer_norm", transpose=False)}
  layers["mlp_norm"] = {"scale": stack("1.layer_norm", transpose=False)}
  return {
    "embed": state["shared.weight"],
    "position_bias": state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
    "layers": layers,
    "final_norm": {"scale": state["encoder.final_layer_norm.weight"]},
  }


def test_features_match():
  model = reference()
  rng = np.random.default_rng(0)
  ids = rng.integers(2, SIZES["vocab"], (2, 37)).astype(np.int32)
  mask = np.arange(37)[None] < np.array([37, 20])[:, None]
  with torch.no_grad():
    theirs = model(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())[0].numpy()
  ours = ByteT5(**SIZES).apply(
    {"params": jax.tree.map(jnp.asarray, convert(model))}, jnp.asarray(ids), jnp.asarray(mask)
  )
  theirs = theirs * mask[..., None]
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_buckets_match():
  length = 300
  offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
  bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
  theirs = bucket(offset, bidirectional=True, num_buckets=32, max_distance=128).numpy()
  np.testing.assert_array_equal(relative_buckets(length, buckets=32, max_distance=128), theirs)
