"""Is a rule found on networks any good elsewhere? Optimizers on Rosenbrock's function.

Claim:    the paper asks whether what was found on small networks holds on a function that is no
          network: on Rosenbrock's function, after 4,000 steps with 4 learning rates each and with
          Adam's epsilon tuned, its optimizers do better than the usual ones (figure 5; pictures,
          without numbers).
Method:   f(x, y) = (1 - x)^2 + 100 (y - x^2)^2, whose only minimum is f(1, 1) = 0, in float32, with
          exact gradients. The paper's steps, number of rates and tuned epsilon. Our choices, for
          want of its text, made before any run: Rosenbrock's own start (-1.2, 1); the rates 1e-4,
          1e-3, 1e-2, 1e-1 for everyone; the epsilons 1e-8, 1e-6, 1e-4, 1e-2, 1; a setting is chosen
          by f after the last step.
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
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness.command_line import main
from harness.records import write_results
from harness.statistics import difference
from harness.tables import markdown
from rich import box
from rich.console import Console
from rich.table import Table

import nos_optax

Make = Callable[[jax.Array, jax.Array], optax.GradientTransformation]  # of rate and epsilon

BASELINE = "Adam"
TUNED = "Adam, epsilon tuned"
SOLVED = 1e-3  # of f
FLOOR = 1e-12  # of f: near (1, 1), 100 (y - x^2)^2 of neighbouring float32 numbers
BOX = ((-2.0, 2.0), (-1.0, 3.0))  # of x and y, where starts are drawn from


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare optimizers on Rosenbrock's function."""

    scale: Literal["paper", "small", "smoke"] = "small"
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
    "paper": Arguments(scale="paper"),
    "small": Arguments(),
    "smoke": Arguments(scale="smoke", steps=40, rates=(1e-3, 1e-2), epsilons=(1e-8, 1.0), starts=3),
}


def rosenbrock(point: jax.Array) -> jax.Array:
    """Return f of a point (x, y)."""
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def optimizers(steps: int) -> dict[str, Make]:
    """Return the rivals by name: first the usual ones, then the paper's with every sign decay."""
    decays: dict[str, optax.ScalarOrSchedule] = {
        "": 1.0,
        "-ld": optax.linear_schedule(1.0, 0.0, steps),
        "-cd": nos_optax.cyclical_cosine(1.0, steps),
        "-rd10": nos_optax.restart_cosine(1.0, steps, num_periods=10),
        "-rd20": nos_optax.restart_cosine(1.0, steps, num_periods=20),
    }
    usual: dict[str, Make] = {
        "SGD": lambda rate, _: optax.sgd(rate),
        "Momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),
        "RMSProp": lambda rate, _: optax.rmsprop(rate),
        BASELINE: lambda rate, epsilon: optax.adam(rate, eps=epsilon),
        TUNED: lambda rate, epsilon: optax.adam(rate, eps=epsilon),
        "Adam, as in TensorFlow": tensorflow_adam,
    }
    # The decay is bound as a default: a closure would see the last one.
    powersign: dict[str, Make] = {
        f"PowerSign{name}": lambda rate, _, f=f: nos_optax.powersign(rate, sign_decay=f)
        for name, f in decays.items()
    }
    addsign: dict[str, Make] = {
        f"AddSign{name}": lambda rate, _, f=f: nos_optax.addsign(rate, sign_decay=f)
        for name, f in decays.items()
    }
    return usual | powersign | addsign


def tensorflow_adam(rate: jax.Array, epsilon: jax.Array) -> optax.GradientTransformation:
    """Return Adam whose epsilon is added before the bias correction, so divided by it too."""
    return optax.chain(
        optax.inject_hyperparams(optax.scale_by_adam)(
            eps=lambda count: epsilon / jnp.sqrt(1 - 0.999 ** (count + 1))
        ),
        optax.scale_by_learning_rate(rate),
    )


