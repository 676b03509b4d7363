"""Do the decays of the learning rate that the search found converge faster than cosine decay?

Claim:    linear cosine decay, ld * cd, and noisy linear cosine decay, (ld + noise) * cd + 0.001,
          which the search found, "typically" allow a larger initial learning rate and converge
          faster than cosine decay (section 5.2; section 6.2 says it again of the wide ResNet). The
          paper does not claim a better final accuracy: in table 2, final test is between 0.2 lower
          and 0.1 higher with linear cosine than with cosine. Of the usual decays, it found cosine
          to be consistently better than stepwise (section 6.2).
Paper:    table 2's test accuracies stand beside ours. Of the best rates and of the speed it gives
          a picture (figure 7), and no numbers.
Method:   SGD, AddSign-ld and PowerSign-cd, each with a constant rate, stepwise (times 0.2 at 30, 60
          and 80 % of the training, as in the wide residual networks' paper), cosine and linear
          cosine decay; --schedules has others, noisy linear cosine among them. Rates are half a
          decade apart. Each rival begins with three and goes on beyond an end of what it has tried
          while its best one is that end; best is the mean validation accuracy after the last
          epoch over the tuning seeds. The best rate trains again with fresh seeds.
          Larger rate: the best rate of a grid of half decades cannot tell factors below 3 apart,
          so the parabola through the best three accuracies is asked for its vertex, for each tuning
          seed; ratios to cosine's are paired by seed, their intervals are of the logarithm.
          Faster: epochs until the validation accuracy first reaches a level, interpolated between
          epochs. The level is chosen before any run: the mean accuracy after the last epoch that
          the same optimizer has at a constant rate. Differences to cosine are paired by seed.
          A curve that fluctuates reaches a level early by luck, which favours schedules that keep
          a large rate, not linear cosine.
          Accuracy: of the test images after the last epoch, by seed.
          Intervals are t intervals of 95 %, not corrected for their number; which differences are
          not 0 is told by Holm's procedure at 5 %. No weight decay for anyone and as many rates
          for all, where the paper's table 2 tunes the one for SGD and has three rates for its
          own optimizers. A diverged run counts as
          chance. The noise of noisy linear cosine falls with the number of steps, whatever their
          total: short trainings have much more of it than the paper's, and rates below 0.
          --scale small is WRN-10-1 with 10,000 images of half the size for 18 epochs, 3,600 steps;
          the paper does not say how long its own trainings were, those of table 6 had 300 epochs.
Command:  python experiments/decays.py --data-dir DIR
          python experiments/decays.py --data-dir DIR --scale paper    (accelerators)
          python experiments/decays.py --scale smoke                   (seconds; says nothing)
          The same command goes on where an interrupted one stopped, with more schedules or
          seeds too.
Time:     small: about 90 trainings of 3,600 steps, each 2 to 5 minutes of one core, by the time of
          200 steps: 1.5 to 4 hours on 2 cores. paper: for accelerators, not run here.
Writes:   experiments/results/decays_DATASET[_child]_SCALE.json, .md and .png
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from harness import image_rivals, rival_tables
from harness.command_line import main
from harness.image_rivals import ImageConfig, check, named_rival, network_name, paper_figures, train
from harness.paper import TABLE_2
from harness.pictures import draw_band
from harness.rival_tables import Result, edge_note
from harness.statistics import claims, epochs_to_reach, peak, t_interval
from harness.tables import interval_text, mean_text, rates_text, text_table
from harness.tuning import SCHEDULES, Outcome, Rival
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from nos_optax.compare.statistics import Difference

OPTIMIZERS = ("SGD", "AddSign-ld", "PowerSign-cd")
CONSTANT, COSINE = "constant", "cosine"
FOUND = ("linear cosine", "noisy linear cosine")  # by the paper's search
DISPLAY = rival_tables.accuracy(classes=10)


def rival_name(optimizer: str, schedule: str) -> str:
    """Return what a rival is called, as in table 2."""
    return f"{optimizer} ({schedule})"


@dataclasses.dataclass(frozen=True)
class Arguments(ImageConfig):
    """Compare decays of the learning rate, each with its own best rate."""

    experiment = "decays"
    may_grow = (*ImageConfig.may_grow, "schedules", "optimizers")

    schedules: tuple[str, ...] = (CONSTANT, "stepwise", COSINE, *FOUND)
    """Constant, cosine and others of stepwise, linear, restarts, "linear cosine" and
    "noisy linear cosine"."""
    optimizers: tuple[str, ...] = OPTIMIZERS
    """Of SGD, AddSign-ld and PowerSign-cd."""

    def __post_init__(self):
        super().__post_init__()
        if not {CONSTANT, COSINE} <= set(self.schedules) <= set(SCHEDULES):
            raise ValueError(
                f"--schedules must be {CONSTANT}, {COSINE} and others of {', '.join(SCHEDULES)}; "
                f"got {', '.join(self.schedules)}"
            )
        if not self.optimizers or not set(self.optimizers) <= set(OPTIMIZERS):
            raise ValueError(
                f"--optimizers must be of {', '.join(OPTIMIZERS)}; got {', '.join(self.optimizers)}"
            )

    def rivals(self) -> list[Rival]:
        """Return every optimizer with every schedule."""
        return [
            named_rival(rival_name(name, schedule))
            for name in self.optimizers
            for schedule in self.schedules
        ]

    @property
    def name(self) -> str:
        """Of all that is written."""
        child = "" if self.model == "wrn" else "_child"
        return f"decays_{self.dataset}{child}_{self.scale}"


NO_DECAY = {"weight_decays": (0.0,), "found_weight_decays": (0.0,)}
PRESETS = {
    "small": Arguments.like(
        image_rivals.SMALL,
        **NO_DECAY,
        schedules=(CONSTANT, "stepwise", COSINE, "linear cosine"),
    ),
    "paper": Arguments.like(image_rivals.PAPER, **NO_DECAY, found_rates=None, tuning_seeds=3),
    "smoke": Arguments.like(image_rivals.SMOKE, **NO_DECAY, tuning_seeds=2),
}


# What is measured.


class Speed(NamedTuple):
    """How a rival trains: one number a seed."""

    level: float  # validation score that is to be reached
    epochs: list[float]  # until then, of each fresh seed; inf where it is never reached
    rates: list[float]  # the best rate, interpolated, of each tuning seed


def by_optimizer(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each optimizer, in the order of the schedules."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.rival.name.split(" (")[0], []).append(outcome)
    return groups


def measure(groups: Mapping[str, Sequence[Outcome]]) -> dict[str, list[Result]]:
    """Return the numbers of each optimizer's rivals, against its constant rate."""
    return {
        name: rival_tables.measure(group, rival_name(name, CONSTANT), DISPLAY)
        for name, group in groups.items()
    }


