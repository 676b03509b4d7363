"""What do the paper's decays look like? Those of sections 4.1 and 5.2, checked and drawn.

Claim:    section 4.1 gives the search linear (ld), cyclical (cd_n; cd, n = 1/2, is cosine) and
          restart decay (rd_n), and annealed noise. Section 5.2 names two decays of the learning
          rate that the search made of them: linear cosine, ld * cd, and noisy linear cosine,
          (ld + eps) * cd + 0.001, which the paper also calls noisy linear. It says that both allow
          a larger initial rate and converge faster than cosine; decays.py measures that, and this
          file only shows what they are. The announcement of the paper draws linear cosine, stepwise
          and cosine decay in one graph; so does the first picture here. Section 6.2 tried stepwise
          and cosine decay for the common optimizers. PowerSign and AddSign multiply their sign term
          by ld, cd, rd10 or rd20 (section 5.1, table 1).
Method:   all values are from the functions that `nos_optax` and Optax offer, at every step, and
          are compared with the formulas as NumPy has them in double precision; linear cosine also
          with TensorFlow's numbers, where they are beside the project. Of the noisy one the
          formula is compared for its share without noise, and what is left, divided by its own
          standard deviation, must be standard normal. The paper does not say where its stepwise
          decay steps; the one here divides by 5 after 30, 60 and 80 % of the training, as Zagoruyko
          and Komodakis (2016) trained the wide residual network that the paper takes from them. The
          number of restarts in the picture, 4, is our choice, as is the horizon.
Command:  python experiments/schedules.py
          python experiments/schedules.py --scale smoke
Time:     seconds. --scale small and --scale paper are the same.
Writes:   experiments/results/schedules_SCALE.json, .md and .png
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from harness.command_line import main
from harness.study import SHARED, Study
from harness.tables import text_table
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import nos_optax

TOLERANCE = 2e-6  # of the values, which are at most 1 in size: float32 rounds to 6e-8
RESTARTS = 4
TOGETHER = ("linear cosine", "stepwise", "cosine")  # in one graph
STEPS_AT = (0.3, 0.6, 0.8)  # of the horizon: where the stepwise decay steps


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Check and draw the paper's decays."""

    experiment = "schedules"
    at_least = (("steps", 2),)

    steps: int = 1000
    """The horizon T of every decay."""
    golden: Path = SHARED / "golden" / "schedules.json"
    """TensorFlow's numbers; if the file is absent, nothing is compared with them."""


PRESETS = {
    "small": Arguments(scale="small"),  # the paper's scale is small
    "paper": Arguments(),
    "smoke": Arguments(scale="smoke", steps=100),
}


class Decay(NamedTuple):
    """A schedule and its formula."""

    schedule: optax.Schedule
    formula: Callable[[np.ndarray], np.ndarray]  # of t/T in [0, 1], without noise
    latex: str


def rate_decays(T: int) -> dict[str, Decay]:
    """Return the decays of the learning rate."""
    return {
        "linear": Decay(optax.linear_schedule(1.0, 0.0, T), ld, "$1 - t/T$"),
        "cosine": Decay(nos_optax.cyclical_cosine(1.0, T), cd, r"$\frac{1}{2}(1 + \cos\,\pi t/T)$"),
        "stepwise": Decay(
            optax.piecewise_constant_schedule(1.0, {math.ceil(s * T): 0.2 for s in STEPS_AT}),
            stepwise,
            "divided by 5 at " + ", ".join(f"{s:g}" for s in STEPS_AT),
        ),
        "restarts": Decay(
            nos_optax.restart_cosine(1.0, T, num_periods=RESTARTS),
            lambda s: rd(s, RESTARTS),
            rf"$\frac{{1}}{{2}}(1 + \cos\,\pi({RESTARTS}t\,\mathrm{{mod}}\,T)/T)$",
        ),
        "linear cosine": Decay(
            nos_optax.linear_cosine(1.0, T),
            lambda s: ld(s) * cd(s),
            r"$\mathrm{ld}\cdot\mathrm{cd}$",
        ),
        "noisy linear cosine": Decay(
            nos_optax.noisy_linear_cosine(1.0, T),
            lambda s: ld(s) * cd(s) + 0.001,
            r"$(\mathrm{ld} + \varepsilon_t)\,\mathrm{cd} + 0.001$",
        ),
    }


