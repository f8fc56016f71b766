"""Validation of the oracles of people: accuracy on drawn clips, clean and degraded.

`launch/oracles.py --world=people --size=64` prints the table.
"""

import numpy as np

from mg_jax.world.oracles import people
from mg_jax.world.oracles.validation import DEGRADATIONS, measured
from mg_jax.world.people.facts import IDENTITIES, Identity, identity, number
from mg_jax.world.scene.facts import facts
from mg_jax.world.scene.sampling import WorldConfig

CANDIDATES = 32
# Recognised among the candidates in the whole clip, and in each of its frames by itself.
RECOGNISED, WORST = "identity", "worst frame"


def candidates(who: Identity, *, seed: int) -> list[Identity]:
  """An identity, first, and random others."""
  rng = np.random.default_rng(seed)
  others = [n for n in rng.integers(IDENTITIES, size=2 * CANDIDATES) if n != number(who)]
  return [who, *(identity(int(n)) for n in others[: CANDIDATES - 1])]


def validate(
  config: WorldConfig,
  *,
  n: int = 100,
  frames: int = 16,
  height: int = 64,
  width: int = 64,
  fps: float | None = None,
  seed: int = 0,
  degradations: tuple[str, ...] = DEGRADATIONS,
) -> dict[str, dict[str, float]]:
  """Prints and returns degradation -> attribute -> accuracy over n scenes of people.

  The row "shuffled" compares the clips of the first row with the next scene: chance level.
  """
  scenes, looks = measured(
    config, people.look, n=n, degradations=degradations, seed=seed,
    frames=frames, height=height, width=width, fps=fps,
  )  # fmt: skip
  columns = (*people.ATTRIBUTES, RECOGNISED, WORST)

  def accuracy(found: list[people.Look], wanted: list) -> dict[str, float]:
    results = []
    for index, (look, scene) in enumerate(zip(found, wanted, strict=True)):
      best, share = look.recognise(candidates(scene.person.identity, seed=index))
      known = {RECOGNISED: best == 0, WORST: best == 0 and share == 1}
      results.append(people.compare(look, facts(scene)) | known)
    return {name: float(np.mean([result[name] for result in results])) for name in columns}

  rows = {how: accuracy(found, scenes) for how, found in looks.items()}
  rows["shuffled"] = accuracy(looks[degradations[0]], scenes[1:] + scenes[:1])
  print(f"{n} scenes, {frames} x {height} x {width}, identities among {CANDIDATES}")
  print(" " * 12 + "".join(f"{how:>12}" for how in rows))
  for name in columns:
    print(f"{name:>12}" + "".join(f"{100 * row[name]:11.1f}%" for row in rows.values()))
  return rows
