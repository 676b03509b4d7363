"""Is a rule found on networks any good elsewhere? PowerSign on Rosenbrock's function.

Claim:    section 6.1 and figure 5, about PowerSign alone: on Rosenbrock's function, after 4,000
          steps, it is ahead of Adam, RMSProp and SGD, and close to Momentum. Each optimizer has the
          best of 4 learning rates on a logarithmic scale; Adam's epsilon is tuned as well, on a
          logarithmic scale from 1e-3 to 1e-8. The figure is a picture, without numbers.
Method:   f(x, y) = (1 - x)^2 + 100 (y - x^2)^2, whose only minimum is f(1, 1) = 0, in float32, with
          exact gradients. The paper's optimizers are TensorFlow's, and so are ours: Momentum adds
          0.9 times its sum to the gradient, a coefficient that the paper does not state; RMSProp's
          average of g^2 starts at 1 and has the decay 0.9, and 1e-10 is added inside the root;
          Adam's epsilon is added before the bias correction. PowerSign has the paper's defaults,
          the base e and no internal decay. Adam with TensorFlow's epsilon of 1e-8, and AddSign, are
          not in the paper's figure; they stand beside it.
          The paper states neither the start nor the rates. Ours, chosen before any run:
          Rosenbrock's own start (-1.2, 1) and the rates 1e-4, 1e-3, 1e-2, 1e-1 for everyone. A
          setting is chosen by f after the last step. A run that still jumps may be lucky in its
          last step, so the median of f over the last 500 steps stands beside it.
          How much hangs on those rates is measured: from the same start, 10 rates a decade from
          1e-5 to 1. They show how narrow each optimizer's good rates are; and each run of four
          rates that are a decade apart is a grid that the paper may have had, so the table counts
          in how many of these grids PowerSign is ahead.
          One start decides nothing, either. So both the paper's comparison and one at equal budgets
          (as many rates for the others as Adam has rates times epsilons: from each of the 4 rates,
          five steps up to the next one) are made again from random starts, uniform in [-2, 2] x
          [-1, 3]. Half of the starts choose the setting by the mean of log10 f, the others measure
          it. Differences are PowerSign's log10 f less the other's, start by start, with t intervals
          of 95 %; f below 1e-12, where float32 rounds, counts as 1e-12, a diverged run as its
          start's f. The intervals do not cover the choice of the setting.
Command:  python experiments/rosenbrock.py
          python experiments/rosenbrock.py --scale smoke           (seconds; says nothing)
Time:     half a minute on 2 cores. --scale small and --scale paper are the same.
Writes:   experiments/results/rosenbrock_SCALE.json, .md and .png
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from figure5.measures import (
    SOLVED,
    Runs,
    Settings,
    Sweep,
    grids_ahead,
    measure,
    summarise,
    sweep,
)
from figure5.pictures import draw
from figure5.tables import (
    epsilon_note,
    one_start_table,
    starts_table,
    sweep_table,
    verdict,
    width,
)
from figure5.trajectories import OPTIMIZERS, SUBJECT, TUNED, descend, rosenbrock
from harness.command_line import main
from harness.study import Study
from rich.console import Console

BOX = ((-2.0, 2.0), (-1.0, 3.0))  # of x and y, where starts are drawn from


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Compare optimizers on Rosenbrock's function."""

    experiment = "rosenbrock"
    at_least = (("starts", 2), ("steps", 1), ("per_decade", 1))
    not_empty = ("rates", "epsilons")

    steps: int = 4000
    """Updates of each run."""
    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Learning rates of every optimizer."""
    epsilons: tuple[float, ...] = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
    """Of Adam where it is tuned; the first is that of the other Adam."""
    decades: tuple[int, int] = (-5, 0)
    """Powers of ten between which many rates are tried."""
    per_decade: int = 10
    """Of those rates."""
    start: tuple[float, float] = (-1.2, 1.0)
    """Start (x, y) of the paper's comparison."""
    starts: int = 32
    """Random starts to choose the settings, and as many others to measure them; at least 2."""
    seed: int = 0
    """Of the random starts."""

    def __post_init__(self):
        super().__post_init__()
        if self.decades[1] - self.decades[0] < 3:
            raise ValueError(
                f"--decades must be at least 3 apart, for a grid of 4 rates; got {self.decades}"
            )


PRESETS = {
    "small": Arguments(scale="small"),  # the paper's scale is small
    "paper": Arguments(),
    "smoke": Arguments(
        scale="smoke",
        steps=40,
        rates=(1e-3, 1e-2),
        epsilons=(1e-8, 1.0),
        starts=3,
        decades=(-4, -1),
        per_decade=2,
    ),
}


