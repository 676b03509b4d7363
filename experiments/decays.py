"""Are the decays of the learning rate that the search found better than the usual ones?

Claim:    the search also found decays of the learning rate, linear cosine and noisy linear cosine
          (section 5.2), which do well beside the usual ones.
Paper:    its numbers are not at hand. TensorFlow's documentation of linear cosine decay, which
          cites the paper, says that larger initial learning rates can typically be used than with
          cosine decay: see the best rates.
Method:   Momentum, Adam, PowerSign and AddSign, each with a constant rate and five decays, on the
          paper's child or, with --model wrn, on a wide ResNet. Every one of these tries the same
          learning rates with one seed to the end; the rate with the best validation accuracy at the
          end trains again with fresh seeds, and only these are reported. Differences are of the
          test accuracy at the end, to the same optimizer at a constant rate; they are paired by
          seed (initial weights, order of the images), with t intervals of 95 % that are not
          corrected for their number and do not cover the choice of the images, nor that of the
          rate. Better or worse is what paired t-tests say by Holm's procedure at 5 %, over all
          decays of all optimizers. A diverged run counts as chance. A mean over the optimizers
          has two intervals: over the seeds, for these four optimizers, and over the optimizers,
          as if they were drawn from many.
          Cosine with restarts has 10 periods. The noise of noisy linear cosine falls with the
          number of steps, whatever their total: short trainings, as those of --scale small, have
          much more of it than the paper's, and their rates can be below 0.
          --scale small has few images, and rates half a decade apart, from 1e-3 to 1, instead of
          the decades from 1e-5 to 10, which would hide that decays have different best rates. Its
          wide ResNet is WRN-10-1, on CIFAR-10 with images at half their size.
Command:  python experiments/decays.py
          python experiments/decays.py --dataset cifar10 --data-dir DIR
          python experiments/decays.py --model wrn --dataset cifar10 --data-dir DIR
          python experiments/decays.py --scale smoke        (seconds; says nothing)
          The same command goes on where an interrupted one stopped.
Time:     on 2 cores, 6 minutes for digits, 5 for CIFAR-10 and 7 with the wide ResNet.
          --scale paper is for accelerators.
Writes:   experiments/results/decays_DATASET[_child]_SCALE.json, .md and .png
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from harness import rival_tables
from harness.command_line import main
from harness.image_rivals import (
    CIFAR10_SIZE,
    DIGITS_SIZE,
    NOT_MEASURED,
    ImageConfig,
    check,
    setting,
    train,
)
from harness.records import write_results
from harness.rival_tables import Result, claims, edge_note, interval_text
from harness.statistics import Interval, mean_and_error, t_interval
from harness.tables import markdown
from harness.tuning import SCHEDULES, Outcome, Rival
from rich import box
from rich.console import Console
from rich.table import Table

from nos_optax import rules

OPTIMIZERS = ("Momentum", "Adam", "PowerSign", "AddSign")
CONSTANT = "constant"
DISPLAY = rival_tables.accuracy(classes=10)


def rival_name(optimizer: str, schedule: str) -> str:
    """Return what a rival is called."""
    return f"{optimizer} + {schedule}"


RIVALS = tuple(
    Rival(rival_name(name, schedule), str(rules[name.lower()].rule), schedule)
    for name in OPTIMIZERS
    for schedule in SCHEDULES
)


@dataclasses.dataclass(frozen=True)
class Arguments(ImageConfig):
    """Compare decays of the learning rate, each with its own best rate."""

    def name(self, experiment: str) -> str:
        """Return the name of all that is written."""
        return super().name(f"{experiment}_{self.dataset}")


PAPER_WRN = Arguments()
PAPER_CHILD = dataclasses.replace(PAPER_WRN, model="child", shift=0, batch_size=100, epochs=5)
SMALL = Arguments(
    scale="small",
    model="child",
    dataset="digits",
    image_size=DIGITS_SIZE,
    train_examples=1000,
    validation_examples=400,
    test_examples=397,
    depth=10,
    width=1,
    shift=0,
    batch_size=50,
    epochs=20,
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    seeds=20,
    capacity=28,
)
SMALL_CIFAR10 = dataclasses.replace(
    SMALL,
    dataset="cifar10",
    image_size=CIFAR10_SIZE,
    train_examples=1500,
    validation_examples=500,
    test_examples=500,
    epochs=3,
    seeds=5,
)
SMOKE = dataclasses.replace(
    SMALL,
    scale="smoke",
    train_examples=100,
    validation_examples=100,
    test_examples=100,
    epochs=2,
    rates=(1e-2, 1e-1),
    seeds=2,
)
ON_DIGITS = {
    "dataset": "digits",
    "image_size": DIGITS_SIZE,
    "train_examples": 1000,
    "validation_examples": 400,
    "test_examples": 397,
    "shift": 0,
}
PRESETS = {
    (p.model, p.dataset, p.scale): p
    for p in (
        SMALL,
        SMOKE,
        dataclasses.replace(PAPER_CHILD, **ON_DIGITS, epochs=100),
        dataclasses.replace(SMOKE, dataset="cifar10"),
        SMALL_CIFAR10,
        PAPER_CHILD,
        dataclasses.replace(SMOKE, model="wrn"),
        dataclasses.replace(SMALL, model="wrn", epochs=10, seeds=5),
        dataclasses.replace(PAPER_WRN, **ON_DIGITS),
        dataclasses.replace(SMOKE, model="wrn", dataset="cifar10"),
        dataclasses.replace(SMALL_CIFAR10, model="wrn", image_size=16),
        PAPER_WRN,
    )
}


# What is measured.


def by_optimizer(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each optimizer, in the order of the schedules."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.rival.name.split(" + ")[0], []).append(outcome)
    return groups


def measure(groups: Mapping[str, Sequence[Outcome]]) -> dict[str, list[Result]]:
    """Return the numbers of each optimizer's rivals, against its constant rate."""
    return {
        name: rival_tables.measure(group, rival_name(name, CONSTANT), DISPLAY)
        for name, group in groups.items()
    }


