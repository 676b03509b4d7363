"""Does the controller learn on the paper's child, and are its rules better there? (figure 4)

Claim:    on the child, the paper's small ConvNet, the controller's reward rises with the number of
          samples (figure 4), and among what it found are two families, PowerSign and AddSign, with
          decays of the sign term (section 5.1), and the rules of table 6.
Paper:    a picture of the reward, without numbers, on CIFAR-10. What it says of its rules on the
          child is not at hand. Table 6 is of another network, a wide ResNet; its accuracies are
          shown here as nos_optax.rules has them, transcribed without the paper and not checked.
Method:   (a) Searches with PPO and with random sampling, seed by seed on the same children, with
          equal samples. Shown are the mean reward of the last samples and the best reward so far,
          means over the seeds in bands of 95 %. The best of many single rewards flatters.
          (b) The usual optimizers, both families without and with the decays ld and cd, and the
          five rules of table 6 with the best final validation accuracy as transcribed. Each tries
          every learning rate with one seed to the end; the rate with the best validation accuracy
          at the end trains again with fresh seeds, and only these are reported. Differences to
          Adam are of the test accuracy at the end, as the validation images chose the rates; they
          are paired by seed (initial weights, order of the images), with t intervals of 95 % that
          are not corrected for their number and do not cover the choice of the images; which rules
          are better or worse is told by Holm's procedure. A diverged run counts as chance.
          --scale small has few images and samples: the paper's are 45,000 images. On CIFAR-10 it
          has too few samples for a controller to learn from (see compare_strategies.py).
Command:  python experiments/figure4_child.py
          python experiments/figure4_child.py --dataset cifar10 --data-dir DIR
          python experiments/figure4_child.py --scale smoke        (seconds; says nothing)
          The same command goes on where an interrupted one stopped.
Time:     about 3 minutes for digits and 6 for CIFAR-10 on 2 cores. --scale paper is for
          accelerators.
Writes:   experiments/results/figure4_child_DATASET_SCALE.json, .md, .png and .jsonl (the rewards
          of every search)
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import compare_strategies
import numpy as np
from harness import command_line, rival_tables
from harness.records import Records, write_results
from harness.rival_tables import Result
from harness.statistics import t_interval
from harness.tables import markdown
from harness.tuning import Outcome, Rival, compare
from harness.vision import Images, read_cifar10, read_digits
from rich.console import Console
from rich.progress import Progress
from strategy_measures import BASELINE, WINDOW, Run, moving_mean, summarise
from strategy_tables import learning_table

from nos_optax import rules
from nos_optax.population import Dataset, TrainingGrid, image_task, paper_child
from nos_optax.search import LocalEngine, TaskConfig, select_devices
from nos_optax.search.results import STANDARD_ITERATIONS

STRATEGIES = ("ppo", BASELINE)
RULES = {
    "adam": "Adam",
    "sgd": "SGD",
    "momentum": "Momentum",
    "rmsprop": "RMSProp",
    "powersign": "PowerSign",
    "powersign_ld": "PowerSign-ld",
    "powersign_cd": "PowerSign-cd",
    "addsign": "AddSign",
    "addsign_ld": "AddSign-ld",
    "addsign_cd": "AddSign-cd",
}
TABLE_6 = (
    "clip_momentum_exp_v",
    "g_plus_drop_momentum",
    "g_minus_clip_g2",
    "exp_g_minus_exp_momentum",
    "drop_momentum_exp_w",
)
RIVALS = {
    **{name: Rival(shown, str(rules[name].rule)) for name, shown in RULES.items()},
    **{name: Rival(str(rules[name].rule), str(rules[name].rule)) for name in TABLE_6},
}
PAPER_ACCURACIES = {
    rival.name: f"{accuracy.final_validation:.1f}"
    for name, rival in RIVALS.items()
    if (accuracy := rules[name].accuracy)
}
REFERENCE = "adam"
DISPLAY = rival_tables.accuracy(classes=10)
TICKS = (1, 3, 10, 30, 100)  # of a difference in the picture
AT_A_TIME = 32  # children of the comparison in memory together
PATHS = ("data_dir", "out", "results")  # they say nothing about the results


@dataclasses.dataclass(frozen=True)
class Arguments(TaskConfig):
    """Search rules on the paper's child, and compare the paper's rules on it."""

    dataset: Literal["digits", "cifar10"] = "cifar10"
    """What the children learn; cifar10 is read from --data-dir."""
    scale: Literal["paper", "small", "smoke"] = "paper"
    """Sets all other numbers, unless they are given too."""
    validation_examples: int = 5000
    """Held-out images for the rewards and the choice of rates."""
    test_examples: int = 10_000
    """Other images, for what is reported of the rules."""
    samples: int = 10_000
    """Candidates of each search."""
    searches: int = 5
    """Searches with each strategy, at least 2."""
    batch_size: int = 32
    """Candidates per population."""
    preset: Literal["default", "paper"] = "paper"
    """Of the controller."""
    rules: tuple[str, ...] = tuple(RIVALS)
    """Names in nos_optax.rules, adam among them."""
    rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Learning rates of every rule."""
    rule_epochs: int = 5
    """Length of a rule's training."""
    rule_seeds: int = 10
    """Fresh seeds for what is reported of a rule, at least 2."""
    out: Path | None = None
    """Folder of the runs (default: runs/figure4_child_DATASET_SCALE)."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the tables and the picture."""

    def __post_init__(self):
        super().__post_init__()
        least = {"samples": 4, "searches": 2, "rule_epochs": 1, "rule_seeds": 2}
        for name, number in least.items():
            if getattr(self, name) < number:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least {number}, got {getattr(self, name)}")
        if not self.rates:
            raise ValueError("--rates is empty: give at least one learning rate")
        unknown = [name for name in self.rules if name not in RIVALS]
        if unknown or REFERENCE not in self.rules:
            raise ValueError(
                f"--rules must be {REFERENCE} and others of {', '.join(RIVALS)}; "
                f"got {', '.join(self.rules)}"
            )

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"figure4_child_{self.dataset}_{self.scale}"

    @property
    def folder(self) -> Path:
        """Of the runs."""
        return self.out or Path("runs") / self.name

    def searching(self) -> compare_strategies.Arguments:
        """Return the configuration of the searches."""
        task = {f.name: getattr(self, f.name) for f in dataclasses.fields(TaskConfig)}
        return compare_strategies.Arguments(
            **task,
            strategies=STRATEGIES,
            samples=self.samples,
            seeds=self.searches,
            batch_size=self.batch_size,
            preset=self.preset,
            out=self.folder / "searches",
        )

    def training(self) -> dict[str, object]:
        """Return what decides how a rule's training ends, but for its rate and seed."""
        images = ("dataset", "train_examples", "validation_examples", "test_examples")
        return {name: getattr(self, name) for name in (*images, "minibatch_size", "rule_epochs")}