def settings(arguments: Arguments, name: str) -> Settings:
    """Return as many settings for each optimizer as there are rates times epsilons."""
    rates, epsilons = np.array(arguments.rates), np.array(arguments.epsilons)
    count, many = len(epsilons), len(rates) * len(epsilons)
    if name == TUNED:
        pairs = np.repeat(rates, count), np.tile(epsilons, len(rates))
        return Settings(*np.asarray(pairs, np.float32), first=np.arange(many))
    dense = np.outer(rates, 10 ** (np.arange(count) / count)).ravel()
    pairs = dense, np.full(many, epsilons[0])
    return Settings(*np.asarray(pairs, np.float32), first=np.arange(0, many, count))


def random_starts(arguments: Arguments) -> np.ndarray:
    """Return the starts [2 n, 2] of which the first half chooses and the second measures."""
    low, high = np.transpose(BOX)
    rng = np.random.default_rng(arguments.seed)
    return rng.uniform(low, high, size=(2 * arguments.starts, 2)).astype(np.float32)


def run_all(arguments: Arguments, console: Console) -> dict[str, Runs]:
    """Run every setting from all starts."""
    starts = np.concatenate([[arguments.start], random_starts(arguments)]).astype(np.float32)
    runs = {}
    for name, make in OPTIMIZERS.items():
        some = settings(arguments, name)
        found = descend(make, arguments.steps, some.rates, some.epsilons, starts)
        runs[name] = summarise(some, *map(np.asarray, found))
        console.print(f"{name}: {runs[name].values.size} runs")
    return runs


def sweep_all(arguments: Arguments) -> dict[str, Sweep]:
    """Run many rates from the given start."""
    low, high = arguments.decades
    rates = np.logspace(low, high, (high - low) * arguments.per_decade + 1)
    start = np.asarray([arguments.start], np.float32)
    sweeps = {}
    for name, make in OPTIMIZERS.items():
        epsilons = arguments.epsilons if name == TUNED else arguments.epsilons[:1]
        pairs = np.repeat(rates, len(epsilons)), np.tile(epsilons, len(rates))
        _, values = descend(make, arguments.steps, *np.asarray(pairs, np.float32), start)
        sweeps[name] = sweep(rates, len(epsilons), np.asarray(values[:, 0, -1]))
    return sweeps


def run(arguments: Arguments, console: Console) -> None:
    """Run everything, print the tables and write the results."""
    begun = time.perf_counter()
    runs, sweeps = run_all(arguments, console), sweep_all(arguments)
    grids = grids_ahead(sweeps, stride=arguments.per_decade)
    at_start = np.asarray(jax.vmap(rosenbrock)(jnp.asarray(random_starts(arguments))))
    comparisons = {
        "paper_budgets": measure(runs, at_start, equal=False),
        "equal_budgets": measure(runs, at_start, equal=True),
    }
    seconds = time.perf_counter() - begun

    n = arguments.starts
    tables = {
        f"From {arguments.start}: f after {arguments.steps} steps, by rate and at the best rate "
        "(of Adam with its epsilon tuned, at each rate's best epsilon)": one_start_table(
            runs, arguments.rates
        ),
        f"From {arguments.start}, {arguments.per_decade} rates a decade from "
        f"1e{arguments.decades[0]} to 1e{arguments.decades[1]}; a grid is four of them, each ten "
        f"times the one before; {SUBJECT} is ahead where its best f is lower": sweep_table(
            sweeps, grids
        ),
        f"From {n} random starts, with the paper's budgets; the setting is chosen by {n} other "
        f"starts; solved: f < {SOLVED:g} after the last step": starts_table(
            comparisons["paper_budgets"]
        ),
        "The same, with equal budgets": starts_table(comparisons["equal_budgets"]),
    }
    notes = [verdict(runs), epsilon_note(runs), width(sweeps[SUBJECT], arguments.per_decade)]
    content = {
        "seconds": seconds,
        "one_start": {
            name: [some.describe(k) for k in range(len(some.settings.rates))]
            for name, some in runs.items()
        },
        "many_rates": {name: one.describe() for name, one in sweeps.items()},
        "grids": grids,
        "random_starts": comparisons,
    }
    arguments.publish(console, "Rosenbrock's function", tables, notes, content)
    draw(arguments.start, arguments.rates, runs, sweeps, arguments.picture)


if __name__ == "__main__":
    main(run, PRESETS)
