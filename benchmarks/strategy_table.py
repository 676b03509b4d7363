"""Which strategy finds the best rules with the fewest trainings?

Question: how good is the best rule that a strategy has after so many distinct trainings, how much
          is that beside random search, and how does any other strategy do?
Method:   a space of 95,256 programs (`strategies/space.py`) is evaluated whole, once: programs
          whose updates are equal, or nearly, train once, each as in a search (seven rates, two
          seeds), on two tasks of the suite. Any strategy then searches in that table, in
          milliseconds, from --seeds random starts. Repeats and rejections are free: only distinct
          trainings count. A strategy that asks for nothing new in 100 populations stops. Regret is
          the reward of the best program of the space less that of the best found. Intervals are
          95 %, by resampling the starts. With 4,607 updates the space says nothing of budgets of
          thousands: after 1,000 trainings random search has found the best, too.
          --without hides operands: without adam and rmsprop, how many trainings does a strategy
          take until it has found something that is as good as Adam?
Command:  python benchmarks/strategy_table.py --measure       (once: an hour on 2 cores, resumable)
          python benchmarks/strategy_table.py
          python benchmarks/strategy_table.py --strategy evolution mymodule:MyStrategy
          python benchmarks/strategy_table.py --without adam rmsprop
Writes:   benchmarks/results/strategy_table.npz.xz with --measure; else .json, .md and .png, named
          strategy_table_without_adam_rmsprop with --without adam rmsprop
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from rich.progress import Progress
from strategies.pictures import draw_bands
from strategies.space import REJECTED, SPACE, TASKS, Table, programs, read_table, write_table

from nos_optax._command import make_console, one_message
from nos_optax._files import write_figure
from nos_optax.compare.records import Records, write_results
from nos_optax.grammar import SearchSpace
from nos_optax.population.accelerator import enable_compilation_cache, select_devices
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import LEAST, SEEDS, SuiteTrainer, load_suite
from nos_optax.search.probes import Behaviours, Probes
from nos_optax.search.strategies import STRATEGIES, make_strategy

RESULTS = Path(__file__).parent / "results"
POPULATION = 32  # programs that are asked for at a time
TOLERANCE = 0.02  # that of a search
CHUNK = 256  # updates between two records
PATIENCE = 100  # populations without anything new
RESAMPLES = 2_000
ADAM = 0.0  # the reward of a rule that is as good as tuned Adam


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Tell strategies apart on a space that is known whole."""

    strategy: tuple[str, ...] = tuple(STRATEGIES)
    """Names of nos_optax.search.STRATEGIES, or MODULE:CLASS."""
    measure: bool = False
    """Evaluate the space; what was done goes on."""
    seeds: int = 200
    """Random starts of each strategy."""
    trainings: tuple[int, ...] = (100, 200, 400)
    """Distinct trainings at which strategies are compared."""
    without: tuple[str, ...] = ()
    """Operands that no program may have."""
    out: Path = RESULTS
    """Where the results go."""
    records: Path = Path("runs/strategy_table.jsonl")
    """Where a measurement keeps what it has."""

    @property
    def space(self) -> SearchSpace:
        """What is searched: the space, or the part of it without some operands."""
        left = tuple(x for x in SPACE.operands if x not in self.without)
        if unknown := set(self.without) - set(SPACE.operands):
            raise ValueError(
                f"--without {' '.join(sorted(unknown))}: operands are {' '.join(SPACE.operands)}"
            )
        return dataclasses.replace(SPACE, operands=left)

    @property
    def name(self) -> str:
        """Of the files of the results."""
        return "_".join(["strategy_table", *(["without", *self.without] if self.without else [])])


# The table.


