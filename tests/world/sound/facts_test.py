"""Facts of sound: who makes which sound, when hits happen, and the separation of moods."""

import dataclasses

import numpy as np
import pytest

from mg_jax.world.scene import facts as F
from mg_jax.world.scene.motion import MOTIONS
from mg_jax.world.sound import facts as S
from mg_jax.world.sound.timbres import INSTRUMENTS, STRIKES


def scene(*things, sound=None, duration_s=2.0):
  return F.Scene(0, 0, F.Background("dark"), things, duration_s=duration_s, sound=sound)


def thing(motion, colour="white", size="large"):
  return F.Thing("star", colour, size, 0, 0, motion=motion)


def test_every_name_is_known_to_every_table():
  assert set(S.COLOUR_MATERIALS) == set(F.PALETTE)
  assert set(S.COLOUR_MATERIALS.values()) == set(S.MATERIALS) == set(STRIKES)
  assert set(S.PITCHES) == set(F.SIZES)
  assert {mood.background for mood in S.MOODS.values()} == set(F.BACKGROUNDS)
  assert {mood.instrument for mood in S.MOODS.values()} == set(INSTRUMENTS)
  assert not set(S.EFFECTS) & set(S.HITS) and set(S.EFFECTS) | set(S.HITS) <= set(MOTIONS)


def test_tempos_can_be_told_apart():
  tempos = sorted(mood.tempo_bpm for mood in S.MOODS.values())
  assert min(np.diff(np.log(tempos))) > 0.12 and tempos[-1] / tempos[0] < 1.9


@pytest.mark.parametrize("name, kind", [("bounce", "floor"), ("knock", "wall")])
def test_hits_are_where_the_object_turns_round(name, kind):
  motion = F.Motion(name, amount=0.4, hits=(-0.2, 0.1, 0.3, 0.8, 1.2))
  found = S.impacts(scene(thing(motion)))
  assert [hit.time_s for hit in found] == pytest.approx([0.2, 0.6, 1.6])
  assert {(hit.kind, hit.material, hit.size) for hit in found} == {(kind, "metal", "large")}
  # The longer the way that came before, the louder.
  assert found[2].level == pytest.approx(1.0) and found[1].level < found[0].level
  u = np.array([hit.time_s / 2 for hit in found])
  pose = MOTIONS[name](motion, u)
  np.testing.assert_allclose(pose.dy if name == "bounce" else pose.dx, 0.2, atol=1e-9)


@pytest.mark.parametrize("cycles", [2.0, -2.0])
def test_regular_bounces_are_heard_too(cycles):
  motion = F.Motion("bounce", amount=0.4, cycles=cycles, phase=0.25)
  found = S.impacts(scene(thing(motion)))
  u = np.array([hit.time_s / 2 for hit in found])
  assert len(u) == 2 and np.all((u >= 0) & (u < 1))
  np.testing.assert_allclose(MOTIONS["bounce"](motion, u).dy, 0.2, atol=1e-9)


def test_pitch_follows_size_and_timbre_colour():
  motion = F.Motion("bounce", 0.4, hits=(-0.2, 0.5, 1.2))
  pitches = [
    S.impacts(scene(thing(motion, size=size)))[0].pitch_hz for size in ("small", "medium", "large")
  ]
  assert pitches == sorted(pitches, reverse=True)
  materials = [S.impacts(scene(thing(motion, colour=c)))[0].material for c in F.PALETTE]
  assert len(set(materials)) == 4
  # Objects that hit as one are heard once; others each by themselves.
  both = scene(thing(motion), thing(motion), thing(motion, colour="red"))
  assert [hit.material for hit in S.impacts(both)] == ["metal", "rubber"]


def test_facts_tell_what_is_heard_and_what_is_not():
  still = scene(thing(F.Motion()), sound=F.Sound())
  told = S.sound_facts(still)
  assert told["silent"] and told["times_s"] == [] and told["mood"] is None
  spins = S.sound_facts(scene(thing(F.Motion("spin", cycles=0.5)), sound=F.Sound()))
  assert spins["effect"] == "whirr" and not spins["silent"]
  music = dataclasses.replace(still, sound=F.Sound(F.Music("happy"), "rain", 6.5))
  told = S.sound_facts(music)
  assert (told["mood"], told["tempo_bpm"], told["scale"]) == ("happy", 136.0, "major")
  assert (told["ambience"], told["quality"], told["silent"]) == ("rain", 6.5, False)
  assert S.mood_of("light") == "happy"
