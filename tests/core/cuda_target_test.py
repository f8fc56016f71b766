"""GPUs that are not here: cards and hosts that there are, and one sentence where there are none."""

import pytest

from mg_jax.core import cuda_target
from mg_jax.core.cuda_target import description, gpu_devices, installed
from mg_jax.core.errors import UserError
from mg_jax.core.topology import gpu_pod

needs_cuda = pytest.mark.skipif(
  not installed(), reason="the compiler for GPUs (jax's CUDA plugin and cuDNN) is not installed"
)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"target": "a100"}, "no GPU is named 'a100'; known are h100, h200"),
    ({"gpus": 12, "hosts": 8}, "12 GPUs do not divide over 8 hosts; .* --hosts=8 --gpus=16"),
    ({"gpus": 0}, "0 GPUs do not divide"),
    ({"hosts": 0}, "do not divide over 0 hosts"),
    ({"gpus": 32, "hosts": 2}, "16 GPUs on a host are more than NVLink joins; give .* --hosts=4"),
  ],
)
def test_hosts_that_are_none_are_told(change, words):
  pod = {"target": "h200", "gpus": 8, "hosts": 1} | change
  with pytest.raises(UserError, match=words):
    gpu_devices(pod.pop("target"), **pod)


@pytest.mark.parametrize(
  "module, words",
  [
    ("jax_plugins.xla_cuda13", "for a GPU needs its compiler: pip install -e ..aot-cuda"),
    ("nvidia.cudnn", "needs cuDNN: pip install nvidia-cudnn-cu13"),
  ],
)
def test_what_is_not_installed_is_told(monkeypatch, module, words):
  monkeypatch.setattr(cuda_target, "_installed", lambda name: name != module)
  assert not installed()
  with pytest.raises(UserError, match=words):
    gpu_devices("h200", gpus=8, hosts=1)


def test_cards_differ_in_memory():
  h100, h200 = description("h100"), description("h200")
  assert "device_memory_size: 80000000000 memory_bandwidth: 3350000000000" in h100
  assert "device_memory_size: 141000000000 memory_bandwidth: 4800000000000" in h200
  assert 'name: "NVIDIA H200"' in h200 and h100.count("{") == h100.count("}") == 3


@needs_cuda
def test_hosts_are_islands():
  pod = gpu_pod("h200", gpus=16, hosts=2)
  assert [pod.island(d) for d in pod.devices] == [0] * 8 + [1] * 8
  assert pod.networks == ("nvlink", "infiniband") and pod.platform == "cuda"
  # The part of the memory that the launchers give to jax.
  assert pod.memory_gib == pytest.approx(0.9 * 141e9 / 2**30)