def measure(arguments: Arguments) -> None:
    """Evaluate every update of the space once, and write the table."""
    enable_compilation_cache()
    select_devices("cpu")
    console = make_console()
    rows, numbers = distinct_updates(programs())
    suite = SuiteTrainer(load_suite(TASKS), SPACE.iterations, store=reference_store())
    records = Records(arguments.records, {"updates": len(rows), "jax": jax.__version__})
    rewards = []
    with Progress(console=console) as bar:
        for first in bar.track(range(0, len(rows), CHUNK), description="updates"):
            kept = records.get({"first": first})
            if kept is None:
                found = suite.evaluate(rows[first : first + CHUNK])
                curve = np.where(np.isnan(found.curve), LEAST, found.curve)
                kept = {"rewards": curve.round(4).tolist()}
                records.append({"first": first}, kept)
                if bar.disable:
                    console.print(f"{first + len(curve)} of {len(rows)} updates")
            rewards += kept["rewards"]
    write_table(numbers, np.array(rewards, np.float32).reshape(len(rows), len(TASKS), SEEDS))


def distinct_updates(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one program `[D, 10]` of each update, and the number of each program's `[P]`."""
    behaviours, kept = Behaviours(TOLERANCE), []
    known: dict[str, int] = {}
    numbers = np.empty(len(rows), np.int32)
    for i, probed in enumerate(Probes(SPACE.iterations)(rows)):
        if probed.fingerprint not in known:
            known[probed.fingerprint] = REJECTED
            if probed.rejection is None:
                alike = behaviours.first_alike(probed.behaviour)
                if alike is None:
                    alike = len(kept)
                    kept.append(i)
                    behaviours.add(alike, probed.behaviour)
                known[probed.fingerprint] = alike
        numbers[i] = known[probed.fingerprint]
    return rows[kept], numbers


# The strategies.


class Search(NamedTuple):
    """A strategy from one start.

    Attributes:
        best: `[most + 1]`, the best reward after so many distinct trainings.
        samples: that it asked for.
        trained: distinct trainings.
    """

    best: np.ndarray
    samples: int
    trained: int


def search(name: str, space: SearchSpace, table: Table, seed: int, most: int) -> Search:
    """Let a strategy search in a part of the table's space."""
    strategy = make_strategy(name, space, seed)
    seen: set[int] = set()
    best, samples, idle = [LEAST], 0, 0
    while len(seen) < most and idle < PATIENCE:
        tokens = strategy.ask(POPULATION)
        numbers, rewards = table.look_up(tokens)
        samples, before = samples + len(tokens), len(seen)
        for number, reward in zip(numbers, rewards, strict=True):
            if number != REJECTED and number not in seen:
                seen.add(int(number))
                best.append(max(best[-1], float(reward)))
        idle = 0 if len(seen) > before else idle + 1
        strategy.tell(tokens, rewards)
    trained = len(best) - 1
    curve = np.array(best + [best[-1]] * (most - trained))[: most + 1]
    return Search(curve, samples, trained)


def compare(arguments: Arguments) -> None:
    """Run all strategies, print the table, draw the picture and write the results."""
    table, space, most = read_table(), arguments.space, max(arguments.trainings)
    numbers = table.numbers[space.allows(programs())]
    updates = np.unique(numbers[numbers != REJECTED])
    top, console = float(table.means[updates].max()), make_console()
    found: dict[str, list[Search]] = {}
    with Progress(console=console) as bar:
        for name in dict.fromkeys(("random", *arguments.strategy)):
            seeds = bar.track(range(arguments.seeds), description=name)
            found[name] = [search(name, space, table, seed, most) for seed in seeds]
    regrets = {
        name: np.array([[top - s.best[n] for n in arguments.trainings] for s in searches])
        for name, searches in found.items()
    }
    rows = {name: summary(name, found, regrets, arguments.trainings, top) for name in found}
    text = as_markdown(rows, arguments, (len(numbers), len(updates)), top)
    console.print(text, markup=False)
    write_results(arguments.out, arguments.name, {"best": top, "strategies": rows}, text)
    draw(found, top, arguments.out / f"{arguments.name}.png")


def summary(name: str, found, regrets, trainings, top: float) -> dict:
    """Return what is told of a strategy."""
    searches, beside = found[name], regrets["random"]
    row: dict = {
        "samples": float(np.mean([s.samples for s in searches])),
        "trained": float(np.mean([s.trained for s in searches])),
    }
    for i, n in enumerate(trainings):
        row[str(n)] = {
            "regret": float(regrets[name][:, i].mean()),
            "ratio_to_random": ratio(regrets[name][:, i], beside[:, i]),
        }
    randoms = float(np.mean([s.best[-1] for s in found["random"]]))
    row["reach_randoms_best"] = reach(searches, randoms)
    row["reach_adam"] = reach(searches, ADAM)
    return row


def reach(searches: list[Search], reward: float) -> dict:
    """Return how many searches find a rule with a reward, and after how many trainings half do."""
    first = np.array(
        [float(np.argmax(s.best >= reward)) if s.best[-1] >= reward else np.inf for s in searches]
    )
    median = float(np.median(first))
    return {
        "share": float(np.isfinite(first).mean()),
        "median_trainings": median if np.isfinite(median) else None,
    }


def ratio(ours: np.ndarray, others: np.ndarray) -> list[float]:
    """Return the ratio of two means and its interval of 95 %, by resampling."""
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=(RESAMPLES, len(x)))].mean(axis=1) for x in (ours, others)]
    ends = np.quantile(means[0] / np.maximum(means[1], 1e-9), (0.025, 0.975))
    return [float(ours.mean() / max(others.mean(), 1e-9)), *map(float, ends)]


