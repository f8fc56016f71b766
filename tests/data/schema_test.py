import numpy as np
import pytest

from mg_jax.data.schema import Sample, Source

VIDEO = np.zeros((4, 8, 8, 3), np.uint8)


def test_a_list_is_a_source():
  assert isinstance([1, 2], Source)
  assert not isinstance(iter([1]), Source)


@pytest.mark.parametrize(
  "wrong, word",
  [
    ({"video": VIDEO[0]}, "uint8"),
    ({"video": VIDEO.astype(np.float32)}, "float32"),
    ({"frames": 0}, "frames=0"),
    ({"frames": 5}, "frames=5"),
    ({"fps": 0.0}, "fps"),
    ({"wave": np.zeros(5)}, "float64"),
    ({"wave": np.zeros((2, 5), np.float32)}, "wave"),
    ({"fps": float("nan")}, "fps"),
    ({"video": None}, "no video"),
    ({"video": None, "wave": np.zeros(5, np.int16)}, "4 frames"),
  ],
)
def test_a_sample_is_checked_once(wrong, word):
  good = {"video": VIDEO, "frames": 4, "fps": 8.0, "caption": "", "key": "k"}
  Sample(**good)
  with pytest.raises(ValueError, match=word):
    Sample(**{**good, **wrong})