@functools.partial(jax.jit, static_argnames=("make", "steps"))
def descend(
    make: Make, steps: int, rates: jax.Array, epsilons: jax.Array, starts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Run every setting from every start.

    Args:
        make: The optimizer.
        steps: Updates T.
        rates: The settings' learning rates, ``[K]``.
        epsilons: Their epsilons, ``[K]``.
        starts: The points to start from, ``[S, 2]``.

    Returns:
        The points ``[K, S, T + 1, 2]``, the start included, and f there, ``[K, S, T + 1]``.
    """

    def one(rate, epsilon, start):
        tx = make(rate, epsilon)

        def step(carry, _):
            point, state = carry
            updates, state = tx.update(jax.grad(rosenbrock)(point), state, point)
            return (optax.apply_updates(point, updates), state), point

        (last, _), points = jax.lax.scan(step, (start, tx.init(start)), length=steps)
        points = jnp.concatenate([points, last[None]])
        return points, jax.vmap(rosenbrock)(points)

    from_all = jax.vmap(one, (None, None, 0))
    return jax.vmap(from_all, (0, 0, None))(rates, epsilons, starts)


class Settings(NamedTuple):
    """What one optimizer may choose from."""

    rates: np.ndarray  # [K], float32
    epsilons: np.ndarray  # [K], float32
    first: np.ndarray  # [k] int, which of them are the paper's


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


# What is measured.


class Runs(NamedTuple):
    """All runs of one optimizer: K settings, the given start and then the random ones."""

    settings: Settings
    paths: np.ndarray  # [K, T + 1, 2], from the given start
    curves: np.ndarray  # [K, T + 1], f from the given start
    values: np.ndarray  # [K, S], f after the last step; infinite where it diverged
    best: np.ndarray  # [K, S], the least f on the way
    reached: np.ndarray  # [K, S], the first step with f < SOLVED; infinite if none

    def describe(self, k: int, s: int = 0) -> dict:
        """Return one run."""
        numbers = {"f": self.values, "best_f": self.best, "steps_to_solve": self.reached}
        return {
            "rate": float(f"{self.settings.rates[k]:.3g}"),
            "epsilon": float(f"{self.settings.epsilons[k]:.3g}"),
            **{key: float(array[k, s]) for key, array in numbers.items()},
            "diverged": bool(np.isinf(self.values[k, s])),
        }


def summarise(settings: Settings, points: np.ndarray, values: np.ndarray) -> Runs:
    """Return of every run what is reported, and the whole of those from the given start."""
    values = np.where(np.isfinite(values), values, np.inf)  # [K, S, T + 1]
    solved = values < SOLVED
    reached = np.where(solved.any(-1), solved.argmax(-1), np.inf)
    return Runs(settings, points[:, 0], values[:, 0], values[..., -1], values.min(-1), reached)


Score = Callable[[np.ndarray], np.ndarray]  # of f [K, S], one number a setting; less is better


def median(values: np.ndarray) -> np.ndarray:
    """Return the median of f over the starts."""
    return np.median(values, axis=1)


def choose(runs: Runs, among: np.ndarray, starts: slice, score: Score = median) -> int:
    """Return the setting with the least score over some starts; of equals, the quickest."""
    quick = median(runs.reached[among, starts])
    return int(among[np.lexsort((quick, score(runs.values[among, starts])))[0]])


def log_values(values: np.ndarray, at_start: np.ndarray) -> np.ndarray:
    """Return log10 f within float32's rounding, that of the start for a run that diverged."""
    return np.log10(np.maximum(np.where(np.isfinite(values), values, at_start), FLOOR))


def measure(
    runs: Mapping[str, Runs], at_start: np.ndarray, equal: bool, score: Score = median
) -> dict[str, dict]:
    """Return each optimizer at the setting that the first half of the starts chose.

    Args:
        runs: All runs by optimizer.
        at_start: f of the random starts, ``[2 n]``.
        equal: Whether all have the same number of settings, or the paper's.
        score: What the settings are chosen by.
    """
    half = len(at_start) // 2
    rows, logs = {}, {}
    for name, some in runs.items():
        among = np.arange(len(some.settings.rates)) if equal else some.settings.first
        k = choose(some, among, slice(1, 1 + half), score)
        values, reached = some.values[k, 1 + half :], some.reached[k, 1 + half :]
        logs[name] = log_values(values, at_start[half:])
        rows[name] = {
            "settings": len(among),
            "n": half,
            "rate": some.describe(k)["rate"],
            "epsilon": some.describe(k)["epsilon"],
            "quartiles": np.quantile(values, (0.25, 0.5, 0.75), method="lower"),
            "solved": int((values < SOLVED).sum()),
            "median_steps_to_solve": float(np.median(reached)),
            "diverged": int(np.isinf(values).sum()),
            "values": values,
        }
    for name, row in rows.items():
        row["log10_minus_adam"] = difference(logs[name].tolist(), logs[BASELINE].tolist())
    return rows


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


# What is shown.


def value(f: float) -> str:
    """Return f for a table."""
    return f"{f:.1e}" if np.isfinite(f) else "diverged"


def count(steps: float) -> str:
    """Return a number of steps for a table."""
    return f"{steps:.0f}" if np.isfinite(steps) else "never"


def one_start_table(runs: Mapping[str, Runs], arguments: Arguments) -> Table:
    """Return the paper's comparison: f by rate, and the best of them."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for rate in arguments.rates:
        table.add_column(f"rate {rate:g}", justify="right")
    for column in ("settings", "best rate", "epsilon", "f", "least f", f"steps to f < {SOLVED:g}"):
        table.add_column(column, justify="right")
    for name, some in runs.items():
        best = some.describe(best_of_first(some))
        table.add_row(
            name,
            *(value(some.describe(k)["f"]) for k in best_by_rate(some, arguments.rates)),
            str(len(some.settings.first)),
            f"{best['rate']:g}",
            epsilon_of(name, best),
            value(best["f"]),
            value(best["best_f"]),
            count(best["steps_to_solve"]),
        )
    return table


def best_of_first(runs: Runs) -> int:
    """Return the best setting of the paper's comparison."""
    return choose(runs, runs.settings.first, slice(0, 1))


def best_by_rate(runs: Runs, rates: Sequence[float]) -> list[int]:
    """Return the best setting of the paper's comparison at each rate."""
    first = runs.settings.first
    has = [first[runs.settings.rates[first] == np.float32(rate)] for rate in rates]
    return [choose(runs, among, slice(0, 1)) for among in has]


def epsilon_of(name: str, row: Mapping) -> str:
    """Return Adam's epsilon for a table."""
    return f"{row['epsilon']:g}" if name.startswith("Adam") else ""


def starts_table(rows: Mapping[str, dict]) -> Table:
    """Return the table of one comparison from random starts."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    columns = ("settings", "rate", "epsilon", "median f", "quartiles of f", "solved", "steps to it")
    for column in (*columns, "diverged", "log10 f - Adam's [95 %]"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        low, median, high = map(value, row["quartiles"])
        interval = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["log10_minus_adam"])
        table.add_row(
            name,
            str(row["settings"]),
            f"{row['rate']:.2g}",
            epsilon_of(name, row),
            median,
            f"{low} to {high}",
            f"{row['solved']} of {row['n']}",
            count(row["median_steps_to_solve"]),
            str(row["diverged"]),
            "" if name == BASELINE else interval,
        )
    return table


def verdict(runs: Mapping[str, Runs], name: str = "PowerSign") -> str:
    """Say in the paper's comparison who is better than one optimizer, and who is not."""
    best = {other: some.describe(best_of_first(some))["f"] for other, some in runs.items()}
    ranked = sorted(best, key=lambda other: best[other])
    better = [f"{other} ({value(best[other])})" for other in ranked if best[other] < best[name]]
    worse = [f"{other} ({value(best[other])})" for other in ranked if best[other] > best[name]]
    return (
        f"From the single start, {name} ends at f = {value(best[name])} with its best rate. "
        f"Better: {', '.join(better) or 'none'}. Worse: {', '.join(worse) or 'none'}."
    )


COLOURS = ("#56B4E9", "#009E73", "#D55E00", "#000000")  # told apart by the colour-blind too
STYLES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
DRAWN = ((-2.2, 2.2), (-1.2, 3.4))  # of x and y


def draw(arguments: Arguments, runs: Mapping[str, Runs], path: Path) -> None:
    """Draw every optimizer's paths, one line a rate, and f at its best rate."""
    from matplotlib.figure import Figure

    families = {
        "the usual ones": [n for n in runs if "Sign" not in n and "TensorFlow" not in n],
        "PowerSign": [n for n in runs if n.startswith("PowerSign")],
        "AddSign": [n for n in runs if n.startswith("AddSign")],
    }
    figure = Figure(figsize=(11.5, 11.5), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=(2.5, 1))
    top, bottom = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    grid = top.subplots(3, 5, sharex=True, sharey=True)
    for axes_row, names in zip(grid, families.values(), strict=True):
        for axes, name in zip(axes_row, names, strict=True):
            draw_paths(axes, name, runs[name], arguments)
    for axes in grid[-1]:
        axes.set_xlabel("x")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    handles = grid[0, 0].get_legend_handles_labels()
    top.legend(*handles, loc="outside upper center", ncols=7, frameon=False)
    panels = zip(bottom.subplots(1, 3, sharey=True), families.items(), strict=True)
    for axes, (family, names) in panels:
        draw_curves(axes, names, runs)
        axes.set_title(f"f of {family}, each at its best rate", fontsize="medium")
    bottom.axes[0].set_ylabel("f")
    figure.savefig(path, dpi=150)


def draw_paths(axes, name: str, runs: Runs, arguments: Arguments) -> None:
    """Draw the paths from the given start over the contours of log f."""
    x, y = np.meshgrid(np.linspace(*DRAWN[0], 300), np.linspace(*DRAWN[1], 300))
    log_f = np.log10((1 - x) ** 2 + 100 * (y - x**2) ** 2)
    axes.contour(x, y, log_f, levels=np.arange(-1, 4, 0.5), colors="0.8", linewidths=0.5)
    for i, k in enumerate(best_by_rate(runs, arguments.rates)):
        style = {"color": COLOURS[i % len(COLOURS)], "zorder": 3 + i}
        # What is far outside, or not finite, is not drawn.
        points = np.where(np.abs(runs.paths[k]) < 1e3, runs.paths[k], np.nan)
        # All run through the same valley: those drawn first are wider.
        width = 0.8 * (len(arguments.rates) - i)
        axes.plot(*points.T, lw=width, label=f"rate {arguments.rates[i]:g}", **style)
        axes.plot(*points[-1], "o", ms=5, mec="w", mew=0.6, **style | {"zorder": 20})
    axes.plot(*arguments.start, "s", color="0.5", ms=5, ls="", zorder=20, label="start")
    axes.plot(1, 1, "*", color="gold", ms=9, mec="k", mew=0.6, ls="", zorder=19, label="minimum")
    axes.plot([], [], "o", color="0.5", mec="w", ls="", label="end")
    best = runs.describe(best_of_first(runs))
    axes.set(xlim=DRAWN[0], ylim=DRAWN[1])
    axes.set_title(f"{name}\nf {value(best['f'])} at {best['rate']:g}", fontsize="medium")


def draw_curves(axes, names: Sequence[str], runs: Mapping[str, Runs]) -> None:
    """Draw f over the steps, of each optimizer at its best setting."""
    for i, name in enumerate(names):
        k = best_of_first(runs[name])
        best = runs[name].describe(k)
        epsilon = f", {best['epsilon']:g}" if name == TUNED else ""
        curve = np.maximum(runs[name].curves[k], FLOOR / 100)
        label = f"{name} ({best['rate']:g}{epsilon})"
        axes.plot(curve, lw=1.2, color=f"C{i}", ls=STYLES[i], label=label)
    axes.set(xlabel="step", yscale="log", ylim=(FLOOR / 100, 1e9))
    axes.legend(frameon=False, fontsize="x-small", ncols=2, loc="upper right")


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
            runs, arguments
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
    draw(arguments, runs, arguments.results / f"{arguments.name}.png")


if __name__ == "__main__":
    main(run, PRESETS)
