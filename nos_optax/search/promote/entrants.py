"""Who enters the funnel: the best rules of one or more searches that differ in what they do."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from nos_optax.grammar import Program, UpdateRule, decode
from nos_optax.grammar.program import pad_programs
from nos_optax.population import SuiteTrainer
from nos_optax.population.reference import reference_store
from nos_optax.search.finals import distinct
from nos_optax.search.judge import training_key
from nos_optax.search.loading import load_workloads
from nos_optax.search.probes import Probes
from nos_optax.search.reports.read import read_run
from nos_optax.search.reports.seeds import raced_rules
from nos_optax.search.run_folder import read_config
from nos_optax.search.strategies.niches import cleared


class Entrant(NamedTuple):
    """A rule that a search has found.

    Attributes:
        rule: in infix form.
        tokens: the words of its program.
        run: the folder of the search.
        candidate: its number there.
        low: the bound from below of its mean reward in the search.
        factor: its best learning rates in the search over those at which its first updates are as
            large as tuned Adam's, the geometric mean over the tasks.
    """

    rule: str
    tokens: str
    run: str
    candidate: int
    low: float
    factor: float

    def program(self) -> np.ndarray:
        """Return its tokens, `int32[G, 5]`."""
        return Program.from_words(self.tokens).array

    def update_rule(self) -> UpdateRule:
        """Return what its program computes: `rule`, as written, may need other tokens."""
        return decode(Program.from_words(self.tokens))


def best_of_runs(runs: Sequence[Path], count: int, devices: list[jax.Device]) -> list[Entrant]:
    """Return the best rules of searches, none of which does nearly what another or a rival does.

    The searches take turns, each with its next best by the bound from below, so that rewards of
    different tasks are not compared. Of rules that take nearly the same course (`Probes.courses`)
    the first enters: searches end in a hundred decorations of a few ideas.

    Raises:
        ValueError: a run has no rule to promote, or is of the paper's protocol, or all rules do
            what rivals do.
        OSError: a folder holds no run, or cannot be read.
    """
    turns = itertools.zip_longest(*(_best_of_run(run, count, devices) for run in runs))
    ranked = [entrant for turn in turns for entrant in turn if entrant is not None]
    tolerance = max(read_config(run).tolerance or 0.0 for run in runs)
    different = distinct(ranked, tolerance)
    if not different:
        raise ValueError(
            f"the best rules of {', '.join(map(str, runs))} do nearly what known optimizers do: go "
            "on with a run by --resume, or promote others"
        )
    longest = max(len(entrant.program()) for entrant in different)
    programs = np.stack([pad_programs(entrant.program(), longest) for entrant in different])
    first = cleared(Probes(longest).courses(programs), -np.arange(len(different)), capacity=1)
    return [different[i] for i in first[:count]]


def _best_of_run(run: Path, count: int, devices: list[jax.Device]) -> list[Entrant]:
    """Return more rules than will enter, as some will turn out to do what others do."""
    config, found = read_config(run), read_run(run)
    if config.protocol != "speed":
        raise ValueError(
            f"{run} was searched by the protocol {config.protocol}: its rewards are accuracies, "
            "which do not tell good rules apart; promote searches of the protocol speed"
        )
    raced = raced_rules(found)[: 4 * count]
    if not raced:
        raise ValueError(f"{run} has no rules to promote: go on with it by --resume")
    programs = [Program.from_words(rule.candidate.tokens).array for rule in raced]
    longest = max(map(len, programs))
    suite = SuiteTrainer(load_workloads(config), longest, devices, store=reference_store())
    centres = suite.centres(np.stack([pad_programs(program, longest) for program in programs]))
    entrants = []
    for rule, centre in zip(raced, centres, strict=True):
        candidate = rule.candidate
        assert candidate.origin is not None  # it has trained
        key = training_key(found.candidates[candidate.origin], config.reuse)
        best = np.array(found.trainings[key].sweep, float)
        factor = float(np.exp(np.mean(np.log(best / centre))))
        if np.isfinite(factor):
            words = candidate.rule, candidate.tokens, found.name, candidate.id
            entrants.append(Entrant(*words, rule.low, factor))
    return entrants
