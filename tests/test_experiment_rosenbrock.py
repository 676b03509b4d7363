"""The experiments on Rosenbrock's function and on the decays: by hand, and in double precision."""

import dataclasses
import json

import figure5.trajectories as trajectories
import jax
import numpy as np
import optax
import pytest
import rosenbrock
import schedules
from figure5.measures import (
    Sweep,
    best_by_rate,
    best_of_first,
    grids_ahead,
    log_values,
    measure,
    summarise,
    sweep,
)
from figure5.tables import sweep_table, verdict, width
from figure5.trajectories import NOT_THE_PAPERS, OPTIMIZERS, SUBJECT, TUNED
from rich.console import Console

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


def numpy_rules(rate, epsilon):
    """Return each optimizer's update, in the paper's symbols; TensorFlow's own where it has one."""

    def momentum(g, memory, t):
        memory["sum"] = 0.9 * memory.get("sum", 0.0) + g
        return rate * memory["sum"]

    def rmsprop(g, memory, t):
        memory["square"] = 0.9 * memory.get("square", 1.0) + 0.1 * g**2
        return rate * g / np.sqrt(memory["square"] + 1e-10)

    def adam(g, memory, t):
        m, v = average(memory, "m", 0.9, g), average(memory, "v", 0.999, g**2)
        corrected = rate * np.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        return corrected * m / (np.sqrt(v) + epsilon)

    def agreement(g, memory):
        return np.sign(g) * np.sign(average(memory, "m", 0.9, g))

    return {
        "SGD": lambda g, memory, t: rate * g,
        "Momentum": momentum,
        "RMSProp": rmsprop,
        "Adam": adam,
        TUNED: adam,
        SUBJECT: lambda g, memory, t: rate * np.exp(agreement(g, memory)) * g,
        NOT_THE_PAPERS: lambda g, memory, t: rate * (1 + agreement(g, memory)) * g,
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trajectories_are_those_of_double_precision(name):
    steps, rate, epsilon = 100, 4e-4, 0.5  # so large that its place matters
    one = np.float32([rate]), np.float32([epsilon]), np.float32([START])
    found = trajectories.descend(OPTIMIZERS[name], steps, *one)
    points, values = (np.asarray(a)[0, 0] for a in found)
    expected = descend(numpy_rules(rate, epsilon)[name], steps)
    assert points.dtype == np.float32 and points.shape == (steps + 1, 2)
    np.testing.assert_allclose(points, expected, rtol=0, atol=2e-5)
    x, y = expected.T
    np.testing.assert_allclose(values, (1 - x) ** 2 + 100 * (y - x**2) ** 2, rtol=3e-3)
    assert abs(points[-1] - START).max() > 0.01  # something was compared


def test_rmsprop_starts_as_sgd_and_has_its_epsilon_in_the_root():
    """Small gradients show what large ones hide."""
    tx, g = trajectories.tensorflow_rmsprop(2.0), np.float32(1e-6)
    state = tx.init(g)
    for step in range(500):
        update, state = tx.update(g, state)
        if step == 0:  # the average of g^2 was 1
            assert update == pytest.approx(-2 * 1e-6 / 0.9**0.5, rel=1e-4)
    # By now it is g^2 = 1e-12, to which 1e-10 is added.
    assert update == pytest.approx(-2 * 1e-6 / (1.01e-10) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(("name", "rate"), [("Adam", 0.1), ("PowerSign", 1e-3), ("SGD", 1e-3)])
def test_what_is_reported_is_no_matter_of_precision(name, rate):
    """Adam's last f is rounding; that it is far below PowerSign's is not."""
    steps, epsilon = 4000, 1e-8
    one = np.float32([rate]), np.float32([epsilon]), np.float32([START])
    values = np.asarray(trajectories.descend(OPTIMIZERS[name], steps, *one)[1])[0, 0]
    x, y = descend(numpy_rules(rate, epsilon)[name], steps).T
    expected = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    if name == "Adam":
        assert values.min() < 1e-11 and expected.min() < 1e-11
    else:
        assert values[-1] == pytest.approx(expected[-1], rel=0.03)


def test_settings_and_starts_do_not_influence_each_other():
    make = OPTIMIZERS["PowerSign"]
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
        rosenbrock.settings(SMALL, TUNED),
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
    ours = make_runs([[[9, 1, 1e-7]]] * 4)
    best = make_runs([[[9, 1, 0.0]]] * 4)
    text = verdict({"PowerSign": ours, "SGD": some, NOT_THE_PAPERS: best, "Adam": best})
    assert "Better: none. Worse: SGD (1.0e-06)." in text, "only those of the paper's figure"


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
    # The given start, two that choose and two that measure. The rate 1e-3 is chosen by the former:
    # it has a mean log10 f of -2, and the other rate one of -1, though its median is far lower.
    good, bad, lucky = [9, 9, 1e-2], [9, 9, 1.0], [9, 9, 1e-8]
    diverged = [9, 9, float("inf")]
    ours = make_runs([[bad, good, good, bad, bad], *[[lucky, lucky, diverged, lucky, lucky]] * 3])
    sgd = make_runs([[bad, good, good, good, diverged], *[[lucky, bad, bad, lucky, lucky]] * 3])
    at_start = np.array([1.0, 1e6, 1.0, 100.0])
    rows = measure({"PowerSign": ours, "SGD": sgd}, at_start, equal=False)
    assert rows["PowerSign"]["rate"] == rows["SGD"]["rate"] == 1e-3
    assert rows["SGD"]["values"].tolist() == pytest.approx([1e-2, np.inf])
    assert (rows["SGD"]["settings"], rows["SGD"]["n"], rows["SGD"]["diverged"]) == (2, 2, 1)
    # log10 f: 0 and 0 less -2 and that of the start, 2.
    assert rows["SGD"]["powersign_less_this"][0] == pytest.approx(0, abs=1e-6)
    assert rows["SGD"]["powersign_less_this"][2] == pytest.approx(12.7062 * 2, rel=1e-4)
    assert measure({"PowerSign": ours}, at_start, equal=True)["PowerSign"]["settings"] == 4


def test_a_sweep_has_each_rate_s_best_epsilon():
    rates = np.array([1e-3, 1e-2, 1e-1])
    some = sweep(rates, 2, np.array([5.0, 1e-4, 1e-5, np.nan, np.nan, np.inf]))
    assert some.values.tolist() == [1e-4, 1e-5, np.inf]
    row = some.describe()
    assert (row["best_rate"], row["f"], row["solved"]) == (1e-2, 1e-5, 2)
    assert row["solved_from_to"] == [1e-3, 1e-2]
    assert row["largest_rate_that_did_not_diverge"] == 1e-2
    assert "at 2 of them, from 0.001 to 0.01" in width(some, 1)
    nothing = Sweep(rates, np.full(3, np.inf)).describe()
    assert nothing["solved_from_to"] == []
    assert nothing["largest_rate_that_did_not_diverge"] is None


def test_grids_are_four_rates_a_decade_apart():
    rates = np.logspace(-4, 0, 9)  # two a decade: the grids begin at 1e-4, at 3e-4 and at 1e-3
    ours, other = np.full(9, 1.0), np.full(9, 2.0)
    other[2] = 0.5  # of the first and of the third
    sweeps = {"PowerSign": Sweep(rates, ours), "SGD": Sweep(rates, other)}
    assert grids_ahead(sweeps, stride=2) == {"SGD": {"grids": 3, "ahead": 1}}
    cells = list(sweep_table(sweeps, grids_ahead(sweeps, stride=2)).columns[-1].cells)
    assert cells == ["", "1 of 3 grids"]


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
        (rosenbrock.Arguments, {"rates": ()}, "--rates is empty"),
        (rosenbrock.Arguments, {"decades": (-4, -2)}, r"at least 3 apart.*got \(-4, -2\)"),
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
    assert set(content["one_start"]) == set(content["many_rates"]) == set(OPTIMIZERS)
    assert {len(rows) for rows in content["one_start"].values()} == {4}
    assert {len(one["rates"]) for one in content["many_rates"].values()} == {7}
    assert {row["grids"] for row in content["grids"].values()} == {1}
    for rows in content["random_starts"].values():
        assert rows["PowerSign"]["powersign_less_this"] == [0, 0, 0, 1]
    text = (tmp_path / "rosenbrock_smoke.md").read_text()
    assert "| PowerSign |" in text and "ahead of Adam, RMSProp and SGD, close to Momentum" in text
    assert (tmp_path / "rosenbrock_smoke.png").read_bytes().startswith(b"\x89PNG")


# The decays.


def test_smoke_of_the_schedules(tmp_path):
    arguments = dataclasses.replace(
        schedules.PRESETS["smoke"], results=tmp_path, golden=tmp_path / "absent.json"
    )
    schedules.run(arguments, QUIET)
    content = read_strict(tmp_path / "schedules_smoke.json")
    assert len(content["decays"]) == 10 and content["tensorflow"] is None
    assert content["decays"]["restarts"]["final"] == 1
    text = (tmp_path / "schedules_smoke.md").read_text()
    assert "| rd20 |" in text and "not beside this project" in text
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
