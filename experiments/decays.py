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
          corrected for their number and do not cover the choice of the images. A diverged run
          counts as chance. The mean over the optimizers is taken seed by seed.
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
    PAPER,
    ImageConfig,
    check,
    setting,
    train,
)
from harness.records import write_results
from harness.rival_tables import Result, interval_text
from harness.statistics import mean_and_error, t_interval
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

    # The defaults are those of `--scale small` with the child on the digits.
    model: Literal["wrn", "child"] = "child"
    """wrn is a wide residual network, child the small ConvNet that the search trains."""
    dataset: Literal["cifar10", "digits"] = "digits"
    """cifar10 is read from --data-dir; digits come with scikit-learn."""
    image_size: Literal[32, 16, 8] = DIGITS_SIZE
    """Pixels; less than 32 of CIFAR-10 are means of neighbours. Digits have 8."""
    train_examples: int | None = 1000
    """Training images; None takes all that validation leaves."""
    validation_examples: int = 400
    """Images to tune and to find the best epoch with."""
    test_examples: int | None = 397
    """Test images; None takes all of CIFAR-10's."""
    batch_size: int = 50
    """Images in a minibatch."""
    epochs: int = 20
    """Of every training."""
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    """Learning rates of every rival."""
    seeds: int = 20
    """Fresh seeds with the best rate, at least 2; one other is for tuning."""

    def name(self, experiment: str) -> str:
        """Return the name of all that is written."""
        return super().name(f"{experiment}_{self.dataset}")


SMALL = Arguments()
SMALL_CIFAR10 = Arguments(
    dataset="cifar10",
    image_size=CIFAR10_SIZE,
    train_examples=1500,
    validation_examples=500,
    test_examples=500,
    epochs=3,
    seeds=5,
)
SMOKE = Arguments(
    scale="smoke",
    train_examples=100,
    validation_examples=100,
    test_examples=100,
    epochs=2,
    rates=(1e-2, 1e-1),
    seeds=2,
)
PAPER_WRN = Arguments(**dataclasses.asdict(PAPER))
PAPER_CHILD = dataclasses.replace(PAPER_WRN, model="child", shift=0, batch_size=100, epochs=5)
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
        SMOKE,
        SMALL,
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
    results: Mapping[str, Sequence[Result]],
) -> dict[str, tuple[float, float, float]]:
    """Return of each decay the difference to a constant rate, its mean over the optimizers.

    The intervals are over the seeds, of which each has one such mean.
    """
    finals = {
        (name, result.schedule): np.array(result.values["final_test"])
        for name, group in results.items()
        for result in group
    }
    decays = [schedule for _, schedule in finals if schedule != CONSTANT]
    return {
        decay: t_interval(
            np.mean([finals[n, decay] - finals[n, CONSTANT] for n in results], axis=0).tolist()
        )
        for decay in dict.fromkeys(decays)
    }


# What is shown.


def differences_table(
    results: Mapping[str, Sequence[Result]], means: Mapping[str, tuple[float, float, float]]
) -> Table:
    """Return the differences to a constant rate: decays by optimizers."""
    table = Table(box=box.SIMPLE)
    table.add_column("decay")
    for column in (*results, "mean of these"):
        table.add_column(column, justify="right")
    known = {(n, r.schedule): r.difference for n, group in results.items() for r in group}
    for decay, mean in means.items():
        intervals = [*(known[name, decay] for name in results), mean]
        table.add_row(decay, *(interval_text(interval, DISPLAY.digits) for interval in intervals))
    return table


def verdict(results: Mapping[str, Sequence[Result]], rates: Sequence[float]) -> str:
    """Say which decays are better than a constant rate, and what to doubt."""
    sentences = [
        rival_tables.verdict(group, rival_name(name, CONSTANT), DISPLAY)
        for name, group in results.items()
    ]
    ends = [
        r.name for group in results.values() for r in group if r.rate in (min(rates), max(rates))
    ]
    return "\n".join(
        [*sentences, f"Best rate at an end of those tried: {'; '.join(ends) or 'none'}."]
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
    above[0].set_ylabel(f"validation {DISPLAY.title}")
    figure.legend(
        *above[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
    )
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def draw_curves(axes, outcomes: Sequence[Outcome]) -> None:
    """Draw the validation accuracy over the epochs, the mean over the fresh seeds."""
    for i, outcome in enumerate(outcomes):
        scores = np.nan_to_num([t.validation for t in outcome.runs], nan=DISPLAY.chance)
        mean, error = np.array([mean_and_error(column) for column in DISPLAY.of(scores).T]).T
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
    means = mean_differences(results)

    title, text = setting(arguments, facts), verdict(results, arguments.rates)
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
        "mean_differences": means,
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