def sign_decays(T: int) -> dict[str, Decay]:
    """Return the decays f(t) that multiply the sign term."""
    return {
        "ld": Decay(optax.linear_schedule(1.0, 0.0, T), ld, "$1 - t/T$"),
        "cd": Decay(nos_optax.cyclical_cosine(1.0, T), cd, r"$\frac{1}{2}(1 + \cos\,\pi t/T)$"),
        **{
            f"rd{n}": Decay(
                nos_optax.restart_cosine(1.0, T, num_periods=n),
                lambda s, n=n: rd(s, n),
                rf"$\frac{{1}}{{2}}(1 + \cos\,\pi({n}t\,\mathrm{{mod}}\,T)/T)$",
            )
            for n in (10, 20)
        },
    }


# The formulas, of s = t/T.


def ld(s: np.ndarray) -> np.ndarray:
    """Return the linear decay."""
    return 1 - s


def cd(s: np.ndarray) -> np.ndarray:
    """Return the cosine decay, half a period."""
    return (1 + np.cos(np.pi * s)) / 2


def stepwise(s: np.ndarray) -> np.ndarray:
    """Return the decay that is divided by 5 at three places."""
    return 0.2 ** np.sum([s >= step for step in STEPS_AT], axis=0)


def rd(s: np.ndarray, n: int) -> np.ndarray:
    """Return the cosine that restarts n times."""
    cycles = n * s
    whole = np.floor(cycles + 1e-9)  # n t/T may round to just below a restart
    return (1 + np.cos(np.pi * (cycles - whole))) / 2


# Checks.


def check(decays: Mapping[str, Decay], steps: int) -> dict[str, dict]:
    """Compare each decay with its formula at every step.

    Raises:
        ValueError: one is farther from its formula than float32 rounds.
    """
    counts = np.arange(steps + 1)
    rows = {}
    for name, decay in decays.items():
        values = np.asarray(decay.schedule(jnp.asarray(counts)), np.float64)
        expected = decay.formula(counts / steps)
        row = {"least": values.min(), "greatest": values.max(), "final": values[-1]}
        if name.startswith("noisy"):
            row |= {"error": None, **describe_noise(values - expected, counts)}
        else:
            row["error"] = np.abs(values - expected).max()
            if not row["error"] <= TOLERANCE:
                raise ValueError(f"{name} is {row['error']:.1e} off its formula")
        rows[name] = row
    return rows


def describe_noise(rest: np.ndarray, counts: np.ndarray) -> dict:
    """Return mean and standard deviation of eps_t, in units of its own standard deviation.

    Raises:
        ValueError: it is not standard normal: off by more than 5 standard errors.
    """
    # Where the cosine is nearly 0 the noise is lost to rounding.
    seen = cd(counts / counts[-1]) > 0.01
    eps = rest[seen] / cd(counts[seen] / counts[-1])
    units = eps * np.sqrt((1 + counts[seen]) ** 0.55)
    mean, deviation, n = units.mean(), units.std(ddof=1), len(units)
    if abs(mean) > 5 / n**0.5 or abs(deviation - 1) > 5 / (2 * n) ** 0.5:
        raise ValueError(
            f"the noise has mean {mean:.2f} and deviation {deviation:.2f}, not 0 and 1"
        )
    return {"noise_mean": mean, "noise_deviation": deviation, "noise_n": n}


def check_tensorflow(golden: Path) -> list[dict] | None:
    """Compare linear cosine with TensorFlow's numbers; None if they are not there.

    Raises:
        ValueError: they differ by more than float32 rounds.
    """
    if not golden.exists():
        return None
    rows = []
    for case in json.loads(golden.read_text())["deterministic"]:
        schedule = nos_optax.linear_cosine(case["learning_rate"], **case["kwargs"])
        values = np.asarray(schedule(jnp.array(case["steps"])), np.float64)
        error = np.abs(values - np.array(case["values_f32"])).max()
        if not error <= TOLERANCE:
            raise ValueError(f"{case['function']} is {error:.1e} off TensorFlow's numbers")
        rows.append({"kwargs": case["kwargs"], "values": len(values), "error": error})
    return rows


# What is shown.