def as_markdown(
    rows: dict[str, dict], arguments: Arguments, size: tuple[int, int], top: float
) -> str:
    """Return the table; the size is how many programs and updates there are."""
    heads = [f"regret after {n:,} | beside random's" for n in arguments.trainings]
    lines = [
        f"{size[0]:,} programs, {size[1]:,} distinct updates, the best "
        f"{top:+.3f} doublings; {arguments.seeds} starts of each strategy, populations of "
        f"{POPULATION}. Regret in doublings, the mean; its ratio to random's with 95 % intervals.",
        "",
        f"| strategy | {' | '.join(heads)} | trainings until random's last best | until as good as "
        "tuned Adam | samples |",
        "|---|" + "---|" * (2 * len(heads) + 3),
    ]
    for name, row in rows.items():
        cells = []
        for n in arguments.trainings:
            mean, low, high = row[str(n)]["ratio_to_random"]
            cells += [f"{row[str(n)]['regret']:.3f}", f"{mean:.2f} [{low:.2f}, {high:.2f}]"]
        for name_of in ("reach_randoms_best", "reach_adam"):
            median, share = row[name_of]["median_trainings"], row[name_of]["share"]
            half = f"more than {max(arguments.trainings)}" if median is None else f"{median:,.0f}"
            cells.append(f"{half} ({share:.0%} of starts)")
        cells.append(f"{row['samples']:,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, list[Search]], top: float, path: Path) -> None:
    """Draw the mean regret over the trainings, with the middle half of the starts."""
    bands, steps = {}, np.zeros(0)
    for name, searches in found.items():
        curves = top - np.array([s.best for s in searches])[:, 1:]
        steps = np.arange(1, curves.shape[1] + 1)
        bands[name] = curves.mean(axis=0), *np.quantile(curves, (0.25, 0.75), axis=0)
    label = "regret, doublings of Adam's training"
    figure, axes = draw_bands(bands, steps, label, opacity=0.15)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    write_figure(path, figure, dpi=150)


def main() -> None:
    """Measure the table, or compare strategies on it."""
    with one_message():
        arguments = tyro.cli(Arguments, description=Arguments.__doc__)
        (measure if arguments.measure else compare)(arguments)


if __name__ == "__main__":
    main()
