import json
import math

import numpy as np
import pytest

from mg_jax.metrics.scores import Scores, wilson


def test_wilson_agrees_with_published_values():
  # Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29.
  for passed, count, low, high in [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ]:
    rate = wilson(passed, count)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert rate.rate == passed / count


def test_wilson_covers_the_true_rate_about_95_percent():
  rates = np.linspace(0.1, 0.9, 33)
  draws = np.random.default_rng(0).binomial(40, rates, size=(400, 33))
  intervals = [wilson(k, 40) for k in range(41)]
  low, high = (np.array([getattr(i, end) for i in intervals])[draws] for end in ("low", "high"))
  assert 0.94 < np.mean((low <= rates) & (rates <= high)) < 0.965


def test_wilson_at_the_ends():
  assert wilson(0, 5).low == 0.0 and wilson(0, 5).high > 0.2
  assert wilson(5, 5).high == 1.0 and wilson(5, 5).low < 0.8
  assert math.isnan(wilson(0, 0).rate) and (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
  with pytest.raises(ValueError):
    wilson(3, 2)


def test_missing_and_inapplicable_criteria_do_not_count():
  scores = Scores()
  scores.add({"color": True, "motion": False})
  scores.add({"color": np.bool_(True), "motion": None})
  scores.add({"color": False})
  scores.add({"motion": None})
  rates = scores.compute()
  assert list(rates) == ["all", "color", "motion"]
  assert (rates["color"].passed, rates["color"].count) == (2, 3)
  assert (rates["motion"].passed, rates["motion"].count) == (0, 1)
  assert (rates["all"].passed, rates["all"].count) == (1, 3)


def test_bad_results_are_refused():
  for wrong in (1.7, -0.1, float("nan"), 2, "yes"):
    with pytest.raises(ValueError, match="criterion color"):
      Scores().add({"color": wrong})
  with pytest.raises(ValueError, match="all"):
    Scores().add({"all": True})


def test_shares_are_averaged_and_do_not_bear_on_all():
  scores = Scores()
  for word, letters in ((True, 1.0), (False, np.float64(2 / 3)), (False, 0.0)):
    scores.add({"word": word, "letters": letters})
  rates = scores.compute()
  assert rates["letters"].rate == pytest.approx(5 / 9) and rates["letters"].count == 3
  assert (rates["all"].passed, rates["all"].count) == (1, 3)
  assert "1.7/3" in scores.table()
  only = Scores()
  only.add({"letters": 1.0})
  assert list(only.compute()) == ["letters"]


def test_table_and_data_say_the_same():
  scores = Scores()
  for i in range(4):
    scores.add({"color": True, "a long criterion": i > 0})
  lines = scores.table().splitlines()
  assert len(lines) == 4 and lines[1].startswith("all")
  assert "75.0%" in lines[1] and "3/4" in lines[1]
  data = json.loads(json.dumps(scores.to_dict()))
  assert data["a long criterion"]["passed"] == 3 and data["color"]["rate"] == 1.0
  assert Scores().table().startswith("criterion")
