"""The experiment on learning rates and weight decays of one optimizer against another's."""

import dataclasses
import json

import numpy as np
import pytest
import starting_points as experiment
from rich.console import Console

from nos_optax.population import DatasetError

pytestmark = pytest.mark.slow


def task_with(best_powersign, best_sgd=1.0):
    """Scores that fall with the distance from the best rate, one a decade."""
    best = dict.fromkeys(experiment.RULES, best_sgd) | {"PowerSign": best_powersign}
    rates = np.log10(np.array(experiment.RATES))
    scores = [-np.abs(rates - np.log10(rate)) for rate in best.values()]
    return {"best_rate": best, "mean": np.array(scores)[None]}


def test_a_factor_is_judged_on_the_task_that_had_no_part_in_it():
    measured = {"a": task_with(0.1), "b": task_with(0.1), "c": task_with(1.0)}
    found = experiment.factors(measured, "SGD", "PowerSign")
    assert found["ratios"] == {"a": 0.1, "b": 0.1, "c": 1.0}
    assert found["factor"] == pytest.approx(10 ** (-2 / 3))
    # c alone and a or b give 10 ** -0.5 elsewhere; a and b give 0.1 on c, a decade off.
    assert found["regret"]["a"] == pytest.approx(0.5, abs=0.01)
    assert found["regret"]["c"] == pytest.approx(1.0, abs=0.01)


def test_weight_decay_is_decoupled():
    import jax
    import jax.numpy as jnp

    import nos_optax

    rule = experiment.decayed(experiment.RULES["PowerSign"], 0.1)
    ours = nos_optax.powersign(0.5, weight_decay=0.1)
    other = nos_optax.from_rule(rule, 0.5)
    params = jnp.array([1.0, -2.0, 3.0])
    grads = jax.random.normal(jax.random.key(0), (3,))
    mine, _ = ours.update(grads, ours.init(params), params)
    theirs, _ = other.update(grads, other.init(params), params)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_the_smoke_runs_and_goes_on_where_it_was(tmp_path):
    arguments = dataclasses.replace(
        experiment.PRESETS["smoke"], out=tmp_path / "out", results=tmp_path / "results"
    )
    experiment.run(arguments, Console(width=160))
    first = json.loads((tmp_path / "results" / "starting_points_smoke.json").read_text())
    records = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    settings = len(experiment.DECAYS) * len(experiment.RULES) * len(experiment.RATES)
    assert len(records) > 1 + 2 * 2 * settings, "fresh seeds too"
    (tmp_path / "out" / "records.jsonl").write_text("\n".join(records[:-3]) + "\n")
    experiment.run(arguments, Console(width=160))
    again = json.loads((tmp_path / "results" / "starting_points_smoke.json").read_text())
    assert first["tasks"] == again["tasks"]
    assert set(first["tasks"]["digits"]["best_rate"]) == set(experiment.RULES)
    assert (tmp_path / "results" / "starting_points_smoke.png").exists()


def test_the_defaults_are_the_small_preset():
    assert experiment.Arguments() == experiment.PRESETS["small"]


def test_missing_data_is_told_before_anything_is_trained(tmp_path):
    arguments = dataclasses.replace(
        experiment.PRESETS["smoke"],
        tasks=("table", "Penn Treebank"),
        ptb_dir=tmp_path / "nowhere",
        out=tmp_path / "out",
        results=tmp_path,
    )
    with pytest.raises(DatasetError, match="no Penn Treebank in"):
        experiment.run(arguments, Console(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("digits",)}, "at least two of"),
        ({"tasks": ("digits", "mnist")}, "mnist"),
        ({"seeds": 1}, "at least 2"),
    ],
)
def test_wrong_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(experiment.PRESETS["smoke"], **changes)
