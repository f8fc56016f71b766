"""Array types and THE dimension legend of the project.

Names and jaxtyping annotations carry shapes: `x_BLD`, `v_BTHWC`, `q_BLNK`.

| letter | dimension | letter | dimension |
|---|---|---|---|
| B | batch | D | model width |
| T | time: frames, or latent frames | N | attention heads |
| H, W | height, width | K | dimension of a head |
| C | channels | F | width of the MLP |
| L | video tokens, T*H*W after patchify | E | width of a conditioning feature |
| S | context (text) tokens | P | values in one patch |
| G | rows of a context, each shared by B / G consecutive rows | | |

Video is uint8 in 0..255 on disk and in `data/`, float32 in [-1, 1] inside models. Flow time runs
from t = 0 (noise) to t = 1 (data).
"""

from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Int, Key, UInt8

PyTree = Any
DTYPES = ("float32", "bfloat16", "float16")  # of models, by name

__all__ = ["DTYPES", "Array", "Bool", "Float", "Int", "Key", "PyTree", "UInt8"]