def measure_speed(group: Sequence[Outcome]) -> dict[str, Speed]:
    """Return the speed of one optimizer with each schedule."""
    curves = {
        outcome.rival.schedule: [whole(training.validation) for training in outcome.runs]
        for outcome in group
    }
    level = float(np.mean([curve[-1] for curve in curves[CONSTANT]]))
    return {
        outcome.rival.schedule: Speed(
            level,
            [
                epochs_to_reach(curve, level, DISPLAY.chance)
                for curve in curves[outcome.rival.schedule]
            ],
            best_rates(outcome),
        )
        for outcome in group
    }


def whole(scores: Sequence[float]) -> list[float]:
    """Return scores with chance where the training has diverged."""
    return np.nan_to_num(scores, nan=DISPLAY.chance).tolist()


def best_rates(outcome: Outcome) -> list[float]:
    """Return the best rate of each tuning seed, interpolated."""
    seeds: dict[int, dict[float, float]] = {}
    for training in outcome.tuning:
        seeds.setdefault(training.seed, {})[training.rate] = whole(training.validation)[-1]
    return [peak(scores) for scores in seeds.values()]


class Comparison(NamedTuple):
    """A found decay less cosine, of one optimizer; None where there is no interval."""

    log_rate: Difference | None  # natural logarithm of the ratio of the best rates
    epochs: Difference | None  # to the level
    accuracy: Difference  # final test, %

    @classmethod
    def of(cls, log_rates: np.ndarray, epochs: np.ndarray, tests: np.ndarray) -> Self:
        """Return the comparison of what differs, one number a seed."""
        return cls(
            t_interval(log_rates) if len(log_rates) > 1 else None,
            t_interval(epochs) if np.isfinite(epochs).all() else None,
            t_interval(tests),
        )