SMOKE = Arguments(
    dataset="digits",
    scale="smoke",
    train_examples=200,
    validation_examples=300,
    test_examples=100,
    sweep_examples=200,
    epochs=1,
    samples=8,
    searches=2,
    batch_size=4,
    preset="default",
    rules=("adam", "powersign", "g_plus_drop_momentum"),
    rates=(1e-3, 1e-1),
    rule_epochs=2,
    rule_seeds=2,
)
PRESETS = {
    ("digits", "small"): Arguments(
        dataset="digits",
        scale="small",
        sweep_examples=500,
        minibatch_size=50,
        validation_examples=400,
        test_examples=397,
        samples=512,
        searches=4,
        preset="default",
        rule_epochs=10,
        rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0),
    ),
    ("digits", "paper"): Arguments(
        dataset="digits", validation_examples=400, test_examples=397, rule_epochs=10
    ),
    ("digits", "smoke"): SMOKE,
    ("cifar10", "smoke"): dataclasses.replace(SMOKE, dataset="cifar10", minibatch_size=50),
    ("cifar10", "small"): Arguments(
        scale="small",
        train_examples=1500,
        validation_examples=500,
        test_examples=500,
        sweep_examples=300,
        epochs=2,
        minibatch_size=25,
        samples=64,
        searches=3,
        batch_size=16,
        preset="default",
        rule_epochs=3,
        rule_seeds=5,
    ),
    ("cifar10", "paper"): Arguments(),
}


