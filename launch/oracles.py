"""Accuracy of the toy world's oracles on true clips, clean and degraded, and example scenes.

python launch/oracles.py --world=full --size=64
python launch/oracles.py --world=people --size=64
python launch/oracles.py --world=sounds --count=300 --out=runs/oracles --scenes=4
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from mg_jax.core import config
from mg_jax.core.errors import UserError
from mg_jax.data.sources.toy import WORLDS

_WORLD = flags.DEFINE_enum("world", "simple", WORLDS, "Toy world of the scenes.")
_COUNT = flags.DEFINE_integer("count", 100, "Number of scenes to measure.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames per clip.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 32, "Side of a clip in pixels.", lower_bound=8)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the scenes.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "Folder for oracles.json and the scenes.")
_SCENES = flags.DEFINE_integer("scenes", 0, "Number of scenes to write to --out: mp4 with "
                               "sound, its plot, and its facts as JSON.")  # fmt: skip


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; see --help")
  if _SCENES.value and not _OUT.value:
    raise UserError("--scenes needs a folder; give --out")
  from mg_jax.data import atomic
  from mg_jax.data.sources import toy
  from mg_jax.sampling import sound_plots
  from mg_jax.world.oracles import (
    validation,
    validation_looks,
    validation_people,
    validation_sound,
  )
  from mg_jax.world.scene import sampling

  world, count, side, seed = toy.world(_WORLD.value), _COUNT.value, _SIZE.value, _SEED.value
  size = {"frames": _FRAMES.value, "height": side, "width": side}
  if world.person:
    rows = {"people": validation_people.validate(world, n=count, seed=seed, **size)}
  else:
    rows = {"pictures": validation.validate(world, n=count, seed=seed, **size)}
  if world.looks_vary:
    rows["looks"] = validation_looks.validate(world, n=count, seed=seed, **size)
  if world.sound:
    rows["sounds"] = validation_sound.validate(world, n=count, seed=seed)
  if _OUT.value:
    out = pathlib.Path(_OUT.value)
    about = {"world": _WORLD.value, "count": count, "seed": seed, **size}
    atomic.write_json(out / "oracles.json", about | {"accuracy": rows})
    for index in range(_SCENES.value):
      sound_plots.write_scene(sampling.sample(seed, index, world), out)


if __name__ == "__main__":
  config.run(main)