def mean_differences(
    results: Mapping[str, Sequence[Result]], over: Literal["seeds", "optimizers"]
) -> dict[str, Interval]:
    """Return of each decay the mean difference to a constant rate.

    Args:
        results: from `measure`.
        over: what the interval is over: the seeds, of which each has a mean over the optimizers,
            or the optimizers, of which each has a mean over the seeds.
    """
    finals = {
        (name, result.schedule): np.array(result.values["final_test"])
        for name, group in results.items()
        for result in group
    }
    decays = [schedule for _, schedule in finals if schedule != CONSTANT]
    axis = 0 if over == "seeds" else 1
    return {
        decay: t_interval(
            np.mean([finals[n, decay] - finals[n, CONSTANT] for n in results], axis=axis).tolist()
        )
        for decay in dict.fromkeys(decays)
    }


# What is shown.


def differences_table(
    results: Mapping[str, Sequence[Result]], means: Mapping[str, Mapping[str, Interval]]
) -> Table:
    """Return the differences to a constant rate: decays by optimizers.

    Args:
        results: from `measure`.
        means: from `mean_differences`, by what they are over.
    """
    table = Table(box=box.SIMPLE)
    table.add_column("decay")
    for column in (*results, *(f"mean, over {units}" for units in means)):
        table.add_column(column, justify="right")
    known = {(n, r.schedule): r.difference for n, group in results.items() for r in group}
    for decay in next(iter(means.values())):
        intervals = [known[name, decay] for name in results]
        intervals += [column[decay] for column in means.values()]
        table.add_row(decay, *(interval_text(interval, DISPLAY.digits) for interval in intervals))
    return table


def verdict(
    results: Mapping[str, Sequence[Result]],
    means: Mapping[str, Mapping[str, Interval]],
    rates: Sequence[float],
) -> str:
    """Say which decays are better than a constant rate, and what to doubt."""
    every = [result for group in results.values() for result in group]
    counts = {"seeds": len(every[0].values["final_test"]), "optimizers": len(results)}
    return "\n\n".join(
        [
            rival_tables.verdict(every, "the same optimizer's constant rate", DISPLAY),
            *(
                f"Means of the differences, over {units}, {claims(column, counts[units])}"
                for units, column in means.items()
            ),
            edge_note(every, rates),
        ]
    )


