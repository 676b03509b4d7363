"""Is a rule found on networks any good elsewhere? Optimizers on Rosenbrock's function.

Claim:    the paper asks whether what was found on small networks holds on a function that is no
          network: on Rosenbrock's function, after 4,000 steps with 4 learning rates each and with
          Adam's epsilon tuned, its optimizers do better than the usual ones (figure 5; pictures,
          without numbers).
Method:   f(x, y) = (1 - x)^2 + 100 (y - x^2)^2, whose only minimum is f(1, 1) = 0, in float32, with
          exact gradients. The paper's steps, number of rates and tuned epsilon. Our choices, for
          want of its text, made before any run: Rosenbrock's own start (-1.2, 1); the rates 1e-4,
          1e-3, 1e-2, 1e-1 for everyone; the epsilons 1e-8, 1e-6, 1e-4, 1e-2, 1; a setting is chosen
          by f after the last step. A run that still jumps may be lucky in its last step, so the
          median of f over the last 500 steps stands beside it.
          In the paper's comparison, epsilon is a parameter that the others do not have: with it
          Adam has 20 settings, the others 4. So there is a second comparison at equal budgets,
          where the others have 20 rates (from each of the 4, five steps up to the next one).
          One start decides nothing: both comparisons are made again from random starts, uniform in
          [-2, 2] x [-1, 3]. Half of the starts choose the setting (by the median of f), the others
          measure it. Differences to Adam are of log10 f, start by start, with t intervals of 95 %;
          f below 1e-12, where float32 rounds, counts as 1e-12, a diverged run as its start's f.
          By its median, a setting may be chosen with which nearly half of the runs diverge, and
          PowerSign's was; so a last table, added after the first run, has the settings chosen by
          the mean of log10 f.
          Optax's Adam and TensorFlow's differ in what epsilon is added to; both are there.
Command:  python experiments/rosenbrock.py
          python experiments/rosenbrock.py --scale smoke           (seconds; says nothing)
Time:     half a minute on 2 cores. --scale small and --scale paper are the same.
Writes:   experiments/results/rosenbrock_SCALE.json, .md and .png
"""

import dataclasses
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from harness.command_line import main
from harness.records import write_results
from harness.tables import markdown
from rich.console import Console
from rosenbrock_measures import SOLVED, Runs, Settings, log_values, measure, summarise
from rosenbrock_pictures import draw
from rosenbrock_tables import one_start_table, starts_table, verdict
from rosenbrock_trajectories import TUNED, descend, optimizers, rosenbrock

BOX = ((-2.0, 2.0), (-1.0, 3.0))  # of x and y, where starts are drawn from


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare optimizers on Rosenbrock's function."""

    scale: Literal["paper", "small", "smoke"] = "paper"
    """Sets all other numbers, unless they are given too."""
    steps: int = 4000
    """Updates of each run."""
    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Learning rates of every optimizer."""
    epsilons: tuple[float, ...] = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
    """Of Adam where it is tuned; the first is that of the others."""
    start: tuple[float, float] = (-1.2, 1.0)
    """Start (x, y) of the paper's comparison."""
    starts: int = 32
    """Random starts to choose the settings, and as many others to measure them; at least 2."""
    seed: int = 0
    """Of the random starts."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the tables and the picture."""

    def __post_init__(self):
        if self.starts < 2:
            raise ValueError(f"--starts must be at least 2, got {self.starts}")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")
        if not self.rates or not self.epsilons:
            raise ValueError("--rates and --epsilons must have at least one number each")

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"rosenbrock_{self.scale}"


PRESETS = {
    "small": Arguments(scale="small"),  # the paper's scale is small
    "paper": Arguments(),
    "smoke": Arguments(scale="smoke", steps=40, rates=(1e-3, 1e-2), epsilons=(1e-8, 1.0), starts=3),
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
    """Run everything."""
    starts = np.float32(np.concatenate([[arguments.start], random_starts(arguments)]))
    runs = {}
    for name, make in optimizers(arguments.steps).items():
        some = settings(arguments, name)
        found = descend(make, arguments.steps, some.rates, some.epsilons, starts)
        runs[name] = summarise(some, *map(np.asarray, found))
        console.print(f"{name}: {runs[name].values.size} runs")
    return runs


def run(arguments: Arguments, console: Console) -> None:
    """Run everything, print the tables and write the results."""
    start = time.perf_counter()
    runs = run_all(arguments, console)
    at_start = np.asarray(jax.vmap(rosenbrock)(jnp.asarray(random_starts(arguments))))

    def mean_log(values: np.ndarray) -> np.ndarray:
        return log_values(values, at_start[: arguments.starts]).mean(axis=1)

    comparisons = {
        "paper_budgets": measure(runs, at_start, equal=False),
        "equal_budgets": measure(runs, at_start, equal=True),
        "equal_budgets_by_mean_log": measure(runs, at_start, equal=True, score=mean_log),
    }
    seconds = time.perf_counter() - start

    n = arguments.starts
    tables = {
        f"From {arguments.start}: f after {arguments.steps} steps, by rate and at the best rate "
        "(of Adam with its epsilon tuned, at each rate's best epsilon)": one_start_table(
            runs, arguments.rates
        ),
        f"From {n} random starts, with the paper's budgets; the setting is chosen by {n} other "
        f"starts; solved: f < {SOLVED:g} after the last step": starts_table(
            comparisons["paper_budgets"]
        ),
        "The same, with equal budgets": starts_table(comparisons["equal_budgets"]),
        "The same, with equal budgets, the setting chosen by the mean of log10 f": starts_table(
            comparisons["equal_budgets_by_mean_log"]
        ),
    }
    for title, table in tables.items():
        console.print(title, table)
    console.print(f"{verdict(runs)}\n{seconds:.0f} s")
    content = {
        "arguments": {k: v for k, v in dataclasses.asdict(arguments).items() if k != "results"},
        "seconds": seconds,
        "one_start": {
            name: [some.describe(k) for k in range(len(some.settings.rates))]
            for name, some in runs.items()
        },
        "random_starts": comparisons,
    }
    sections = [f"{title}\n\n{markdown(table)}" for title, table in tables.items()]
    text = "\n".join([*sections, f"{verdict(runs)}\n"])
    write_results(arguments.results, arguments.name, content, text)
    draw(arguments.start, arguments.rates, runs, arguments.results / f"{arguments.name}.png")


if __name__ == "__main__":
    main(run, PRESETS)