def read(arguments: Arguments) -> Images:
    """Return the images."""
    count = arguments.train_examples
    held_out = arguments.validation_examples, arguments.test_examples
    if arguments.dataset == "digits":
        return read_digits(count or 1000, *held_out)
    return read_cifar10(arguments.data_dir, count, *held_out)


def search(
    arguments: Arguments, dataset: Dataset, console: Console
) -> tuple[list[Run], LocalEngine]:
    """Run every search that is not done yet; return all, and where they were evaluated."""
    config = arguments.searching()
    iterations = max(config.iterations, STANDARD_ITERATIONS)
    engine = LocalEngine(config.search_config(BASELINE, seed=0), iterations, dataset)
    return compare_strategies.run_searches(config, engine, console), engine


def train_rules(
    arguments: Arguments, images: Images, lanes: int, console: Console
) -> list[Outcome]:
    """Return what became of every rule."""
    devices = select_devices(arguments.accelerator)
    task = image_task(images.dataset, paper_child(images.dataset, devices[0]))
    grid = TrainingGrid(
        dataclasses.replace(task, test=(images.test_images, images.test_labels)),
        arguments.minibatch_size,
        max(AT_A_TIME, lanes * len(devices)),
        lanes=lanes,
        devices=devices,
    )
    rivals = [RIVALS[name] for name in arguments.rules]
    platform = {"platform": devices[0].platform}
    records = Records(arguments.folder / "records.jsonl", arguments.training() | platform)
    seeds = range(1, arguments.rule_seeds + 1)
    with Progress(console=console) as progress:
        return compare(
            grid, rivals, arguments.rates, arguments.rule_epochs, seeds, records, progress
        )


# What is measured.


def measure_searches(runs: Sequence[Run], chance: float) -> dict[str, list[dict]]:
    """Return what each search came to, by strategy; the order is that of the seeds."""
    measures: dict[str, list[dict]] = {run.strategy: [] for run in runs}
    for run in runs:
        row = {"seed": run.seed} | run.measure(chance) | {"best": max(run.rewards)}
        measures[run.strategy].append(row)
    return measures


def rank(outcomes: Sequence[Outcome]) -> list[Result]:
    """Return what became of the rules, the best first."""
    results = rival_tables.measure(outcomes, RIVALS[REFERENCE].name, DISPLAY)
    return sorted(results, key=lambda result: -np.mean(result.values["final_test"]))


# What is shown.


def verdict(summary: Mapping[str, dict], results: Sequence[Result], rates: Sequence[float]) -> str:
    """Say whether the controller learns, which rules are better than Adam, and what to doubt."""
    mean, low, high = summary["ppo"]["minus_random"]["last_quarter"]
    rise = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return (
        f"In the last quarter, PPO's mean reward is {rise} random search's: "
        f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]. "
        f"{rival_tables.verdict(results, RIVALS[REFERENCE].name, DISPLAY)} "
        f"{rival_tables.edge_note(results, rates)}"
    )


