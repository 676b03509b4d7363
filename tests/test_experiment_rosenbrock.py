"""The experiments on Rosenbrock's function and on the decays: by hand, and in double precision."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import rosenbrock
import rosenbrock_trajectories as trajectories
import schedules
from rosenbrock_measures import best_by_rate, best_of_first, log_values, measure, summarise
from rosenbrock_tables import verdict
from rosenbrock_trajectories import optimizers

pytestmark = pytest.mark.slow  # experiments take seconds to compile

QUIET = Console(quiet=True)
START = np.array([-1.2, 1.0])


def read_strict(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# Trajectories, against NumPy in double precision.


def gradient(w):
    x, y = w
    return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def descend(rule, steps, start=START):
    """Return the points [steps + 1, 2] of `w -= rule(g, memory, t)`."""
    points, memory = [np.array(start, float)], {}
    for t in range(steps):
        points.append(points[-1] - rule(gradient(points[-1]), memory, t))
    return np.array(points)


def average(memory, name, decay, x):
    memory[name] = decay * memory.get(name, 0.0) + (1 - decay) * x
    return memory[name]


def rd(t, steps, n):
    return (1 + np.cos(np.pi * ((t * n) % steps) / steps)) / 2


def numpy_rules(steps, rate, epsilon):
    """Return each optimizer's update, in the paper's symbols."""

    def momentum(g, memory, t):
        memory["trace"] = 0.9 * memory.get("trace", 0.0) + g
        return rate * memory["trace"]

    def rmsprop(g, memory, t):
        return rate * g / np.sqrt(average(memory, "v", 0.9, g**2) + 1e-8)

    def adam(g, memory, t):
        m = average(memory, "m", 0.9, g) / (1 - 0.9 ** (t + 1))
        v = average(memory, "v", 0.999, g**2) / (1 - 0.999 ** (t + 1))
        return rate * m / (np.sqrt(v) + epsilon)

    def tensorflow_adam(g, memory, t):
        m, v = average(memory, "m", 0.9, g), average(memory, "v", 0.999, g**2)
        corrected = rate * np.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        return corrected * m / (np.sqrt(v) + epsilon)

    def agreement(g, memory):
        return np.sign(g) * np.sign(average(memory, "m", 0.9, g))

    decays = {
        "": lambda t: 1.0,
        "-ld": lambda t: 1 - t / steps,
        "-cd": lambda t: (1 + np.cos(np.pi * t / steps)) / 2,
        "-rd10": lambda t: rd(t, steps, 10),
        "-rd20": lambda t: rd(t, steps, 20),
    }
    return {
        "SGD": lambda g, memory, t: rate * g,
        "Momentum": momentum,
        "RMSProp": rmsprop,
        "Adam": adam,
        "Adam, epsilon tuned": adam,
        "Adam, as in TensorFlow": tensorflow_adam,
        **{
            f"PowerSign{name}": lambda g, memory, t, f=f: (
                rate * np.exp(f(t) * agreement(g, memory)) * g
            )
            for name, f in decays.items()
        },
        **{
            f"AddSign{name}": lambda g, memory, t, f=f: rate * (1 + f(t) * agreement(g, memory)) * g
            for name, f in decays.items()
        },
    }


@pytest.mark.parametrize("name", optimizers(100))
def test_trajectories_are_those_of_double_precision(name):
    steps, rate, epsilon = 100, 4e-4, 0.5  # so large that its place matters
    make = optimizers(steps)[name]
    one = np.float32([rate]), np.float32([epsilon]), np.float32([START])
    points, values = (np.asarray(a)[0, 0] for a in trajectories.descend(make, steps, *one))
    expected = descend(numpy_rules(steps, rate, epsilon)[name], steps)
    assert points.dtype == np.float32 and points.shape == (steps + 1, 2)
    np.testing.assert_allclose(points, expected, rtol=0, atol=2e-5)
    x, y = expected.T
    np.testing.assert_allclose(values, (1 - x) ** 2 + 100 * (y - x**2) ** 2, rtol=3e-3)
    assert abs(points[-1] - START).max() > 0.01  # something was compared


@pytest.mark.parametrize(("name", "rate"), [("Adam", 0.1), ("PowerSign", 1e-3), ("SGD", 1e-3)])
def test_what_is_reported_is_no_matter_of_precision(name, rate):
    """Adam's last f is rounding; that it is far below PowerSign's is not."""
    steps, epsilon = 4000, 1e-8
    make = optimizers(steps)[name]
    one = np.float32([rate]), np.float32([epsilon]), np.float32([START])
    values = np.asarray(trajectories.descend(make, steps, *one)[1])[0, 0]
    x, y = descend(numpy_rules(steps, rate, epsilon)[name], steps).T
    expected = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    if name == "Adam":
        assert values.min() < 1e-11 and expected.min() < 1e-11
    else:
        assert values[-1] == pytest.approx(expected[-1], rel=0.03)


def test_settings_and_starts_do_not_influence_each_other():
    make = optimizers(50)["PowerSign"]
    rates, epsilons = np.float32([1e-4, 1e-3, 1.0]), np.float32([1e-8] * 3)
    starts = np.float32([START, [0.5, -0.5]])
    points, values = trajectories.descend(make, 50, rates, epsilons, starts)
    assert points.shape == (3, 2, 51, 2) and values.shape == (3, 2, 51)
    assert not np.isfinite(values[2, 0, -1])  # diverged, alone
    alone = trajectories.descend(make, 50, rates[1:2], epsilons[1:2], starts[1:])[1]
    np.testing.assert_allclose(values[1, 1], alone[0, 0], rtol=1e-4)


# Budgets, choices and measures, by hand.

SMALL = rosenbrock.Arguments(rates=(1e-3, 1e-2), epsilons=(1e-8, 1.0), starts=2)


def test_budgets_are_equal_and_hold_the_papers():
    usual, tuned = (
        rosenbrock.settings(SMALL, "SGD"),
        rosenbrock.settings(SMALL, "Adam, epsilon tuned"),
    )
    assert usual.rates == pytest.approx([1e-3, 1e-3 * 10**0.5, 1e-2, 1e-2 * 10**0.5])
    assert usual.epsilons == pytest.approx([1e-8] * 4) and usual.first.tolist() == [0, 2]
    assert tuned.rates == pytest.approx([1e-3, 1e-3, 1e-2, 1e-2])
    assert tuned.epsilons == pytest.approx([1e-8, 1, 1e-8, 1])
    assert tuned.first.tolist() == [0, 1, 2, 3]


def make_runs(curves, name="SGD"):
    """Return runs with f [K][S][T + 1]."""
    values = np.array(curves, np.float32)
    return summarise(rosenbrock.settings(SMALL, name), np.zeros((*values.shape, 2)), values)


def test_what_is_said_of_one_run():
    nan = float("nan")
    some = make_runs([[[9, 1e-4, 0.5]], [[9, 9, nan]], [[9, 1e-5, 1e-6]], [[9, 1e-6, 1e-6]]])
    assert some.describe(0) == pytest.approx(
        {
            "rate": 1e-3,
            "epsilon": 1e-8,
            "f": 0.5,
            "median_f_at_the_end": 0.5,
            "best_f": 1e-4,
            "steps_to_solve": 1,
            "diverged": 0,
        }
    )
    assert some.describe(1)["diverged"] and some.describe(1)["best_f"] == 9
    assert some.describe(1)["steps_to_solve"] == np.inf
    assert best_of_first(some) == 2  # the others are not among the paper's
    assert best_by_rate(some, SMALL.rates) == [0, 2]
    assert "Better: none. Worse: SGD (1.0e-06)." in verdict(
        {"PowerSign": make_runs([[[9, 1, 1e-7]]] * 4), "SGD": some}
    )


def test_a_lucky_last_step_does_not_hide_what_came_before():
    settled = summarise(
        rosenbrock.settings(SMALL, "SGD"),
        np.zeros((1, 1, 1001, 2)),
        np.array([[[9.0] * 500 + [0.5] * 500 + [1e-9]]]),
    ).settled
    assert settled == 0.5


def test_of_equals_the_quickest_is_chosen():
    some = make_runs([[[9, 9, 1e-6]], [[9, 9, 9]], [[9, 1e-6, 1e-6]], [[9, 9, 9]]])
    assert best_of_first(some) == 2


def test_half_of_the_starts_choose_and_the_others_measure():
    # The given start, two that choose and two that measure. The rate 1e-3 is chosen by the former.
    good, bad, best = [9, 9, 1e-2], [9, 9, 1.0], [9, 9, 1e-14]
    diverged = [9, 9, float("inf")]
    adam = make_runs([[bad, good, good, bad, bad], *[[best, bad, bad, best, best]] * 3])
    sgd = make_runs([[bad, good, good, good, diverged], *[[best, bad, bad, best, best]] * 3])
    at_start = np.array([1.0, 1.0, 1.0, 100.0])
    rows = measure({"Adam": adam, "SGD": sgd}, at_start, equal=False)
    assert rows["SGD"]["values"].tolist() == pytest.approx([1e-2, np.inf])
    assert (rows["SGD"]["settings"], rows["SGD"]["n"], rows["SGD"]["diverged"]) == (2, 2, 1)
    # log10 f: -2 and that of the start, 2, against 0 and 0.
    assert rows["SGD"]["log10_minus_adam"][0] == pytest.approx(0, abs=1e-6)
    assert rows["SGD"]["log10_minus_adam"][2] == pytest.approx(12.7062 * 2, rel=1e-4)
    assert measure({"Adam": adam}, at_start, equal=True)["Adam"]["settings"] == 4


def test_logarithms_end_where_float32_rounds():
    logs = log_values(np.array([0.0, 1e-3, np.inf]), np.array([5.0, 5.0, 10.0]))
    assert logs == pytest.approx([-12, -3, 1])


def test_starts_are_drawn_once():
    starts = rosenbrock.random_starts(SMALL)
    assert starts.shape == (4, 2) and (abs(starts - [0, 1]) <= 2).all()
    np.testing.assert_array_equal(starts, rosenbrock.random_starts(SMALL))
    assert (starts != rosenbrock.random_starts(dataclasses.replace(SMALL, seed=1))).all()


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (rosenbrock.Arguments, {"starts": 1}, "--starts must be at least 2, got 1"),
        (rosenbrock.Arguments, {"steps": 0}, "--steps must be at least 1, got 0"),
        (rosenbrock.Arguments, {"rates": ()}, "at least one number each"),
        (schedules.Arguments, {"steps": 1}, "--steps must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_run_is_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("experiment", [rosenbrock, schedules])
def test_every_preset_is_of_its_name(experiment):
    assert next(iter(experiment.PRESETS)) == "small"
    assert experiment.Arguments() == experiment.PRESETS["paper"]
    assert {scale: p.scale for scale, p in experiment.PRESETS.items()} == {
        "paper": "paper",
        "small": "small",
        "smoke": "smoke",
    }


def test_smoke_of_rosenbrock(tmp_path):
    arguments = dataclasses.replace(rosenbrock.PRESETS["smoke"], results=tmp_path)
    rosenbrock.run(arguments, QUIET)
    content = read_strict(tmp_path / "rosenbrock_smoke.json")
    assert set(content["one_start"]) == set(optimizers(1))
    assert {len(rows) for rows in content["one_start"].values()} == {4}
    for rows in content["random_starts"].values():
        assert rows["Adam"]["log10_minus_adam"] == [0, 0, 0]
    assert "| PowerSign-rd20 |" in (tmp_path / "rosenbrock_smoke.md").read_text()
    assert (tmp_path / "rosenbrock_smoke.png").read_bytes().startswith(b"\x89PNG")


# The decays.


def test_smoke_of_the_schedules(tmp_path):
    arguments = dataclasses.replace(
        schedules.PRESETS["smoke"], results=tmp_path, golden=tmp_path / "absent.json"
    )
    schedules.run(arguments, QUIET)
    content = read_strict(tmp_path / "schedules_smoke.json")
    assert len(content["decays"]) == 9 and content["tensorflow"] is None
    assert content["decays"]["restarts"]["final"] == 1
    text = (tmp_path / "schedules_smoke.md").read_text()
    assert "| rd20 |" in text and "not at hand" in text
    assert (tmp_path / "schedules_smoke.png").read_bytes().startswith(b"\x89PNG")


def test_a_decay_that_is_not_its_formula_is_found():
    wrong = schedules.Decay(optax.linear_schedule(1.0, 0.0, 101), schedules.ld, "")
    with pytest.raises(ValueError, match=r"linear is .* off its formula"):
        schedules.check({"linear": wrong}, 100)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_noise_of_another_size_is_found(scale):
    counts = np.arange(1001)
    eps = np.random.default_rng(0).normal(size=1001) / np.sqrt((1 + counts) ** 0.55)
    rest = eps * schedules.cd(counts / 1000)
    found = schedules.describe_noise(rest, counts)
    assert abs(found["noise_mean"]) < 0.15 and found["noise_deviation"] == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="the noise has"):
        schedules.describe_noise(scale * rest, counts)


def test_tensorflows_numbers_are_compared(tmp_path):
    case = {
        "function": "linear_cosine_decay",
        "kwargs": {"decay_steps": 2, "num_periods": 0.5, "alpha": 0.0, "beta": 0.5},
        "learning_rate": 2.0,
        "steps": [0, 1, 2],
        "values_f32": [3.0, 1.5, 1.0],
    }
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"deterministic": [case]}))
    (row,) = schedules.check_tensorflow(golden)
    assert row["values"] == 3 and row["error"] < 1e-6
    golden.write_text(json.dumps({"deterministic": [case | {"values_f32": [3.0, 1.6, 1.0]}]}))
    with pytest.raises(ValueError, match="off TensorFlow's numbers"):
        schedules.check_tensorflow(golden)


def test_rosenbrock_by_hand():
    assert trajectories.rosenbrock(jax.numpy.array([1.0, 1.0])) == 0
    assert trajectories.rosenbrock(jax.numpy.array([-1.0, 2.0])) == 104
