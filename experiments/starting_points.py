"""Which learning rate and weight decay should one start from, coming from another optimizer?

Claim:    section 8.1: SGD's learning rate is usually a good first choice for PowerSign and AddSign.
          The paper's no more: who has a rate for Momentum or Adam wants to know what they need in
          its place, too, and whether their weight decay is another.
Method:   four tasks: the paper's child on digits, small MLPs on tables, one of two classes
          (docs/examples/breast_cancer.py) and one of squared errors (scikit-learn's diabetes), and
          an LSTM language model on Penn Treebank; --tasks also
          has CIFAR-10, which takes far longer. Five rules
          train at eleven rates from 1e-4 to 10, two a decade, without weight decay and with four
          (decoupled: w <- w - rate * (rule + decay * w)), each with three seeds. A rule's best rate
          has the highest mean validation score. The factor from one optimizer's rate to another's
          is the quotient of the two best rates, as geometric mean over the tasks. What such a
          factor is worth is measured on the task that had no part in it: the score at the rate that
          it gives there (the nearest of the eleven) less the score at the rule's best.
          The best pair of rate and weight decay is trained again with five fresh seeds, beside the
          best rate without, and the difference is paired by seed, with t intervals of 95 %, not
          corrected for their number.
          Momentum is the moving average m, of the paper: (1 - 0.9) times the sum that
          optax.trace(0.9) keeps, so of optax.sgd(rate, momentum=0.9) it is the one with ten times
          that rate.
Command:  python experiments/starting_points.py --ptb-dir DIR
          python experiments/starting_points.py --scale smoke    (seconds; says nothing)
Time:     a few minutes on 2 cores.
Writes:   experiments/results/starting_points_SCALE.json, .md and .png
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from harness import command_line
from harness.study import ROOT, SHARED, Study
from harness.tables import interval_text, text_table
from harness.tuning import Job, Rival, Trainer, make_loop
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nos_optax.compare.records import Records
from nos_optax.compare.statistics import difference
from nos_optax.population import Task, image_task, load_digits, paper_child
from nos_optax.search import select_devices

RULES = {
    "SGD": "g",
    "Momentum": "m",
    "Adam": "adam",
    "PowerSign": "exp(sign(g) * sign(m)) * g",
    "AddSign": "(1 + sign(g) * sign(m)) * g",
}
FROM, TO = ("SGD", "Momentum", "Adam"), ("PowerSign", "AddSign")
RATES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-8, 3))
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Measure where the best learning rates and weight decays of optimizers lie to each other."""

    experiment = "starting_points"
    at_least = (("seeds", 2), ("fresh_seeds", 2))

    scale: Literal["small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    tasks: tuple[str, ...] = ("digits", "table", "regression", "Penn Treebank")
    """At least two of digits, CIFAR-10, table, regression, Penn Treebank."""
    data_dir: Path | None = None
    """TensorFlow Datasets folder with a prepared cifar10 (default: ~/tensorflow_datasets)."""
    ptb_dir: Path = SHARED / "data" / "ptb"
    """Folder of ptb.train.txt, ptb.valid.txt and ptb.test.txt."""
    seeds: int = 3
    """For the choice of the best rate and decay; at least 2."""
    fresh_seeds: int = 5
    """For what the decay brings; at least 2."""
    length: float = 1.0
    """Of the trainings, as a factor."""

    def __post_init__(self):
        super().__post_init__()
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown or len(set(self.tasks)) < 2:
            raise ValueError(
                f"--tasks must be at least two of {', '.join(TASKS)}; got {', '.join(self.tasks)}"
            )


# Tasks: each with its minibatch and its epochs.

Made = tuple[Task, int, int]


def digits(arguments: Arguments) -> Made:
    """Return the paper's child on handwritten digits."""
    data = load_digits()
    return image_task(data, paper_child(data)), 50, 10


def cifar10(arguments: Arguments) -> Made:
    """Return the paper's child on 1,000 images of CIFAR-10."""
    from nos_optax.population.cifar10 import load_cifar10

    data = load_cifar10(arguments.data_dir, train_examples=1000, validation_examples=1000)
    return image_task(data, paper_child(data)), 50, 6


def table(arguments: Arguments) -> Made:
    """Return the MLP of the documentation's example."""
    sys.path.insert(0, str(ROOT.parent / "docs" / "examples"))
    import breast_cancer  # ty: ignore[import-not-found]

    return breast_cancer.task(), 20, 10


def regression(arguments: Arguments) -> Made:
    """Return an MLP that predicts the progress of diabetes; the score is the negative error."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = (a[rows].astype(np.float32) for a in (x, y))
    x, y = ((a - a[:300].mean(axis=0)) / a[:300].std(axis=0) for a in (x, y))
    layers = (10, 32, 32, 1)

    def init(key):
        keys = jax.random.split(key, len(layers) - 1)
        shapes = zip(keys, layers[:-1], layers[1:], strict=True)
        weights = [jax.random.normal(k, (n, m)) / n**0.5 for k, n, m in shapes]
        return [(w, jnp.zeros(w.shape[1])) for w in weights], ()

    def predict(params, x):
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = params[-1]
        return (x @ w + b)[:, 0]

    def loss(params, state, batch, key):
        return jnp.mean((predict(params, batch[0]) - batch[1]) ** 2), state

    def negative_error(params, state, batch):
        return -((predict(params, batch[0]) - batch[1]) ** 2)

    train, validation = (x[:300], y[:300]), (x[300:], y[300:])
    task = Task("diabetes", init, loss, negative_error, train, validation, chance=-1.5, perfect=0.0)
    return task, 20, 20


def penn_treebank(arguments: Arguments) -> Made:
    """Return an LSTM of 32 units on 20,000 words, the 500 most frequent told apart."""
    import table5_ptb

    settings = dataclasses.replace(
        table5_ptb.PRESETS["small"],
        data_dir=arguments.ptb_dir,
        vocabulary=500,
        train_words=20_000,
        evaluation_words=10_000,
        units=32,
    )
    return table5_ptb.make_task(settings, table5_ptb.read(settings)), settings.batch, 4


TASKS: Mapping[str, Callable[[Arguments], Made]] = {
    "digits": digits,
    "CIFAR-10": cifar10,
    "table": table,
    "regression": regression,
    "Penn Treebank": penn_treebank,
}


# Training.


def decayed(rule: str, decay: float) -> str:
    """Return a rule with decoupled weight decay."""
    return rule if decay == 0 else f"{rule} + {decay:g} * w"


def measure(
    name: str, made: Made, arguments: Arguments, records: Records, progress: Progress
) -> dict:
    """Return the scores of all rules, rates and decays on a task, and what the decay brings."""
    task, batch, epochs = made
    devices = select_devices(arguments.accelerator)
    # A rule with a weight decay is another rule, which is named after the task too: they share a
    # file of records.
    rivals = {
        (r, c): Rival(f"{name}: {r}, {c:g}", decayed(RULES[r], c)) for r in RULES for c in DECAYS
    }
    epochs = max(1, round(epochs * arguments.length))
    loop = make_loop(task, batch, epochs, list(rivals.values()), devices)
    trainer = Trainer(loop, {r.name: r for r in rivals.values()}, 1, records, progress)

    def scores(
        stage: str, settings: Iterable[tuple[str, float, float]], seeds: range
    ) -> np.ndarray:
        """Return the last validation scores; of a training that diverged the level of chance."""
        jobs = [Job(rivals[r, c].name, rate, 0.0, s) for r, rate, c in settings for s in seeds]
        last = np.array([training.validation[-1] for training in trainer.train(stage, jobs)])
        return np.where(np.isnan(last), task.chance, last).reshape(-1, len(seeds))

    grid = [(rule, rate, decay) for decay in DECAYS for rule in RULES for rate in RATES]
    mean = scores(name, grid, range(arguments.seeds)).mean(axis=1)
    mean = mean.reshape(len(DECAYS), len(RULES), len(RATES))
    best = {rule: RATES[int(mean[0, i].argmax())] for i, rule in enumerate(RULES)}
    pairs = [divmod(int(mean[:, i].argmax()), len(RATES)) for i in range(len(RULES))]
    chosen = {rule: (RATES[k], DECAYS[j]) for rule, (j, k) in zip(RULES, pairs, strict=True)}
    seeds = range(1000, 1000 + arguments.fresh_seeds)
    plain = scores(f"{name}, fresh", [(rule, best[rule], 0.0) for rule in RULES], seeds)
    with_decay = scores(f"{name}, fresh", [(rule, *chosen[rule]) for rule in RULES], seeds)
    return {
        "metric_chance": task.chance,
        "mean": mean,
        "best_rate": best,
        "best_pair": chosen,
        "fresh_plain": plain,
        "fresh_decayed": with_decay,
        "gain": {r: difference(with_decay[i], plain[i]) for i, r in enumerate(RULES)},
    }


# What is shown.


def nearest(rate: float) -> int:
    """Return the index of the nearest rate of those tried."""
    return int(np.abs(np.log(np.array(RATES) / rate)).argmin())


def factors(measured: Mapping[str, dict], old: str, new: str) -> dict:
    """Return the factor from an optimizer's best rate to another's, and what it is worth.

    Returns:
        `ratios` of each task, their geometric mean `factor`, and `regret`: on each task, the score
        that is lost at the rate which the factor of the other tasks gives.
    """
    ratios = {t: m["best_rate"][new] / m["best_rate"][old] for t, m in measured.items()}
    row, regret = list(RULES).index(new), {}
    for name, task in measured.items():
        others = [np.log(ratio) for other, ratio in ratios.items() if other != name]
        rate = task["best_rate"][old] * float(np.exp(np.mean(others)))
        scores = np.asarray(task["mean"])[0, row]
        regret[name] = float(scores.max() - scores[nearest(rate)])
    factor = float(np.exp(np.mean(np.log(list(ratios.values())))))
    return {"ratios": ratios, "factor": factor, "regret": regret}


def tables(measured: Mapping[str, dict]) -> dict[str, Table]:
    """Return the tables: best rates, factors, what the weight decay brings."""
    names, tasks = list(measured), list(measured.values())
    best = [
        [rule, *(f"{m['best_rate'][rule]:g} ({np.max(m['mean'][0][i]):.3f})" for m in tasks)]
        for i, rule in enumerate(RULES)
    ]
    moves = [
        [
            f"{old} to {new}",
            f"{found['factor']:.2g}",
            *(f"{found['ratios'][t]:.2g} (-{found['regret'][t]:.3f})" for t in measured),
        ]
        for old in FROM
        for new in TO
        for found in [factors(measured, old, new)]
    ]
    decays = [[rule, *(_decay_cell(m, rule) for m in tasks)] for rule in RULES]
    return {
        "Best rate without weight decay (mean score)": text_table(("rule", *names), best),
        "Factor on the rate: mean; on each task (score lost by the others' mean)": text_table(
            ("from, to", "factor", *names), moves
        ),
        "Best weight decay at its rate: gain on fresh seeds over none [95 %]": text_table(
            ("rule", *names), decays
        ),
    }


def _decay_cell(task: dict, rule: str) -> str:
    rate, decay = task["best_pair"][rule]
    return f"{decay:g} at {rate:g}: {interval_text(task['gain'][rule], 3)}"


def draw(measured: Mapping[str, dict], path: Path) -> None:
    """Draw the score over the rate, without weight decay, a panel a task."""
    figure = Figure(figsize=(3.6 * len(measured), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measured)))
    for axes, (name, task) in zip(panels, measured.items(), strict=True):
        for i, rule in enumerate(RULES):
            # What is worse than chance has diverged, however far.
            scores = np.maximum(np.asarray(task["mean"])[0, i], task["metric_chance"])
            axes.plot(RATES, scores, "-", color=f"C{i}", lw=1.5, label=rule)
            axes.plot(RATES[scores.argmax()], scores.max(), "o", color=f"C{i}", ms=5)
        axes.set(xscale="log", xlabel="learning rate", title=name)
    panels[0].set_ylabel("mean validation score, at least chance")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments(
        scale="smoke", tasks=("digits", "table"), seeds=2, fresh_seeds=2, length=0.1
    ),
}


def run(arguments: Arguments, console: Console) -> None:
    """Measure all tasks, print the tables and write the results."""
    devices = select_devices(arguments.accelerator)
    made = {name: TASKS[name](arguments) for name in arguments.tasks}  # says what data is missing
    platform = {"platform": devices[0].platform}
    records = Records(arguments.folder / "records.jsonl", arguments.measured() | platform)
    with Progress(console=console) as progress:
        measured = {
            name: measure(name, task, arguments, records, progress) for name, task in made.items()
        }
    content = {
        "rates": RATES,
        "decays": DECAYS,
        "seconds": records.seconds,
        "tasks": measured,
        "factors": {f"{o} to {n}": factors(measured, o, n) for o in FROM for n in TO},
    }
    title = f"Rates and weight decays on {', '.join(measured)}"
    arguments.publish(console, title, tables(measured), [], content)
    draw(measured, arguments.picture)


if __name__ == "__main__":
    command_line.main(run, PRESETS)
