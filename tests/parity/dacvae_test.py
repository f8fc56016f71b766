"""The audio codec against transformers' plain path of it, on the same random weights."""

import functools
import json

import jax
import numpy as np
import pytest

from mg_jax.core.errors import UserError
from mg_jax.data import tensors
from mg_jax.models.weights import converted, published

torch = pytest.importorskip("torch")
pytest.importorskip("transformers.models.pe_audio")
pytestmark = pytest.mark.parity

CONFIGS = {
  "published rates": {
    "encoder_dim": 4, "encoder_rates": [2, 8, 10, 12], "decoder_dim": 32, "codebook_dim": 8,
    "latents": 3,
  },
  "those of DAC": {
    "encoder_dim": 8, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 48, "codebook_dim": 5,
    "latents": 5,
  },
  "two levels": {
    "encoder_dim": 6, "encoder_rates": [6, 4], "decoder_dim": 20, "codebook_dim": 3, "latents": 9,
  },
}  # fmt: skip


def reference(config):
  """(encoder, posterior, expansion, decoder) of torch, with weights that keep signals alive."""
  from transformers import DacConfig
  from transformers.models.dac.modeling_dac import DacDecoder
  from transformers.models.pe_audio.modeling_pe_audio import PeAudioDacEncoder

  torch.manual_seed(0)
  dac = DacConfig(
    encoder_hidden_size=config["encoder_dim"], downsampling_ratios=config["encoder_rates"],
    decoder_hidden_size=config["decoder_dim"], codebook_dim=config["codebook_dim"],
  )  # fmt: skip
  modules = torch.nn.ModuleList([
    PeAudioDacEncoder(dac),
    torch.nn.Conv1d(dac.hidden_size, 2 * config["codebook_dim"], 1),
    torch.nn.Conv1d(config["codebook_dim"], dac.hidden_size, 1),
    DacDecoder(dac),
  ])  # fmt: skip
  return modules.eval(), dac.hidden_size


def published_names(levels):
  """Their module paths -> the published ones."""
  names = {
    "0.conv1": "encoder.block.0", "0.snake1": f"encoder.block.{levels + 1}",
    "0.conv2": f"encoder.block.{levels + 2}", "1": "quantizer.in_proj", "2": "quantizer.out_proj",
    "3.conv1": "decoder.model.0", "3.snake1": "decoder.wm_model.encoder_block.pre.0",
    "3.conv2": "decoder.wm_model.encoder_block.pre.1",
  }  # fmt: skip
  for i in range(levels):
    down, up = f"encoder.block.{i + 1}.block", f"decoder.model.{i + 1}.block"
    names |= {f"0.block.{i}.snake1": f"{down}.3", f"0.block.{i}.conv1": f"{down}.4"}
    names |= {f"3.block.{i}.snake1": f"{up}.0", f"3.block.{i}.conv_t1": f"{up}.1"}
    for theirs, there, places in (("0", down, (0, 1, 2)), ("3", up, (4, 5, 8))):
      for unit, place in enumerate(places, 1):
        for k, layer in enumerate(("snake1", "conv1", "snake2", "conv2")):
          names[f"{theirs}.block.{i}.res_unit{unit}.{layer}"] = f"{there}.{place}.block.{k}"
  return names


def arrays_of(modules, levels):
  """Weights as published, normalised along the first axis, which the modules then take on.

  At higher gains the reference itself is chaotic: its float32 is then far from its float64.
  """
  names, out = published_names(levels), {}
  with torch.no_grad():
    for path, p in modules.named_parameters():
      module, leaf = path.rsplit(".", 1)
      name = names.pop(module) if leaf in ("bias", "alpha") else names[module]
      if leaf != "weight":
        p.copy_(torch.rand_like(p) + 0.5 if leaf == "alpha" else torch.randn_like(p) * 0.1)
        out[f"{name}.{leaf}"] = p.numpy()
        continue
      v = torch.randn_like(p)
      inputs = p[:, 0].numel() / p.shape[-1] if "conv_t1" in path else p[0].numel() / 2
      g = (torch.rand(p.shape[0], 1, 1) + 0.5) * (p[0].numel() / inputs) ** 0.5 * 0.45
      p.copy_(g * v / v.flatten(1).norm(dim=1)[:, None, None])
      out |= {f"{name}.weight_g": g.numpy(), f"{name}.weight_v": v.numpy()}
  assert not names, "a layer was not found"
  return out


