"""What does stopping bad children early save, and what does it cost?

Claim:    none of the paper's, which trains every child to the end. `--hurdle-epochs` of the search
          stops a child after an epoch if most before it were better then; its reward is what it
          had. A search wants to know how much less it trains, and whether the rewards still rank
          the rules as the full ones do, above all at the top.
Method:   uniform random rules that the probes do not reject, no two with the same updates, are
          trained to the end. Their accuracies after each epoch say who would have been stopped: a
          hurdle is a quantile of the children that came there. (A search takes the quantile of
          earlier ones; here all are known.) Then the same population is evaluated with the same
          hurdles, to time it and to see that the same children stop. Only rules that survive the
          sweep are trained, so only they can be stopped; the time is that of the whole population,
          sweep and dead rules included. Every number is a mean over seeds with its standard error.
Command:  python experiments/hurdles.py
          python experiments/hurdles.py --scale smoke    (seconds; says nothing)
Time:     about 3 minutes on 2 cores.
Writes:   experiments/results/hurdles_DATASET_SCALE.json, .md and .png
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from harness import command_line
from harness.statistics import mean_and_error, rank_correlation
from harness.study import Study
from harness.tables import text_table
from matplotlib.figure import Figure
from rich.console import Console

from nos_optax.grammar import SearchSpace
from nos_optax.population import STATUSES, Evaluation
from nos_optax.search import LocalEngine, PaperTaskConfig, RandomSearch, SearchConfig, TaskConfig
from nos_optax.search.probes import Probes

DRAW = 64  # rules at a time
LEAST = 4  # that must be trained


@dataclasses.dataclass(frozen=True)
class Arguments(Study, PaperTaskConfig):
    """Measure what hurdles in the training save, and what they do to the ranking of the rules."""

    experiment = "hurdles"
    at_least = (("rules", 1), ("seeds", 2))

    scale: Literal["small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    rules: int = 128
    """Random rules that are not rejected, for each seed."""
    seeds: int = 5
    """Populations, each with its own rules, weights and data order; at least 2."""
    iterations: int = 2
    """Length of a rule."""
    hurdle_epochs: tuple[int, ...] = (1, 2, 3)
    """Epochs after which a child may be stopped."""
    quantiles: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Parts of the children that stop at each hurdle."""

    def __post_init__(self):
        super().__post_init__()
        if not self.hurdle_epochs:
            raise ValueError("--hurdle-epochs is empty: give at least one epoch")
        if not all(0 <= q < 1 for q in self.quantiles):
            raise ValueError(f"--quantiles must be in [0, 1), got {self.quantiles}")

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"{self.experiment}_{self.task[0]}_{self.scale}"

    def search_config(self) -> SearchConfig:
        """Return the configuration of a search with these hurdles."""
        task = {f.name: getattr(self, f.name) for f in dataclasses.fields(TaskConfig)}
        return SearchConfig(**task, hurdle_epochs=self.hurdle_epochs)


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments(
        scale="smoke",
        rules=24,
        seeds=2,
        train_examples=300,
        minibatch_size=20,
        epochs=3,
        hurdle_epochs=(1, 2),
    ),
}


class Stopped(NamedTuple):
    """What hurdles do to children whose whole training is known."""

    hurdles: list[float]  # accuracies
    rewards: np.ndarray  # [n]: accuracy at the hurdle that stopped a child, else at the end
    epochs: np.ndarray  # [n]: epochs trained


def stop(curve: np.ndarray, ends: Sequence[int], quantile: float, images: int) -> Stopped:
    """Stop at each hurdle those of its children that are below its quantile.

    Args:
        curve: `[n, R]`, accuracies at the hurdles and the end.
        ends: the R epochs of these.
        quantile: of the children that came to a hurdle.
        images: that the accuracies are of.
    """
    known = np.rint(curve * images)
    running, hurdles = np.full(len(curve), True), []
    epochs, rewards = np.full(len(curve), ends[-1]), curve[:, -1].copy()
    for r, end in enumerate(ends[:-1]):
        least = np.ceil(np.quantile(known[running, r], quantile))
        failing = running & (known[:, r] < least)
        epochs[failing], rewards[failing] = end, curve[failing, r]
        running &= ~failing
        # A part of an image less: no rounding may lift the hurdle to the next image.
        hurdles.append(max(0.0, float(least - 0.25)) / images)
    return Stopped(hurdles, rewards, epochs)


def judge(stopped: Stopped, full: np.ndarray, epochs: int) -> dict[str, float]:
    """Return what hurdles saved and cost, given the rewards `[n]` without them."""
    best, top = full.max(), full >= np.quantile(full, 0.75)
    return {
        "saved": 1 - float(stopped.epochs.mean()) / epochs,
        "rank_correlation": float(rank_correlation(stopped.rewards, full)),
        "rank_correlation_top": float(rank_correlation(stopped.rewards[top], full[top])),
        # Several rules may share the best reward: one that goes on is enough.
        "best_survives": float((stopped.epochs[full == best] == epochs).any()),
        "top_survives": float((stopped.epochs[top] == epochs).mean()),
        "lost": float(best - full[stopped.rewards.argmax()]),
    }


