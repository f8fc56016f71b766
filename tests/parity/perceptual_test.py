"""LPIPS against the same formulas in torch, on the same random weights.

The trunk is built from torch.nn in torchvision's layout; the rest follows the paper (Zhang et al.
2018) and the constants of version 0.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mg_jax.models.codecs import perceptual

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)  # the last ReLU of each level


class Reference(torch.nn.Module):
  def __init__(self):
    super().__init__()
    layers, before = [], 3
    for width in LAYERS:
      if width == "M":
        layers.append(torch.nn.MaxPool2d(2, 2))
      else:
        layers += [torch.nn.Conv2d(before, width, 3, padding=1), torch.nn.ReLU()]
        before = width
    self.features = torch.nn.Sequential(*layers)
    for k, width in enumerate((64, 128, 256, 512, 512)):
      head = torch.nn.Module()
      head.model = torch.nn.Sequential(
        torch.nn.Dropout(), torch.nn.Conv2d(width, 1, 1, bias=False)
      )
      self.add_module(f"lin{k}", head)

  def forward(self, a, b):
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    a, b, total = (a - shift) / scale, (b - shift) / scale, 0.0
    for i, layer in enumerate(self.features):
      a, b = layer(a), layer(b)
      if i in TAPS:
        unit = [x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10) for x in (a, b)]
        head = getattr(self, f"lin{TAPS.index(i)}").model
        total = total + head((unit[0] - unit[1]) ** 2).mean((2, 3))
    return total[:, 0]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_distance_and_gradient_match(suffix, tmp_path):
  torch.manual_seed(0)
  model = Reference().eval()
  with torch.no_grad():
    for name, p in model.named_parameters():
      if "lin" in name:
        p.uniform_(0, 1)
      elif p.ndim == 4:
        torch.nn.init.kaiming_normal_(p)
  state = model.state_dict()
  parts = [{k: v for k, v in state.items() if ("lin" in k) == heads} for heads in (False, True)]
  paths = [tmp_path / f"{name}.{suffix}" for name in ("vgg16", "heads")]
  for path, part in zip(paths, parts, strict=True):
    if suffix == "pth":
      torch.save(part, path)
    else:
      pytest.importorskip("safetensors.torch").save_file(part, path)
  ours = perceptual.load(paths)

  rng = np.random.default_rng(0)
  a, b = rng.uniform(-1, 1, (2, 1, 50, 36, 3)).astype(np.float32)  # odd sides below two poolings
  theirs = [torch.tensor(x).permute(0, 3, 1, 2).requires_grad_() for x in (a, b)]
  wanted = model(*theirs)
  wanted.sum().backward()
  got, pull = jax.vjp(jax.jit(lambda a: ours(a, jnp.asarray(b))), jnp.asarray(a))
  np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5)
  gradient = theirs[0].grad.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(
    pull(jnp.ones(1))[0], gradient, atol=1e-4 * np.abs(gradient).max(), rtol=0
  )