def write(folder, config, arrays):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config))
  shapes = {name: (a.shape, a.dtype) for name, a in arrays.items()}
  tensors.write(folder / "model.safetensors", shapes, [(n, [a]) for n, a in arrays.items()])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """pair(name, weight_norm): the reference, and ours with the same weights."""

  @functools.cache
  def make(name, weight_norm=False):
    folder, config = tmp_path_factory.mktemp("dacvae"), CONFIGS[name]
    modules, hidden = reference(config)
    arrays = arrays_of(modules, len(config["encoder_rates"]))
    arrays["decoder.wm_model.msg_processor.msg_processor.weight"] = np.ones((2, 2), np.float32)
    write(folder / "theirs", config | {"latent_dim": hidden}, arrays)
    published.convert(folder / "theirs", folder / "ours", "dacvae", weight_norm=weight_norm)
    return modules, *converted.load(folder / "ours")

  return make


def close(ours, theirs):
  """Agreement of (B, T, C) and (B, C, T) to 1e-5 of the largest value."""
  theirs = theirs.transpose(1, 2).numpy()
  assert np.asarray(ours).shape == theirs.shape
  assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


# Four levels take longer to compile than a test should.
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("published rates", "those of DAC")]


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("name", [*SLOW, "two levels"])
def test_the_codec_encodes_and_decodes_as_the_reference(pair, name, weight_norm):
  (encoder, posterior, expansion, decoder), model, params = pair(name, weight_norm)
  assert model.weight_norm == weight_norm
  count = CONFIGS[name]["latents"]
  wave = np.random.default_rng(0).uniform(-1, 1, (2, count * model.hop)).astype(np.float32)
  with torch.no_grad():
    mean, scale = posterior(encoder(torch.tensor(wave)[:, None])).chunk(2, dim=1)
    std = torch.nn.functional.softplus(scale) + 1e-4
    sound = decoder(expansion(mean))
  # Not a signal that died or was clipped on its way.
  assert 0.05 < mean.std() < 20 and 0.02 < sound.std() < 0.95, (mean.std(), sound.std())

  @jax.jit
  def both(params, wave, latent):
    encoded = model.apply({"params": params}, wave, method="encode")
    return *encoded, model.apply({"params": params}, latent, method="decode")

  # From the same latent, so that no error of the encoder hides or adds to one of the decoder.
  ours, logvar, decoded = both(params, wave, mean.transpose(1, 2).numpy())
  close(ours, mean)
  close(np.exp(logvar / 2), std)
  close(decoded[..., None], sound)


class Malice:
  def __reduce__(self):
    return print, ("run",)


def test_a_file_with_its_own_config_gives_the_same_and_runs_nothing(pair, tmp_path, capsys):
  _, model, _ = pair("two levels")
  config = CONFIGS["two levels"]
  modules, hidden = reference(config)
  arrays = arrays_of(modules, 2)
  write(tmp_path / "theirs", config | {"latent_dim": hidden}, arrays)
  published.convert(tmp_path / "theirs", tmp_path / "ours", "dacvae")
  (tmp_path / "published").mkdir()
  file = tmp_path / "published" / "weights.pth"
  table = {name: torch.tensor(a) for name, a in arrays.items()}
  metadata = {"kwargs": config | {"latent_dim": hidden}}
  torch.save({"state_dict": table, "metadata": metadata}, file)
  published.convert(file.parent, tmp_path / "again", "dacvae")
  weights = [(tmp_path / name / converted.WEIGHTS).read_bytes() for name in ("ours", "again")]
  assert weights[0] == weights[1] and converted.module(tmp_path / "again") == model
  torch.save({"state_dict": table, "metadata": {"kwargs": Malice()}}, file)
  with pytest.raises(UserError, match="refused"):
    published.convert(file.parent, tmp_path / "none", "dacvae")
  assert "run" not in capsys.readouterr().out
