"""Is what a search found better than what one would use without it, on tasks that it never saw?

Question: the claim that matters to a user is not a reward. A rule is a discovery if it is better
          than tuned Adam on tasks that had no part in finding it, and above what tuning alone
          makes of Adam (`adam_ceiling.py`).
Method:   the funnel of `nos_optax.search.promote` (the paper's own route, section 5.1): the best
          rules of the runs train on the suite's tasks made ten times as large, the less promising
          stop early, and what comes through is simplified. The test tasks, six of other kinds, are
          those of `held_out`, which says how they were chosen. There every rival has the same
          budget: seven rates half a decade apart, around that at which its first updates are as
          large as tuned Adam's, and more while the best is at an end; two seeds; and eight fresh
          ones at the best rate, which alone are compared, by paired differences with Holm's
          procedure over all rivals. The rivals are those of `nos_optax.search.rivals` and Adam or
          NAdam with the constants that the ceiling's search found. --rivals names some of them, for
          a first look where they take hours; what they trained stands when the others follow.
Command:  python experiments/discover.py --runs runs/a runs/b --data-dir DIR
          python experiments/discover.py --scale smoke       (searches itself; says nothing)
          DIR holds the folders tensorflow_datasets, ptb and multi30k. The same command goes on
          where an interrupted one stopped.
Time:     small: half an hour for the funnel, some hours for the test tasks, on 2 cores.
Writes:   experiments/results/discovery_SCALE: promotion.md, .json, .svg, and the comparison of the
          test tasks, results.md, .json and .svg. `trainings` and `references` there have what was
          measured on the test tasks so far, and what of it is wanted again is taken from there.
"""

import dataclasses
import json
import lzma
import shutil
from pathlib import Path
from typing import Literal

import adam_ceiling
from harness import command_line
from held_out import HELD_OUT
from rich.console import Console

from nos_optax._files import slug, write_whole
from nos_optax.compare import Rival
from nos_optax.compare.command import show
from nos_optax.population.accelerator import enable_compilation_cache
from nos_optax.population.reference import reference_store
from nos_optax.population.suite import LARGER
from nos_optax.search import SearchConfig, run_search
from nos_optax.search.promote import promote
from nos_optax.search.rivals import ALL_RIVALS, BASELINE

CEILING = Path(__file__).parent / "results" / "adam_ceiling_small.json"
PUBLISHED = {"": "promotion", "test": "results"}  # by folder


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Promote the best rules of searches, and compare them on tasks that they never saw."""

    scale: Literal["small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    runs: tuple[Path, ...] = ()
    """Folders of searches."""
    data_dir: Path = Path(__file__).parents[2] / "shared" / "data"
    """Holds the folders tensorflow_datasets, ptb and multi30k."""
    task: tuple[str, ...] = tuple(LARGER)
    """Of the funnel."""
    test: tuple[str, ...] = tuple(HELD_OUT)
    """Of the claim: names of held_out's, or of embedded tasks."""
    rules: int = 24
    """How many enter the funnel."""
    promoted: int = 3
    """How many come through."""
    seeds: int = 3
    """Of the funnel."""
    test_seeds: int = 8
    """Fresh ones of the claim."""
    rivals: tuple[str, ...] = ()
    """Of the claim, by their names in its tables (default: all)."""
    out: Path = Path("runs/discovery")
    """Folder of all trainings."""
    results: Path = Path(__file__).parent / "results"
    """Where the results go."""

    @property
    def published(self) -> Path:
        """The folder of the results."""
        return self.results / f"discovery_{self.scale}"


PRESETS = {
    "small": Arguments(),
    "smoke": Arguments(
        "smoke",
        task=("table",),
        test=("friedman-table",),
        rules=2,
        promoted=1,
        seeds=2,
        test_seeds=2,
    ),
}


