"""Run folders for the tests of reports: searches that train nothing, and folders by hand."""

import dataclasses

from fake_engine import FakeEngine

from nos_optax.search import SearchConfig, run_search
from nos_optax.search.history import Candidate
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