def draw(
    runs: Sequence[Run], results: Sequence[Result], chance: float, title: str, path: Path
) -> None:
    """Draw the rewards over the samples, and the rules' differences to Adam."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    moving, best, differences = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    count = len(runs[0].rewards)
    window = min(WINDOW, count // 4)
    draw_rewards(moving, runs, lambda run: moving_mean(run.rewards, window))
    moving.set_ylabel(f"mean reward of the last {window} samples")
    draw_rewards(best, runs, lambda run: np.maximum.accumulate(run.rewards))
    best.set_ylabel("best reward so far")
    moving.legend(frameon=False, loc="center left")
    adam = float(np.mean([run.adam for run in runs]))
    # Of few seeds, the bands reach much farther.
    highest = max(adam, *(np.max(line.get_ydata()) for axes in figure.axes for line in axes.lines))
    for axes in (moving, best):
        for name, level in {"chance": chance, "Adam": adam}.items():
            axes.axhline(level, color="0.3", lw=0.8, ls=":")
            axes.annotate(name, (0, level), (2, 2), textcoords="offset points", color="0.3")
        axes.set(xlabel="samples", xlim=(0, count), ylim=(0, 1.15 * highest))
    draw_differences(differences, results)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def draw_rewards(axes, runs: Sequence[Run], curve) -> None:
    """Draw a curve of each strategy: the mean over its searches in a band of 95 %."""
    count = len(runs[0].rewards)
    for i, strategy in enumerate(STRATEGIES):
        curves = np.array([curve(run) for run in runs if run.strategy == strategy])
        mean, low, high = np.array([t_interval(column) for column in curves.T]).T
        samples = np.arange(count - len(mean), count) + 1
        axes.plot(samples, mean, color=f"C{i}", label=f"{strategy}, {len(curves)} searches")
        axes.fill_between(samples, low, high, color=f"C{i}", alpha=0.2, lw=0)


def draw_differences(axes, results: Sequence[Result]) -> None:
    """Draw each rule's difference to Adam with its interval, in the order of the results."""
    rivals = [result for result in reversed(results) if result.difference]
    mean, low, high = np.array([result.difference for result in rivals]).T
    places = np.arange(len(rivals))
    axes.errorbar(mean, places, xerr=(mean - low, high - mean), fmt="o", ms=4, lw=1.2, color="C0")
    axes.axvline(0, color="0.3", lw=0.8, ls=":")
    axes.set_yticks(places, [result.name for result in rivals], fontsize="small")
    # One rule that fails would leave no room for the others.
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks([sign * tick for sign in (-1, 1) for tick in TICKS] + [0])
    axes.set_xlim(min(1.3 * low.min(), -1), max(1.3 * high.max(), 1))  # the ticks widened it
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="x", labelsize="small")
    axes.set_xlabel("final test accuracy - Adam's, %, intervals of 95 %\n(logarithmic beyond 1)")


def run(arguments: Arguments, console: Console) -> None:
    """Run the searches and train the rules, print the tables and write the results."""
    start = time.perf_counter()
    select_devices(arguments.accelerator)
    images = read(arguments)
    runs, engine = search(arguments, images.dataset, console)
    searched = time.perf_counter() - start
    outcomes = train_rules(arguments, images, engine.trainer.lanes, console)
    seconds = time.perf_counter() - start

    measures = measure_searches(runs, engine.chance)
    summary, results = summarise(measures), rank(outcomes)
    sizes = (
        f"{arguments.dataset}, {len(images.dataset.train_images):,} training, "
        f"{len(images.dataset.validation_images):,} validation, {len(images.test_images):,} test "
        "images"
    )
    titles = (
        f"{sizes}. (a) {arguments.samples} samples, {arguments.searches} seeds: mean reward ± "
        "standard error; samples until its moving mean is a part of the way from chance to Adam "
        "(and in how many searches)",
        f"(b) {arguments.rule_epochs} epochs, {len(arguments.rates)} rates for each rule: "
        f"{DISPLAY.title}, mean ± standard error over fresh seeds",
    )
    tables = (
        learning_table(summary, titles[0]),
        rival_tables.results_table(
            results,
            RIVALS[REFERENCE].name,
            DISPLAY,
            PAPER_ACCURACIES,
            "table 6, wide ResNet, final validation",
        ),
    )
    text = verdict(summary, results, arguments.rates)
    console.print(tables[0], titles[1], tables[1], text)
    console.print(f"{searched:.0f} s searches, {seconds - searched:.0f} s rules")

    by_name = {outcome.rival.name: outcome for outcome in outcomes}
    content = {
        "arguments": {k: v for k, v in dataclasses.asdict(arguments).items() if k not in PATHS},
        **engine.facts,
        "seconds": {"searches": searched, "rules": seconds - searched},
        "searches": {"summary": summary, "runs": measures},
        "rules": rival_tables.content(results, [by_name[result.name] for result in results]),
    }
    sections = [f"{t}\n\n{markdown(table)}" for t, table in zip(titles, tables, strict=True)]
    write_results(arguments.results, arguments.name, content, "\n".join([*sections, f"{text}\n"]))
    lines = ({"strategy": r.strategy, "seed": r.seed, "rewards": r.rewards} for r in runs)
    stem = arguments.results / arguments.name
    stem.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw(runs, results, engine.chance, sizes, stem.with_suffix(".png"))


if __name__ == "__main__":
    command_line.main(
        run,
        PRESETS,
        key=lambda config: (config.dataset, config.scale),
        interrupted="interrupted; the same command goes on from here",
    )