def random_rules(space: SearchSpace, count: int, seed: int) -> np.ndarray:
    """Return random programs `[count, 5 G]` that are not rejected and differ in their updates."""
    strategy, probes = RandomSearch(space, jax.random.key(seed)), Probes(space.iterations)
    found: dict[str, np.ndarray] = {}
    while len(found) < count:
        tokens = strategy.ask(DRAW)
        for row, probed in zip(tokens, probes(tokens), strict=True):
            if probed.rejection is None:
                found.setdefault(probed.fingerprint, row)
    return np.stack(list(found.values())[:count])


def timed(engine: LocalEngine, *args, **kwargs) -> tuple[Evaluation, float]:
    """Return the evaluation of a population, and the seconds that it took."""
    start = time.perf_counter()
    ((_, evaluation),) = engine.evaluate(*args, **kwargs)
    return evaluation, time.perf_counter() - start


def run_seed(arguments: Arguments, engine: LocalEngine, seed: int) -> tuple[list[dict], np.ndarray]:
    """Return what each quantile saves and costs with a seed, and the curves of the trained."""
    space = SearchSpace(iterations=arguments.iterations)
    programs = random_rules(space, arguments.rules, seed)
    whole, seconds = timed(engine, programs, seed)
    trained = np.flatnonzero(whole.status == STATUSES.index("trained"))
    curve, images = whole.curve[trained], engine.facts["validation_examples"]
    if len(trained) < LEAST:
        raise ValueError(
            f"only {len(trained)} of {arguments.rules} rules learned something with seed {seed}; "
            f"{LEAST} are needed to rank them: give more --rules or a larger --sweep-examples"
        )
    rows = []
    for quantile in arguments.quantiles:
        ends = (*arguments.hurdle_epochs, arguments.epochs)
        stopped = stop(curve, ends, quantile, images)
        real, with_hurdles = timed(engine, programs, seed, hurdles=stopped.hurdles)
        rows.append(
            judge(stopped, whole.reward[trained], arguments.epochs)
            | {
                "time_saved": 1 - with_hurdles / seconds,
                "as_predicted": float((real.reward[trained] == stopped.rewards).mean()),
                "trained": len(trained),
                "seconds": seconds,
            }
        )
    return rows, curve


COLUMNS = {
    "saved": "training saved",
    "time_saved": "time saved",
    "rank_correlation": "rank correlation",
    "rank_correlation_top": "top quarter",
    "best_survives": "best survives",
    "top_survives": "top quarter survives",
    "lost": "accuracy lost",
}


def draw(arguments: Arguments, curve: np.ndarray, path: Path) -> None:
    """Draw the accuracy at each hurdle against the one at the end, of the rules of all seeds."""
    count = len(arguments.hurdle_epochs)
    figure = Figure(figsize=(3.5 * count + 0.5, 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, count, sharey=True))
    for r, (axes, epoch) in enumerate(zip(panels, arguments.hurdle_epochs, strict=True)):
        axes.plot(curve[:, r], curve[:, -1], ".", ms=4, alpha=0.5)
        for i, quantile in enumerate(arguments.quantiles):
            # Of all children, not only of those that an earlier hurdle lets through.
            hurdle = np.quantile(curve[:, r], quantile)
            axes.axvline(hurdle, color="0.5", lw=0.8, ls=":")
            axes.annotate(
                f"{quantile:g}", (hurdle, 0.02 + 0.06 * i), (2, 0), textcoords="offset points"
            )
        correlation = rank_correlation(curve[:, r], curve[:, -1])
        axes.set(
            xlabel=f"accuracy after epoch {epoch}", title=f"rank correlation {correlation:.2f}"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1))
    panels[0].set_ylabel(f"accuracy after epoch {arguments.epochs}")
    figure.savefig(path, dpi=150)


def run(arguments: Arguments, console: Console) -> None:
    """Evaluate all populations, print the table and write the results."""
    start = time.perf_counter()
    config = arguments.search_config()
    engine = LocalEngine(config, arguments.iterations)
    timed(engine, random_rules(SearchSpace(arguments.iterations), 1, seed=0), 0)  # compiles
    rows, curves = [], []
    for seed in range(arguments.seeds):
        of_quantiles, curve = run_seed(arguments, engine, seed)
        rows.append(of_quantiles)
        curves.append(curve)
        first = of_quantiles[0]
        console.print(
            f"seed {seed}: {first['trained']} of {arguments.rules} rules trained, "
            f"{first['seconds']:.1f} s without hurdles"
        )
    summary: list[dict] = [
        {"quantile": quantile} | {k: mean_and_error([r[k] for r in of_seeds]) for k in of_seeds[0]}
        for quantile, of_seeds in zip(arguments.quantiles, zip(*rows, strict=True), strict=True)
    ]
    title = (
        f"{arguments.task[0]}, hurdles after epochs {', '.join(map(str, arguments.hurdle_epochs))} "
        f"of {arguments.epochs}: mean ± standard error (se) over {arguments.seeds} seeds of "
        f"{arguments.rules} rules"
    )
    table = text_table(
        ("quantile", *(f"{column} ± se" for column in COLUMNS.values())),
        [
            (f"{row['quantile']:.2f}", *("{:.3f} ± {:.3f}".format(*row[key]) for key in COLUMNS))
            for row in summary
        ],
    )
    content = {
        **engine.facts,
        "seconds": time.perf_counter() - start,
        "summary": summary,
        "seeds": rows,
    }
    arguments.publish(console, title, {"What hurdles save and cost": table}, [], content)
    draw(arguments, np.concatenate(curves), arguments.picture)


if __name__ == "__main__":
    command_line.main(run, PRESETS)