def draw(
    groups: Mapping[str, Sequence[Outcome]],
    results: Mapping[str, Sequence[Result]],
    title: str,
    path: Path,
) -> None:
    """Draw of each optimizer the curves with every decay, and the differences at the end."""
    from matplotlib.figure import Figure

    count = len(groups)
    figure = Figure(figsize=(3.4 * count + 2, 7), layout="constrained")
    above, below = figure.subplots(
        2, count, squeeze=False, sharex="row", sharey="row", height_ratios=(1.5, 1)
    )
    for axes, (name, group) in zip(above, groups.items(), strict=True):
        draw_curves(axes, group)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes, group in zip(below, results.values(), strict=True):
        draw_differences(axes, group)
    above[0].set_ylim(range_shown(groups))
    above[0].set_ylabel(f"validation {DISPLAY.title}")
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
    """Return the validation accuracies `[seeds, epochs]` as shown, with chance where diverged."""
    curves = [training.validation for training in outcome.runs]
    return DISPLAY.of(np.nan_to_num(curves, nan=DISPLAY.chance))


def draw_curves(axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the validation accuracy over the epochs, the mean over the fresh seeds."""
    for i, outcome in enumerate(outcomes):
        mean, error = np.array([mean_and_error(column) for column in shown(outcome).T]).T
        epochs = np.arange(len(mean)) + 1
        axes.plot(epochs, mean, color=f"C{i}", lw=1.2, label=outcome.rival.schedule)
        axes.fill_between(epochs, mean - error, mean + error, color=f"C{i}", alpha=0.15, lw=0)


def draw_differences(axes, results: Sequence[Result]) -> None:
    """Draw each decay's difference to a constant rate with its interval."""
    for i, result in enumerate(results):
        if result.difference:
            mean, low, high = result.difference
            axes.errorbar(
                mean, -i, xerr=[[mean - low], [high - mean]], fmt="o", ms=4, lw=1.2, color=f"C{i}"
            )
    axes.axvline(0, color="0.3", lw=0.8, ls=":")
    axes.set_yticks([-i for i, r in enumerate(results) if r.difference])
    axes.set_yticklabels([r.schedule for r in results if r.difference])
    axes.set_xlabel("final test accuracy - constant's, %,\nintervals of 95 %")


def run(arguments: Arguments, console: Console) -> None:
    """Train everything, print the tables and write the results."""
    if arguments.check:
        check(arguments, console)
        return
    outcomes, _, facts = train(arguments, "decays", RIVALS, console)
    groups = by_optimizer(outcomes)
    results = measure(groups)
    units: Sequence[Literal["seeds", "optimizers"]] = ("seeds", "optimizers")
    means = {over: mean_differences(results, over) for over in units}

    title, text = setting(arguments, facts), verdict(results, means, arguments.rates)
    tables = {
        "Final test accuracy, differences to a constant rate [95 %]": differences_table(
            results, means
        )
    } | {
        name: rival_tables.results_table(group, rival_name(name, CONSTANT), DISPLAY, paper={})
        for name, group in results.items()
    }
    console.print(title)
    for heading, table in tables.items():
        console.print(heading, table)
    console.print(text, f"{facts['seconds']:.0f} s", sep="\n")

    given = dataclasses.asdict(arguments)
    content = {
        "arguments": {k: v for k, v in given.items() if k not in NOT_MEASURED},
        **facts,
        "mean_differences": means["seeds"],
        "mean_differences_over_optimizers": means["optimizers"],
        "optimizers": {
            name: rival_tables.content(results[name], group) for name, group in groups.items()
        },
    }
    name = arguments.name("decays")
    sections = [f"{heading}:\n\n{markdown(table)}" for heading, table in tables.items()]
    page = "\n".join([f"{title}\n", *sections, f"{text}\n"])
    write_results(arguments.results, name, content, page)
    network = "the paper's ConvNet"
    if arguments.model == "wrn":
        network = f"WRN-{arguments.depth}-{arguments.width}"
    heading = f"{network} on {arguments.dataset}: mean over {arguments.seeds} seeds"
    draw(groups, results, heading, arguments.results / f"{name}.png")


if __name__ == "__main__":
    main(
        run,
        PRESETS,
        key=lambda config: (config.model, config.dataset, config.scale),
        interrupted="interrupted; the same command goes on from here",
    )
