"""Validation of the oracle of looks: its accuracy on drawn clips, clean and degraded.

Shows what is measured of ground, weather, time and style; `launch/oracles.py` prints the table.
"""

from mg_jax.world.oracles import looks
from mg_jax.world.oracles.validation import DEGRADATIONS, measured
from mg_jax.world.scene.sampling import WorldConfig


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
  """Prints and returns degradation -> fact of a look -> accuracy over n scenes; the row "shuffled"
  compares the clips of the first row with the looks of the next scene: chance level."""
  scenes, measurements = measured(
    config, looks.measure, n=n, degradations=degradations, seed=seed,
    frames=frames, height=height, width=width, fps=fps,
  )  # fmt: skip
  truth = [looks.truth(scene) for scene in scenes]

  def accuracy(found, wanted):
    return looks.average([looks.compare(m, w) for m, w in zip(found, wanted, strict=True)])

  rows = {name: accuracy(found, truth) for name, found in measurements.items()}
  rows["shuffled"] = accuracy(measurements[degradations[0]], truth[1:] + truth[:1])
  print("".join(f"{c:>12}" for c in ("looks", *looks.LOOKS, "all")))
  for name, row in rows.items():
    cells = [f"{100 * row[c]:11.1f}%" if c in row else f"{'':12}" for c in (*looks.LOOKS, "all")]
    print(f"{name:>12}" + "".join(cells))
  return rows
