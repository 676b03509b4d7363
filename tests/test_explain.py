"""Looking at one rule: facts, trajectories, the sweep, and the command."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import nos_optax
from nos_optax.explain import FUNCTIONS, Sweep, best_trajectory, describe, sweep
from nos_optax.explain import __main__ as command
from nos_optax.explain.pictures import draw_sweeps
from nos_optax.population import Task


def facts(text):
    return describe(nos_optax.parse(text))


@pytest.mark.parametrize(
    ("text", "factor", "name"),
    [
        ("g * exp(sign(m) * sign(g))", 1, "powersign"),
        ("0.5 * g * exp(sign(m) * sign(g))", 0.5, "powersign"),
        ("-adam", -1, "adam"),
        ("-3 * m", -3, "momentum"),
        ("g / sqrt(v)", 1, "rmsprop"),
        ("g / 2", 1 / 2, "sgd"),
        ("adam / 3", 1 / 3, "adam"),
        ("2 * m / sqrt(v) / -4", -1 / 2, "adam"),
        ("exp(sign(g) * sign(m)) * (g / 2)", 1 / 2, "powersign"),
    ],
)
def test_the_papers_rules_are_recognised(text, factor, name):
    found = facts(text)
    assert found.same == (name,) and found.factor == pytest.approx(factor)


def test_a_reciprocal_is_no_factor():
    assert facts("2 / g").same == () and facts("g / -1e-8").same == ()


def test_a_factor_is_said_in_words():
    console = Console(file=io.StringIO(), width=100)
    console.print(command.facts_table(facts("g / 2")))
    assert "0.5 times sgd" in console.file.getvalue()


def test_a_rule_with_equal_updates_is_found_where_algebra_does_not_reach():
    found = facts("g * exp(sign(g * m))")
    assert "powersign" in (*found.same, *found.alike)


def test_facts_of_rules_that_need_things():
    found = facts("drop(g, 0.3) + ld * w * 1e-2")
    assert found.moments == ()
    assert found.needs == ("the weights", "the total number of steps", "random numbers")
    assert facts("adam").moments == ("m", "v")
    assert facts("-g").rejection == "points uphill" and facts("g").rejection is None
    long = facts("0.3 * g")
    assert long.tokens is None and "0.3 is not in the vocabulary" in long.not_encodable


def test_cost_counts_what_the_update_does():
    sgd, adam = facts("g"), facts("adam")
    assert 2 <= sgd.operations < adam.operations  # a product and a difference at least
    assert sgd.bytes >= 12  # g and w are read, w is written
    assert adam.bytes >= sgd.bytes + 16  # m and v are read and written


def test_trajectories_are_those_of_the_transformation():
    function = FUNCTIONS[1]
    way = best_trajectory(nos_optax.parse("g"), function, rates=(1e-3, 1e-2), steps=50)
    assert way.rate == 1e-2
    point = np.array(function.start)
    for step in range(51):
        np.testing.assert_allclose(way.points[step], point, rtol=1e-4, atol=1e-6)
        point = point - 1e-2 * np.array([1, 100]) * point


def test_a_rule_that_diverges_everywhere_has_no_rate():
    way = best_trajectory(nos_optax.parse("-g * 1e30"), FUNCTIONS[0], steps=50)
    assert way.rate is None and way.final == np.inf


def line():
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    return Task(
        "line",
        init=lambda key: (jnp.zeros(2), ()),
        loss=lambda p, state, b, key: (jnp.mean((p[0] * b[0] + p[1] - b[1]) ** 2), state),
        metric=lambda p, state, b: -jnp.abs(p[0] * b[0] + p[1] - b[1]),
        train=(x, 2 * x + 1),
        validation=(x, 2 * x + 1),
        chance=-2.0,
        shuffle=False,
    )


def test_the_sweep_trains_as_a_plain_loop_does():
    task = line()
    found = sweep(nos_optax.parse("m"), task, rates=(0.1, 1e9), seeds=2, epochs=2, batch_size=16)
    assert found.scores.shape == (2, 2) and found.best == 0
    tx, params = nos_optax.from_rule("m", 0.1), jnp.zeros(2)
    state = tx.init(params)
    for step in range(8):
        rows = slice(step % 4 * 16, step % 4 * 16 + 16)
        x, y = (a[rows] for a in task.train)
        grads = 2 * jnp.array([jnp.mean((params[0] * x + params[1] - y) * f) for f in (x, 1.0)])
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    x, y = task.validation
    expected = -np.mean(np.abs(params[0] * x + params[1] - y))
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-4)
    np.testing.assert_array_equal(found.scores[1], task.chance)


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("epochs", 0), ("batch_size", 65)])
def test_wrong_numbers_of_the_sweep(name, value):
    with pytest.raises(ValueError, match=str(value)):
        sweep(nos_optax.parse("g"), line(), **{name: value})


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_printed_sweep_has_the_spread_over_the_seeds(seeds):
    scores = np.array([[0.2, 0.4, 0.9], [0.7, 0.8, 0.9]])[:, :seeds]
    console = Console(file=io.StringIO(), width=100)
    console.print(command.sweeps_table({"this rule": Sweep((0.1, 1.0), scores)}, "title"))
    said = console.file.getvalue()
    assert f"{scores[1].mean():.3f}" in said
    if seeds == 1:
        assert "±" not in said and "nan" not in said
    else:
        assert said.count("±") == 2 and "±0.361" in said and "±0.100" in said


def test_pictures_of_the_sweep(tmp_path):
    task = line()
    found = sweep(nos_optax.parse("g"), task, rates=(0.01, 0.1), seeds=1, epochs=1, batch_size=16)
    assert draw_sweeps({"this rule": found}, task, tmp_path) == ["sweep.png", "sweep.svg"]
    assert (tmp_path / "sweep.svg").read_text().startswith("<?xml")


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rule", *map(str, arguments)])
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    command.main()


@pytest.mark.slow
def test_the_command(monkeypatch, tmp_path, capsys):
    flags = ["--train-examples", 200, "--epochs", 1, "--seeds", 1, "--minibatch-size", 20]
    call(monkeypatch, "powersign", *flags, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "exp(sign(g) * sign(m)) * g" in said and "Rosenbrock" in said and "digits" in said
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "rule.py",
        *(f"{n}.{e}" for n in ("sweep", "trajectories") for e in ("png", "svg")),
    }
    assert said.count("PowerSign") == 0, "it equals the rule, so it is no rival"


@pytest.mark.slow
def test_the_command_prints_source_that_runs(monkeypatch, capsys):
    call(monkeypatch, "m * ld", "--seeds", 0)
    source = capsys.readouterr().out.split("transformation:")[1]
    module = {}
    exec(source[source.index("\n") :], module)
    tx = module["scale_by_found_rule"](total_steps=10)
    updates, _ = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    np.testing.assert_allclose(updates, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["g * q"], "unknown operand 'q'"),
        (["g", "--seeds", -1], "--seeds must be at least 0"),
        (["g", "--lanes", 2], "--lanes"),  # of a search
    ],
)
def test_mistakes_are_one_message(monkeypatch, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, *arguments)
    assert message in str(error.value.code) + capsys.readouterr().err


def test_notebooks_show_a_rule_as_mathematics():
    assert nos_optax.parse("m * exp(g)")._repr_latex_() == r"$\hat{m} \, e^{g}$"
