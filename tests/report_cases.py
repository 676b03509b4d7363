"""Run folders for the tests of reports: searches that train nothing, and folders by hand."""

import dataclasses
import json

from fake_engine import FakeEngine

from nos_optax.search import SearchConfig, run_search
from nos_optax.search.history import Candidate, Watched
from nos_optax.search.run_folder import RunFolder

CONFIG = SearchConfig(
    protocol="paper",
    samples=96,
    batch_size=32,
    strategy="random",
    finalists=2,
    final_seeds=3,
    accelerator="cpu",
)
INVALID = "<script>alert('no')</script>&\"'</script>"


def search(path, **changes):
    config = dataclasses.replace(CONFIG, out=path, **changes)
    run_search(config, engine=FakeEngine())
    return path


def by_hand(path, candidates, config=CONFIG, facts=None):
    """Write a run folder that never came to its end."""
    config = dataclasses.replace(config, out=path)
    with RunFolder(config) as folder:
        folder.write_config(config, {"dataset": "by hand"} | (facts or {}))
        folder.history.add_candidates(candidates)
    return path


def candidate(number, rule="g", reward=0.5, status="trained", **changes):
    made = Candidate(number, rule, "g m x x left", rule, rule, number, reward, 0.1, status, None)
    return dataclasses.replace(made, **changes)


def speed_search(path, **changes):
    """Run a search that races, of which nothing is compared."""
    config = SearchConfig(
        protocol="speed",
        task=("digits-mlp", "characters"),
        samples=64,
        batch_size=32,
        iterations=1,
        strategy="random",
        race=4,
        finalists=0,
        accelerator="cpu",
    )
    config = dataclasses.replace(config, out=path, **changes)
    run_search(config, engine=FakeEngine())
    return path


def compared(name, difference, verdict):
    """Return a row of `finals/results.json`; of the baseline without a difference."""
    ends = None if difference is None else [difference - 0.1, difference + 0.1]
    known = {"name": name, "what": name, "mean": 0.0, "scores": [0.0, 0.1], "inside": True}
    return known | {"difference": difference, "interval": ends, "verdict": verdict}


FINALS = {
    "measure": "speed",
    "baseline": "Adam",
    "tasks": {
        "all tasks": {
            "sentence": "all tasks: against Adam: better: found 1 (+0.25 [+0.15, +0.35]).",
            "rivals": [
                compared("found 1", 0.25, "better"),
                compared("Adam", None, "baseline"),
                compared("NAdam", 0.002, "undecided"),
            ],
        },
        "digits-mlp": {
            "sentence": "digits-mlp: against Adam: better: found 1.",
            "rivals": [
                compared("found 1", 1.125, "better"),
                compared("Adam", None, "baseline"),
                compared("NAdam", -0.5, "worse"),
            ],
        },
        "characters": {
            "sentence": "characters: against Adam: worse: found 1.",
            "rivals": [
                compared("NAdam", 0.504, "better"),
                compared("Adam", None, "baseline"),
                compared("found 1", -0.625, "worse"),
            ],
        },
    },
    "notes": ["The best learning rate is at an end of those tried."],
}


def finished_speed_search(path, finals=FINALS, watched=((1, 0.5), (2, -0.25))):
    """Return the folder of a search that raced, watched two tasks, and was compared at its end."""
    speed_search(path, watch=("transformer", "table"))
    config = SearchConfig(**{**_begun(path), "out": path, "resume": True})
    with RunFolder(config) as folder:
        best = max(folder.history.candidates(), key=lambda c: c.reward)
        for number, reward in watched:
            row = Watched(number, 100 * number, best.rule, 0.5, 0.25, (reward, -reward))
            folder.history.add_watched(row)
        found = {"name": "found 1", "rule": best.rule, "tokens": best.tokens, "searched": 0.5}
        nadam = {"name": "NAdam", "rule": "optax.nadam", "tokens": "", "searched": None}
        scores = {"rewards": [0.2, 0.3], "statuses": ["trained", "trained"]}
        folder.write_json("results.json", [found | scores, nadam | scores])
    (path / "finals").mkdir()
    (path / "finals" / "results.json").write_text(json.dumps(finals))
    return path


def _begun(path):
    return json.loads((path / "config.json").read_text())["config"]
