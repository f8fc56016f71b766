"""The text encoder against the T5 encoder of transformers, on the same random weights."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.models.encoders.t5 import relative_buckets
from mg_jax.models.weights import converted, published
from mg_jax.models.weights.kinds import Config
from mg_jax.models.weights.layouts import KINDS

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
  "UMT5": {
    "vocab": 56, "width": 24, "layers": 4, "heads": 3, "head_dim": 10, "mlp_dim": 32,
    "activation": "gelu", "gated": True, "type": "UMT5", "norm_eps": 1e-3,
  },
  "mT5": {
    "vocab": 44, "width": 20, "layers": 2, "heads": 2, "head_dim": 6, "mlp_dim": 28,
    "activation": "gelu", "gated": True, "type": "MT5",
  },
  "gated ReLU": {
    "vocab": 36, "width": 16, "layers": 2, "heads": 2, "head_dim": 8, "mlp_dim": 24,
    "activation": "relu", "gated": True, "norm_eps": 0.05,
  },
}  # fmt: skip


def reference(fields):
  torch.manual_seed(0)
  name = fields.get("type", "T5")
  config = getattr(transformers, f"{name}Config")(
    vocab_size=fields["vocab"],
    d_model=fields["width"],
    num_layers=fields["layers"],
    num_heads=fields["heads"],
    d_kv=fields["head_dim"],
    d_ff=fields["mlp_dim"],
    feed_forward_proj=("gated-" if fields["gated"] else "") + fields["activation"],
    relative_attention_num_buckets=fields.get("buckets", 32),
    relative_attention_max_distance=fields.get("max_distance", 128),
    layer_norm_epsilon=fields.get("norm_eps", 1e-6),
    dropout_rate=0.0,
  )
  model = getattr(transformers, f"{name}EncoderModel")(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.normal_(0, 0.3)
  return model


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kind", FIELDS)
def test_features_match(kind, dtype, limit, tmp_path):
  fields = FIELDS[kind]
  model = reference(fields)
  model.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
  published.convert(tmp_path / "theirs", tmp_path / "ours", "t5")
  ours, params = converted.load(tmp_path / "ours", dtype=dtype)
  rng = np.random.default_rng(0)
  ids = rng.integers(2, fields["vocab"], (3, 37)).astype(np.int32)
  mask = np.arange(37)[None] < np.array([37, 20, 1])[:, None]
  with torch.no_grad():
    theirs = model(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())[0].numpy()
  theirs = theirs * mask[..., None]
  features = ours.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask))
  assert np.abs(np.asarray(features, np.float32) - theirs).max() <= limit * np.abs(theirs).max()


class Malice:
  def __reduce__(self):
    return print, ("run",)


def test_torch_files_give_the_same_and_run_nothing(tmp_path, capsys):
  model = reference(FIELDS["UL2"])
  model.save_pretrained(tmp_path / "theirs")
  published.convert(tmp_path / "theirs", tmp_path / "ours", "t5")
  (tmp_path / "theirs" / "model.safetensors").unlink()
  file = tmp_path / "theirs" / "pytorch_model.bin"
  torch.save(model.state_dict(), file)
  published.convert(tmp_path / "theirs", tmp_path / "again", "t5")
  weights = [(tmp_path / name / converted.WEIGHTS).read_bytes() for name in ("ours", "again")]
  assert weights[0] == weights[1]
  for content in ({"shared.weight": Malice()}, {"shared.weight": 3}, [1]):
    torch.save(content, file)
    with pytest.raises(UserError, match="refused"):
      published.convert(tmp_path / "theirs", tmp_path / "none", "t5")
  assert "run" not in capsys.readouterr().out


def test_buckets_match():
  length = 300
  offset = torch.arange(length)[None, :] - torch.arange(length)[:, None]
  bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
  theirs = bucket(offset, bidirectional=True, num_buckets=32, max_distance=128).numpy()
  np.testing.assert_array_equal(relative_buckets(length, buckets=32, max_distance=128), theirs)


def test_torch_files_hold_parameters_and_narrow_types(tmp_path):
  theirs, file = tmp_path / "theirs", tmp_path / "theirs" / "pytorch_model.bin"
  model = reference(FIELDS["UL2"])
  model.save_pretrained(theirs)
  (theirs / "model.safetensors").unlink()
  for name, change in (
    ("grad", torch.nn.Parameter),
    ("half", lambda t: t.to(torch.bfloat16)),
    ("eighth", lambda t: t.to(torch.float8_e4m3fn)),
  ):
    table = {key: change(t) for key, t in model.state_dict().items()}
    torch.save(table, file)
    published.convert(theirs, tmp_path / name, "t5")
    embed = converted.load(tmp_path / name)[1]["embed"]
    np.testing.assert_array_equal(embed, table["shared.weight"].detach().float().numpy())
  table = model.state_dict()
  for name, message in (("sparse", "no.* table of plain tensors"), ("cut", "is truncated or")):
    torch.save(table | {"shared.weight": table["shared.weight"].to_sparse()}, file)
    if name == "cut":
      file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=message) as caught:
      published.convert(theirs, tmp_path / name, "t5")
    assert "\n" not in str(caught.value)


def test_every_field_of_the_published_config_is_known(tmp_path, caplog):
  for name in ("T5", "MT5", "UMT5"):
    config = getattr(transformers, f"{name}Config")()
    config.save_pretrained(tmp_path / name)
    values = json.loads((tmp_path / name / "config.json").read_text())
    KINDS["t5"].read(Config(values | config.to_dict(), name), ())
  assert not caplog.records
