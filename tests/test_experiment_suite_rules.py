"""The experiment on what searches on the suite found: its statistics, and its smallest scale."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import suite_rules

FOLDER = Path(__file__).parents[1] / "experiments"


def rewards(*means, spread=0.1, seeds=8):
    """Return rewards with exactly these means, and exactly this deviation over the seeds."""
    noise = np.random.default_rng(0).normal(size=(seeds, len(means)))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0, ddof=1)
    return np.array(means) + spread * noise


def test_verdicts_are_against_adam_and_corrected():
    columns = rewards(0.5, -0.5, 0.01)
    adam, dead = np.zeros((8, 1)), np.full((8, 1), -3.0)
    scores = suite_rules.score(np.concatenate([columns, adam, dead], axis=1))
    assert [s.verdict for s in scores] == ["better", "worse", "undecided", "Adam", "worse"]
    assert scores[0].mean == pytest.approx(0.5)
    assert scores[0].low < 0.5 < scores[0].high
    # What one test alone would call better, many tests do not.
    barely = 0.1 * 2.6 / np.sqrt(8)
    alone = suite_rules.score(rewards(barely))
    among = suite_rules.score(rewards(*[barely] + [0.0] * 30))
    assert (alone[0].verdict, among[0].verdict) == ("better", "undecided")


def test_means_are_of_the_tasks_that_were_measured():
    some = {"table": rewards(1.0), "digits-mlp": rewards(2.0), "characters": rewards(4.0)}
    columns = suite_rules.columns(some)
    assert list(columns) == [suite_rules.SUITE_MEAN, suite_rules.WATCH_MEAN, *some]
    np.testing.assert_allclose(columns[suite_rules.SUITE_MEAN].mean(), 3.0)
    np.testing.assert_allclose(columns[suite_rules.WATCH_MEAN].mean(), 1.0)


def test_signal_is_what_rules_differ_by_over_what_seeds_do():
    clear = suite_rules.signal(rewards(*range(10), spread=0.1))
    blind = suite_rules.signal(rewards(*[0.0] * 10))
    assert clear["signal_to_noise"] == pytest.approx(np.std(range(10), ddof=1) / 0.1)
    assert clear["halves_rank_correlation"] == pytest.approx(1)
    assert blind["signal_to_noise"] < 1e-6 and blind["halves_rank_correlation"] < 0


@pytest.mark.parametrize(("option", "message"), [({"seeds": 1}, "at least 2"), ({"steps": 7}, "8")])
def test_what_says_nothing_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        suite_rules.Arguments(**option)


def test_the_records_on_file_are_the_default_commands():
    small = suite_rules.PRESETS["small"]
    first, *_ = (small.results / f"{small.name}.jsonl").read_text().splitlines()
    kept = json.loads(first)["config"]
    assert json.loads(json.dumps(small.training())) | {"jax": kept["jax"]} == kept


@pytest.mark.slow
def test_smoke(tmp_path):
    command = [sys.executable, str(FOLDER / "suite_rules.py"), "--scale", "smoke"]
    command += ["--results", str(tmp_path)]
    for _ in range(2):  # the second goes on from the first, and has nothing to do
        subprocess.run(command, check=True, capture_output=True)
    content = json.loads((tmp_path / "suite_rules_smoke.json").read_text())
    assert content["scores"]["table"]["adam"]["mean"] == 0
    assert len((tmp_path / "suite_rules_smoke.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "suite_rules_smoke.png").exists()