def compare_with_cosine(
    results: Mapping[str, Sequence[Result]], speeds: Mapping[str, Mapping[str, Speed]]
) -> dict[str, Comparison]:
    """Return how each found decay differs from cosine, for each optimizer and for their mean.

    The mean over the optimizers is taken of each seed.
    """
    compared = {}
    for decay in FOUND:
        differences = [
            seed_differences(group, speeds[name], decay)
            for name, group in results.items()
            if decay in speeds[name]
        ]
        if not differences:
            continue
        for name, columns in zip(results, differences, strict=True):
            compared[rival_name(name, decay)] = Comparison.of(*columns)
        means = (np.mean(column, axis=0) for column in zip(*differences, strict=True))
        compared[rival_name("mean", decay)] = Comparison.of(*means)
    return compared


def seed_differences(
    group: Sequence[Result], speeds: Mapping[str, Speed], decay: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a decay less cosine: logarithms of the best rates, epochs, final test; by seed."""
    tests = {result.schedule: np.array(result.values["final_test"]) for result in group}
    rates = [np.log(speeds[schedule].rates) for schedule in (decay, COSINE)]
    # Two that never get there do not differ by a number.
    epochs = [np.array(speeds[schedule].epochs) for schedule in (decay, COSINE)]
    reached = np.where(np.isfinite(epochs).all(axis=0), epochs, np.nan)
    return rates[0] - rates[1], reached[0] - reached[1], tests[decay] - tests[COSINE]


# What is shown.


def speed_table(
    results: Mapping[str, Sequence[Result]], speeds: Mapping[str, Mapping[str, Speed]]
) -> Table:
    """Return the table of every rival: best rates, epochs to the level, accuracies, the paper's."""
    columns = ("rival", "best rate", "rates tried", "interpolated", "level", "epochs to it ± se")
    columns += (
        "validation ± se",
        "test ± se",
        "test - constant [95 %]",
        "paper: best / final test",
    )
    digits, paper = DISPLAY.digits, paper_figures(TABLE_2)

    def row(result: Result, speed: Speed) -> list[str]:
        return [
            result.name,
            f"{result.rate:g}",
            rates_text(result.tried),
            f"{np.exp(np.mean(np.log(speed.rates))):.2g}",
            f"{DISPLAY.of(np.array(speed.level)):.{digits}f}",
            epochs_text(speed.epochs),
            *(
                mean_text(result.values[part], digits)
                for part in ("final_validation", "final_test")
            ),
            interval_text(result.difference, digits),
            paper.get(result.name, "no such row"),
        ]

    return text_table(
        columns,
        [row(r, speeds[name][r.schedule]) for name, group in results.items() for r in group],
    )


def epochs_text(epochs: Sequence[float]) -> str:
    """Return the epochs to a level as text, with how many seeds never reach it."""
    reached = [value for value in epochs if math.isfinite(value)]
    never = f"never in {len(epochs) - len(reached)} of {len(epochs)}"
    if len(reached) < 2:
        return never
    return mean_text(reached, 2) + (f", {never}" if len(reached) < len(epochs) else "")


def comparison_table(compared: Mapping[str, Comparison]) -> Table:
    """Return the table of the found decays against cosine."""
    columns = ("less cosine", "ratio of the best rates [95 %]", "epochs to the level [95 %]")
    return text_table(
        (*columns, "final test, % [95 %]"),
        [
            (
                name,
                ratio_text(row.log_rate),
                interval_text(row.epochs, 2) if row.epochs else "not reached by all",
                interval_text(row.accuracy, DISPLAY.digits),
            )
            for name, row in compared.items()
        ],
    )


def ratio_text(log_rate: Sequence[float] | None) -> str:
    """Return a ratio and its interval as text."""
    if log_rate is None:
        return "one seed"
    mean, low, high = np.exp(log_rate[:3])
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def verdict(
    results: Mapping[str, Sequence[Result]], compared: Mapping[str, Comparison]
) -> list[str]:
    """Say what becomes of the paper's two claims, and of the accuracy."""
    every = [result for group in results.values() for result in group]
    single = {name: row for name, row in compared.items() if not name.startswith("mean")}
    notes = []
    for title, part, lower in (
        ("Initial rate, larger is better", "log_rate", False),
        ("Epochs to the level, fewer are better", "epochs", True),
        ("Final test, no claim of the paper", "accuracy", False),
    ):
        known = {name: getattr(row, part) for name, row in single.items()}
        known = {name: change for name, change in known.items() if change}
        if known:
            notes.append(f"Against cosine. {title}: {claims(known, lower)}")
    notes.append(rival_tables.verdict(every, "the same optimizer's constant rate", DISPLAY))
    notes.append(edge_note(every))
    return notes


def draw(
    groups: Mapping[str, Sequence[Outcome]],
    speeds: Mapping[str, Mapping[str, Speed]],
    title: str,
    path: Path,
) -> None:
    """Draw of each optimizer the curves with every schedule, and its tuning."""
    count = len(groups)
    figure = Figure(figsize=(4 * count + 1, 7), layout="constrained")
    above, below = figure.subplots(2, count, squeeze=False, sharey="row", height_ratios=(1.5, 1))
    for curves, tuning, (name, group) in zip(above, below, groups.items(), strict=True):
        for i, outcome in enumerate(group):
            style: dict[str, Any] = {"color": f"C{i}", "lw": 1.2}
            draw_band(curves, shown(outcome), label=outcome.rival.schedule, **style)
            by_rate = rival_tables.tuned(outcome, DISPLAY)
            tuning.plot(list(by_rate), list(by_rate.values()), marker=".", **style)
        level = next(iter(speeds[name].values())).level
        curves.axhline(DISPLAY.of(np.array(level)), color="0.3", lw=0.8, ls=":")
        curves.set(title=name, xlabel="epoch")
        curves.xaxis.get_major_locator().set_params(integer=True)
        tuning.set(xlabel="learning rate", xscale="log")
    above[0].set_ylim(range_shown(groups))
    above[0].set_ylabel(f"validation {DISPLAY.title}")
    below[0].set_ylabel("the same after the last epoch,\ntuning seeds")
    figure.legend(
        *above[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
    )
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def range_shown(groups: Mapping[str, Sequence[Outcome]]) -> tuple[float, float]:
    """Return the ends of the axis of the curves: it begins with the second half's least."""
    means = np.array(
        [shown(outcome).mean(axis=0) for group in groups.values() for outcome in group]
    )
    low, high = means[:, means.shape[1] // 2 :].min(), means.max()
    margin = 0.1 * (high - low)
    return low - margin, high + margin


def shown(outcome: Outcome) -> np.ndarray:
    """Return the validation accuracies `[seeds, epochs]` as shown."""
    return rival_tables.shown([training.validation for training in outcome.runs], DISPLAY)


def run(arguments: Arguments, console: Console) -> None:
    """Train everything, print the tables and write the results."""
    if arguments.check:
        check(arguments, console)
        return
    outcomes, _, facts = train(arguments, arguments.rivals(), console)
    groups = by_optimizer(outcomes)
    results = measure(groups)
    speeds = {name: measure_speed(group) for name, group in groups.items()}
    compared = compare_with_cosine(results, speeds)
    tables = {
        "Best rates, epochs to the accuracy of the constant rate, accuracies": speed_table(
            results, speeds
        ),
        "The found decays against cosine": comparison_table(compared),
    }
    content = {
        **facts,
        "against_cosine": {name: row._asdict() for name, row in compared.items()},
        "speeds": {
            name: {schedule: speed._asdict() for schedule, speed in group.items()}
            for name, group in speeds.items()
        },
        "optimizers": {
            name: rival_tables.content(results[name], group) for name, group in groups.items()
        },
    }
    title, notes = image_rivals.setting(arguments, facts), verdict(results, compared)
    arguments.publish(console, title, tables, notes, content)
    heading = f"{network_name(arguments)} on {arguments.dataset}: mean over {arguments.seeds} seeds"
    draw(groups, speeds, heading, arguments.picture)


if __name__ == "__main__":
    main(run, PRESETS)