def make_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of all decays."""

    def cells(row: Mapping) -> list[str]:
        error = "random" if row["error"] is None else f"{row['error']:.1e}"
        return [*(f"{row[key]:.4f}" for key in ("least", "greatest", "final")), error]

    columns = ("decay", "least", "greatest", "at T", "greatest error")
    return text_table(columns, [(name, *cells(row)) for name, row in rows.items()])


def notes(rows: Mapping[str, dict], golden: list[dict] | None) -> str:
    """Say what the table does not."""
    noise = rows["noisy linear cosine"]
    text = (
        "Error: to the formula in double precision, at every step. The noise of noisy linear "
        f"cosine, in its own standard deviations: mean {noise['noise_mean']:+.3f}, deviation "
        f"{noise['noise_deviation']:.3f} over {noise['noise_n']} steps. "
    )
    if golden is None:
        return f"{text}TensorFlow's numbers are not beside this project."
    error, count = max(row["error"] for row in golden), sum(row["values"] for row in golden)
    return f"{text}To TensorFlow's linear cosine: {error:.1e} at most, in {count} values."


def draw(arguments: Arguments, path: Path) -> None:
    """Draw the decays of the learning rate above, and those of the sign term below."""
    T = arguments.steps
    figure = Figure(figsize=(13, 6), layout="constrained")
    rows = figure.add_gridspec(2, 1)
    titles = (
        "Decays of the learning rate",
        "Decays f(t) of the sign term, and what ld makes of the gradient",
    )
    top, bottom = (figure.add_subfigure(row) for row in rows)
    for subfigure, title in zip((top, bottom), titles, strict=True):
        subfigure.suptitle(title, weight="bold")
    rate, sign = rate_decays(T), sign_decays(T)
    together, *upper = top.subplots(1, 4, width_ratios=(2, 1, 1, 1))
    lower = bottom.subplots(1, 5)
    draw_together(together, {name: rate[name] for name in TOGETHER}, T)
    together.set_ylabel("rate / initial rate")
    others = [name for name in rate if name not in TOGETHER]
    for i, (axes, name) in enumerate(zip(upper, others, strict=True), len(TOGETHER)):
        draw_decay(axes, name, rate[name], T, f"C{i}")
    for axes, (name, decay) in zip(lower, sign.items(), strict=False):
        draw_decay(axes, name, decay, T, "0.2")
    lower[0].set_ylabel("f(t)")
    draw_multipliers(lower[-1], sign["ld"], T)
    figure.savefig(path, dpi=150)


def draw_together(axes, decays: Mapping[str, Decay], T: int) -> None:
    """Draw several decays in one graph, with their formulas in the legend."""
    counts = np.arange(T + 1)
    for name, decay in decays.items():
        values = decay.schedule(jnp.asarray(counts))
        axes.plot(counts / T, values, label=f"{name}: {decay.latex}")
    axes.set_title("the three of the graph in the paper's announcement", fontsize="medium")
    axes.set(xlabel="t / T", xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(-0.05, 1.05))
    axes.axhline(0, color="0.7", lw=0.6, zorder=0)
    axes.legend(frameon=False, fontsize="small")


def draw_decay(axes, name: str, decay: Decay, T: int, colour: str) -> None:
    """Draw one decay at every step."""
    counts = np.arange(T + 1)
    noisy = name.startswith("noisy")
    values = decay.schedule(jnp.asarray(counts))
    axes.plot(counts / T, values, color=colour, lw=0.6 if noisy else 1.3)
    if noisy:
        axes.plot(counts / T, decay.formula(counts / T), "k", lw=1.3, label="without noise")
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.set_ylim(-0.05, 1.05)
    axes.set_title(f"{name}\n{decay.latex}", fontsize="medium")
    axes.set(xlabel="t / T", xlim=(0, 1), xticks=(0, 0.5, 1))
    axes.axhline(0, color="0.7", lw=0.6, zorder=0)


def draw_multipliers(axes, decay: Decay, T: int) -> None:
    """Draw what the gradient is multiplied by where signs agree and where they do not."""
    counts = np.arange(T + 1)
    f = np.asarray(decay.schedule(jnp.asarray(counts)))
    both = {"PowerSign": (np.exp(f), np.exp(-f)), "AddSign": (1 + f, 1 - f)}
    for colour, (name, (agree, disagree)) in zip(("C0", "C1"), both.items(), strict=True):
        axes.plot(counts / T, agree, color=colour, label=f"{name}, signs agree")
        axes.plot(counts / T, disagree, color=colour, ls="--", label=f"{name}, disagree")
    axes.set_title(
        "factor of the gradient\n$e^{\\pm f(t)}$ and $1 \\pm f(t)$, of ld", fontsize="medium"
    )
    axes.set(xlabel="t / T", xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(-0.1, 4.4))
    axes.legend(frameon=False, fontsize="x-small", loc="upper right")


def run(arguments: Arguments, console: Console) -> None:
    """Check everything, print the table, write it and draw."""
    rows = check(rate_decays(arguments.steps) | sign_decays(arguments.steps), arguments.steps)
    golden = check_tensorflow(arguments.golden)
    title = f"The decays from 0 to T = {arguments.steps}, of an initial value 1"
    content = {"steps": arguments.steps, "decays": rows, "tensorflow": golden}
    tables = {"Values": make_table(rows)}
    arguments.publish(console, title, tables, [notes(rows, golden)], content)
    draw(arguments, arguments.picture)


if __name__ == "__main__":
    main(run, PRESETS)
