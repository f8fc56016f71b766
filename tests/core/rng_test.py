"""Named streams: fixed by key, name and integers, and independent of everything else."""

import jax
import jax.numpy as jnp
import numpy as np

from mg_jax.core.rng import stream, streams


def _bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_a_stream_is_fixed_by_name_and_integers():
  key = jax.random.key(0)
  seen = [
    _bits(k)
    for k in (
      key,
      stream(key, "noise"),
      stream(key, "time"),
      stream(key, "noise", 0),
      stream(key, "noise", 1),
      stream(key, "noise", 0, 1),
      stream(key, "noise", 1, 0),
      stream(jax.random.key(1), "noise"),
    )
  ]
  assert len(set(seen)) == len(seen)
  assert _bits(stream(key, "noise", 3)) == _bits(stream(key, "noise", 3))


def test_names_hash_the_same_in_every_process():
  # Python's own hash() of a string is salted per process; crc32("noise") is not.
  key = jax.random.key(0)
  assert _bits(stream(key, "noise")) == _bits(jax.random.fold_in(key, 0xFDA99629))


def test_a_traced_step_gives_the_same_key():
  key = jax.random.key(0)
  traced = jax.jit(lambda step: jax.random.key_data(stream(key, "noise", step)))(jnp.int32(7))
  assert tuple(np.asarray(traced).ravel().tolist()) == _bits(stream(key, "noise", 7))


def test_streams_do_not_depend_on_their_company():
  key = jax.random.key(0)
  both = streams(key, ("dropout", "noise"), 5)
  assert set(both) == {"dropout", "noise"}
  assert _bits(both["noise"]) == _bits(streams(key, ("noise",), 5)["noise"])
