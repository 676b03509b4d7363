"""Does the controller learn on the paper's child, and are its rules better there? (figure 4)

Claim:    (a) on the child, the small ConvNet that rules are searched on, the controller's reward
          rises as more rules are sampled, and so does the best one (figure 4, section 5.1); it
          finds many different rules that do well there.
          (b) Among them are PowerSign and AddSign, with decays of the sign term, and the rules of
          table 6, which is of another network, a wide ResNet. Of accuracies on the child the paper
          gives none.
          (c) Larger bases of PowerSign converge faster, typically, with a minor loss at the end;
          and PowerSign and AddSign are robust to slight changes of their hyperparameters, the decay
          rates of the averages among them (section 5.1).
Paper:    of (a) a picture of the reward; of (c) no numbers.
Method:   (a) Searches with PPO and with random sampling, seed by seed on the same children, with
          equal samples, for each of --depths, the rules' iterations. Shown are the mean reward of
          the last samples and the best reward so far, means over the seeds in bands of 95 %, and
          how many different rules and updates were seen. The best of many single rewards flatters.
          --scale paper, and small on digits, have the paper's controller, which is made for tens of
          thousands of samples; small on CIFAR-10 has the default one, which learns in hundreds.
          --scale paper has depths 1 to 4, like the paper's trees, and 14,400 samples of each;
          as in all our searches, hopeless rules have the reward of chance untrained, and equal
          ones train once.
          (b) The common optimizers, both families without and with the decays ld and cd, and the
          five rules of table 6 with the best final validation accuracy. Each tries every learning
          rate with one seed to the end; the rate with the best validation accuracy at the end
          trains again with fresh seeds, and only these are reported. Differences to Adam are of the
          test accuracy at the end, as the validation images chose the rates; they are paired by
          seed (initial weights, order of the images), with t intervals of 95 % that are not
          corrected for their number and do not cover the choice of the images; which rules are
          better or worse is told by Holm's procedure. A diverged run counts as chance.
          (c) PowerSign with base 2, e, 4 and 10, and PowerSign and AddSign with b1, the decay rate
          of the average, 0.8, 0.9, 0.95 and 0.99. Each begins with rates 0.03, 0.1 and 0.3 and goes
          on half a decade beyond an end while its best one is that end. The level that is to be
          reached is chosen before any run: 0.9 of the way from chance to the mean last validation
          accuracy of the paper's hyperparameters, base e and b1 0.9. Steps to it are interpolated
          between four evaluations an epoch. Differences and tests as in (b), to these
          hyperparameters. Undecided is not equal: the intervals say how far apart they can be.
          --scale small has few images, where CIFAR-10 leaves 45,000. On CIFAR-10 it has too few
          samples for a controller to learn from (see compare_strategies.py).
Command:  python experiments/figure4_child.py
          python experiments/figure4_child.py --dataset cifar10 --data-dir DIR
          python experiments/figure4_child.py --scale smoke        (seconds; says nothing)
          The same command goes on where an interrupted one stopped.
Time:     digits, small: 80,000 samples, each 0.2 to 0.35 seconds of one core, by the time of 512: 2
          to 4 hours on 2 cores; the rules take a few minutes. paper: for accelerators, not run
          here.
Writes:   experiments/results/figure4_child_DATASET_SCALE.json, .md, .png and .jsonl (the rewards
          of every search)
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import compare_strategies
import numpy as np
from figure4 import hyperparameters as child
from harness import command_line, rival_tables
from harness.pictures import draw_band, draw_intervals
from harness.rival_tables import Result
from harness.study import Study
from harness.tables import interval_text, mean_text, text_table
from harness.tuning import HALF_DECADES, Outcome, Rival, Settings, compare, make_loop
from harness.vision import Images, child_task, read_cifar10, read_digits
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from strategies.measures import BASELINE, WINDOW, Run, moving_mean, summarise, write_rewards
from strategies.tables import LEARNING, learning_table

from nos_optax import rules
from nos_optax.compare.records import Records
from nos_optax.population import Dataset, Task
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
DEPTH_STYLES = ("-", "--", "-.", ":")
TICKS = (1, 3, 10, 30, 100)  # of a difference in the picture


@dataclasses.dataclass(frozen=True)
class Arguments(Study, compare_strategies.ImagesConfig):
    """Search rules on the paper's child, and compare the paper's rules on it."""

    experiment = "figure4_child"
    at_least = (("samples", 4), ("searches", 2), ("rule_epochs", 1), ("rule_seeds", 2))
    not_empty = ("rates",)

    validation_examples: int = 5000
    """Held-out images for the rewards and the choice of rates."""
    test_examples: int = 10_000
    """Other images, for what is reported of the rules."""
    samples: int = 14_400
    """Candidates of each search."""
    searches: int = 5
    """Searches with each strategy and depth, at least 2."""
    depths: tuple[int, ...] = (1, 2, 3, 4)
    """Iterations of the rules, 1 to 4: searches of each depth."""
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

    def __post_init__(self):
        super().__post_init__()
        if not self.depths or not set(self.depths) <= {1, 2, 3, 4}:
            raise ValueError(f"--depths must be of 1, 2, 3 and 4, got {self.depths}")
        unknown = [name for name in self.rules if name not in RIVALS]
        if unknown or REFERENCE not in self.rules:
            raise ValueError(
                f"--rules must be {REFERENCE} and others of {', '.join(RIVALS)}; "
                f"got {', '.join(self.rules)}"
            )

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"{self.experiment}_{self.dataset}_{self.scale}"

    def searching(self, depth: int) -> compare_strategies.Arguments:
        """Return the configuration of the searches of a depth."""
        task = {f.name: getattr(self, f.name) for f in dataclasses.fields(TaskConfig)}
        return compare_strategies.Arguments(
            **task,
            dataset=self.dataset,
            strategies=STRATEGIES,
            samples=self.samples,
            seeds=self.searches,
            batch_size=self.batch_size,
            preset=self.preset,
            iterations=depth,
            out=self.folder / f"searches-{depth}",
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
    depths=(2,),
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
        samples=20_000,
        searches=2,
        depths=(2,),
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
        depths=(2,),
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
) -> tuple[dict[int, list[Run]], LocalEngine]:
    """Run every search that is not done yet; return all by depth, and where they were evaluated."""
    configs = {depth: arguments.searching(depth) for depth in arguments.depths}
    iterations = max(*configs, STANDARD_ITERATIONS)
    config = configs[max(configs)].search_config(BASELINE, seed=0)
    engine = LocalEngine(config, iterations, [dataset])
    searches = {}
    for depth, config in configs.items():
        console.print(f"depth {depth}")
        searches[depth] = compare_strategies.run_searches(config, engine, console)
    return searches, engine


def make_task(arguments: Arguments, images: Images) -> Task:
    """Return the child's task, with the test images."""
    return child_task(images, select_devices(arguments.accelerator)[0])