def rivals(names: tuple[str, ...] = ()) -> dict[str, str | Rival]:
    """Return all that a claim is made against, or Adam and those of some names.

    Raises:
        ValueError: there is none of a name.
    """
    everyone = all_rivals()
    if unknown := set(names) - set(everyone):
        raise ValueError(f"--rivals {', '.join(sorted(unknown))}: there are {', '.join(everyone)}")
    return {name: everyone[name] for name in everyone if name in (BASELINE, *(names or everyone))}


def all_rivals() -> dict[str, str | Rival]:
    """Return all that a claim is made against."""
    if not CEILING.exists():
        return {**ALL_RIVALS}
    best = json.loads(CEILING.read_text())["best"]
    constants = {name: best.get(name, 1.0) for name in ("b1", "b2", "eps", "floor")}
    words = ", ".join(f"{name} {value:.4g}" for name, value in constants.items())

    def optimizer(rate, total_steps: int):
        return adam_ceiling.decayed(best["kind"], total_steps, rate, **constants)

    tuned = Rival("tuned", f"{best['kind']}, {words}", optimizer)
    return {**ALL_RIVALS, f"{best['kind']}, tuned constants": tuned}


def places(a: Arguments) -> dict[Path, Path]:
    """Return the folders of what was measured on test tasks, and where the repository keeps it."""
    enable_compilation_cache()
    found = {a.out / "test" / "trainings": a.published / "trainings"}
    if (store := reference_store()) is not None:
        found[store] = a.published / "references"
    return found


def recall(a: Arguments) -> None:
    """Take up what the repository has measured, where less of it is there."""
    for folder, kept in places(a).items():
        for file in kept.glob("*.xz"):
            content, here = lzma.decompress(file.read_bytes()), folder / file.stem
            if not here.exists() or here.stat().st_size < len(content):
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(here, content)


def keep(a: Arguments) -> None:
    """Give the repository what was measured on the test tasks, the latest of each alone.

    Others are of another version of a task, or of another program's, which share the cache.
    """
    for folder, kept in places(a).items():
        for task in a.test:
            patterns = f"{slug(task)}_*.jsonl", f"adam_{slug(task)}_*.json"
            found = [file for pattern in patterns for file in folder.glob(pattern)]
            if not found:
                continue
            latest = max(found, key=lambda file: file.stat().st_mtime)
            kept.mkdir(parents=True, exist_ok=True)
            for old in (file for pattern in patterns for file in kept.glob(f"{pattern}.xz")):
                old.unlink()
            write_whole(kept / f"{latest.name}.xz", lzma.compress(latest.read_bytes()))


def search_a_little(out: Path) -> Path:
    """Return the folder of a search of a few trainings."""
    config = SearchConfig(task=("table",), trainings=6, race=2, finalists=0, watch=(), out=out)
    run_search(dataclasses.replace(config, resume=out.exists()))
    return out


def run(arguments: Arguments, console: Console) -> None:
    """Promote, compare and publish."""
    a = arguments
    runs = a.runs or ((search_a_little(a.out / "run"),) if a.scale == "smoke" else ())
    if not runs:
        raise ValueError("name at least one folder of a search by --runs")
    recall(a)
    tests = [HELD_OUT[name](a.data_dir) if name in HELD_OUT else name for name in a.test]
    try:
        found = promote(
            runs,
            a.task,
            rules=a.rules,
            promoted=a.promoted,
            seeds=a.seeds,
            test=tests,
            test_seeds=a.test_seeds,
            rivals=rivals(a.rivals) if a.scale != "smoke" else {"Adam": "adam"},
            out=a.out,
            accelerator="cpu",
        )
    finally:
        keep(a)
    assert found.comparison is not None
    show(found.comparison, a.out / "test", console)
    console.print(found.sentence())
    for folder, name in PUBLISHED.items():
        for suffix in ("md", "json", "svg"):
            shutil.copyfile(a.out / folder / f"{name}.{suffix}", a.published / f"{name}.{suffix}")
    funnel = a.published / "promotion.md"
    funnel.write_text(funnel.read_text().replace("(test/results.md)", "(results.md)"))


if __name__ == "__main__":
    command_line.main(run, PRESETS)