def train_rules(
    arguments: Arguments, task: Task, lanes: int, console: Console
) -> tuple[list[Outcome], list[child.Row]]:
    """Return what became of every rule, and of PowerSign and AddSign with other numbers."""
    devices = select_devices(arguments.accelerator)
    rivals = [RIVALS[name] for name in arguments.rules]
    epochs, seeds = arguments.rule_epochs, range(1, arguments.rule_seeds + 1)
    loop = make_loop(task, arguments.minibatch_size, epochs, rivals, devices, lanes)
    config = arguments.training() | {"platform": devices[0].platform}

    def records(name: str) -> Records:
        return Records(arguments.folder / f"{name}.jsonl", config)

    steps = loop.loop.max_steps
    parts = epochs * child.evaluations(steps // epochs)
    settings = {rival.name: Settings(child.START, beyond=HALF_DECADES) for rival in child.RIVALS}
    with Progress(console=console) as progress:
        outcomes = compare(
            loop, rivals, arguments.rates, epochs, seeds, records("records"), progress
        )
        variants = compare(
            loop, child.RIVALS, settings, parts, seeds, records("hyperparameters"), progress
        )
    return outcomes, child.measure(variants, DISPLAY, steps // parts)


# What is measured.


def measure_searches(runs: Sequence[Run], chance: float) -> dict[str, list[dict]]:
    """Return what each search came to, by strategy; the order is that of the seeds."""
    measures: dict[str, list[dict]] = {run.strategy: [] for run in runs}
    for run in runs:
        row = {"seed": run.seed} | run.measure(chance) | {"best": max(run.rewards)}
        measures[run.strategy].append(row | count_different(run))
    return measures


def count_different(run: Run) -> dict[str, int]:
    """Return how many different rules a search wrote, and different updates it trained."""
    trained = [c for c in run.candidates if c.status == "trained"]
    return {
        "different_rules": len({c.digest for c in run.candidates}),
        "different_updates": len({c.fingerprint for c in trained}),
    }


def rank(outcomes: Sequence[Outcome]) -> list[Result]:
    """Return what became of the rules, the best first."""
    results = rival_tables.measure(outcomes, RIVALS[REFERENCE].name, DISPLAY)
    return sorted(results, key=lambda result: -np.mean(result.values["final_test"]))


# What is shown.


def different_table(measures: Mapping[str, Sequence[dict]]) -> Table:
    """Return the table of what searches of a depth found."""
    columns = {
        "best reward": ("best", 3),
        "different rules": ("different_rules", 0),
        "different updates": ("different_updates", 0),
        "rules as good as Adam": ("good_rules", 1),
        "updates as good as Adam": ("good_updates", 1),
    }
    return text_table(
        ("strategy", *(f"{column} ± se" for column in columns)),
        [
            (strategy, *(mean_text([r[key] for r in rows], n) for key, n in columns.values()))
            for strategy, rows in measures.items()
        ],
    )


def searches_verdict(summaries: Mapping[int, Mapping[str, dict]]) -> str:
    """Say whether the controller learns, for each depth."""
    said = []
    for depth, summary in summaries.items():
        rise_of_ppo = summary["ppo"]["minus_random"]["last_quarter"]
        _, low, high = rise_of_ppo[:3]
        rise = "above" if low > 0 else "below" if high < 0 else "not told apart from"
        said.append(
            f"Depth {depth}: in the last quarter, PPO's mean reward is {rise} random search's: "
            f"{interval_text(rise_of_ppo, 3)}."
        )
    return " ".join(said)


def rules_verdict(results: Sequence[Result]) -> str:
    """Say which rules are better than Adam, and what to doubt."""
    compared = rival_tables.verdict(results, RIVALS[REFERENCE].name, DISPLAY)
    return f"{compared} {rival_tables.edge_note(results)}"


def draw(
    searches: Mapping[int, Sequence[Run]],
    results: Sequence[Result],
    chance: float,
    title: str,
    path: Path,
) -> None:
    """Draw the rewards over the samples, and the rules' differences to Adam."""
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    moving, best, differences = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    every = [run for runs in searches.values() for run in runs]
    count = len(every[0].rewards)
    window = min(WINDOW, count // 4)
    draw_rewards(moving, searches, lambda run: moving_mean(run.rewards, window))
    moving.set_ylabel(f"mean reward of the last {window} samples")
    draw_rewards(best, searches, lambda run: np.maximum.accumulate(run.rewards))
    best.set_ylabel("best reward so far")
    moving.legend(frameon=False, loc="center left")
    adam = float(np.mean([run.adam for run in every]))
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


def draw_rewards(axes, searches: Mapping[int, Sequence[Run]], curve) -> None:
    """Draw a curve of each strategy and depth: the mean over its searches in a band of 95 %."""
    for style, (depth, runs) in zip(DEPTH_STYLES, searches.items(), strict=False):
        count = len(runs[0].rewards)
        for i, strategy in enumerate(STRATEGIES):
            curves = np.array([curve(run) for run in runs if run.strategy == strategy])
            look: dict[str, Any] = {"color": f"C{i}", "ls": style}
            look["label"] = f"{strategy}, depth {depth}, {len(curves)} searches"
            draw_band(axes, curves, count, "interval", **look)


def draw_differences(axes, results: Sequence[Result]) -> None:
    """Draw each rule's difference to Adam with its interval, in the order of the results."""
    known = {result.name: result.difference for result in results if result.difference}
    draw_intervals(axes, known)
    _, low, high, _ = np.array([*known.values()]).T
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
    searches, engine = search(arguments, images.dataset, console)
    searched = time.perf_counter() - start
    task = make_task(arguments, images)
    outcomes, rows = train_rules(arguments, task, engine.trainer.lanes, console)
    seconds = time.perf_counter() - start

    measures = {depth: measure_searches(r, engine.chance) for depth, r in searches.items()}
    summaries = {depth: summarise(of_depth) for depth, of_depth in measures.items()}
    results = rank(outcomes)
    tables = make_tables(arguments, measures, summaries, results, rows)
    notes = [searches_verdict(summaries), rules_verdict(results), child.verdict(rows)]
    sizes = (
        f"{arguments.dataset}, {len(images.dataset.train_images):,} training, "
        f"{len(images.dataset.validation_images):,} validation, {len(images.test_images):,} test "
        "images"
    )
    by_name = {outcome.rival.name: outcome for outcome in outcomes}
    content = {
        **engine.facts,
        "seconds": seconds,
        "seconds_of_the_searches": searched,
        "searches": {
            depth: {"summary": summaries[depth], "runs": measures[depth]} for depth in searches
        },
        "rules": rival_tables.content(results, [by_name[result.name] for result in results]),
        "hyperparameters": [row._asdict() | {"result": row.result._asdict()} for row in rows],
    }
    arguments.publish(console, sizes, tables, notes, content)
    every = [({"depth": depth}, one) for depth, runs in searches.items() for one in runs]
    write_rewards(arguments.picture.with_suffix(".jsonl"), every)
    draw(searches, results, engine.chance, sizes, arguments.picture)


def make_tables(
    arguments: Arguments,
    measures: Mapping[int, Mapping[str, Sequence[dict]]],
    summaries: Mapping[int, Mapping[str, dict]],
    results: Sequence[Result],
    rows: Sequence[child.Row],
) -> dict[str, Table]:
    """Return all tables, by their titles."""
    tables = {}
    for depth, summary in summaries.items():
        title = f"(a) Depth {depth}, {arguments.samples} samples, {arguments.searches} seeds"
        tables[f"{title}. {LEARNING}"] = learning_table(summary)
        tables[f"(a) Depth {depth}, what was found"] = different_table(measures[depth])
    tables[
        f"(b) {arguments.rule_epochs} epochs, {len(arguments.rates)} rates for each rule: "
        f"{DISPLAY.title}, mean ± standard error over fresh seeds"
    ] = rival_tables.results_table(
        results,
        RIVALS[REFERENCE].name,
        DISPLAY,
        PAPER_ACCURACIES,
        "table 6, wide ResNet, final validation",
    )
    tables["(c) Bases and averages, steps to the level and accuracies, %"] = child.table(
        rows, DISPLAY
    )
    return tables


if __name__ == "__main__":
    command_line.main(run, PRESETS, key=lambda config: (config.dataset, config.scale))
