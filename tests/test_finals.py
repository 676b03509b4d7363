"""The end of a search: what is said of its best rule, and who is compared."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from fake_engine import FakeEngine

from nos_optax.compare import Comparison, Row, as_rival
from nos_optax.compare.results import ALL_TASKS, BETTER, UNDECIDED, WORSE
from nos_optax.compare.statistics import Difference
from nos_optax.grammar import Program, encode, parse
from nos_optax.grammar.program import pad_programs
from nos_optax.search import History, SearchConfig, finals
from nos_optax.search.finals import BASELINE, RIVALS, as_results, finalists, verdict
from nos_optax.search.history import FILE, Candidate
from nos_optax.search.probes import Probes
from nos_optax.search.race import Race


def padded(words: str) -> np.ndarray:
    """Return a program of one iteration, padded to three."""
    return pad_programs(Program.from_words(words).array, 3)


def a_row(task, name, what="adam", mean=0.0, **changes) -> Row:
    return dataclasses.replace(
        Row(task, name, what, 0.1, (), True, (mean,) * 3, mean, 0.1, 3, 3, 1.0, 1.0), **changes
    )


def comparison(outcome: str, tasks=("a", "b")) -> Comparison:
    rows = []
    for number, task in enumerate((ALL_TASKS, *tasks) if len(tasks) > 1 else tasks):
        change = Difference(0.2 - 0.3 * number, -0.1, 0.4, 0.01)
        rows.append(a_row(task, BASELINE))
        rows.append(a_row(task, "Lion", "optax.lion", mean=0.1, difference=change, verdict=WORSE))
        rows.append(a_row(task, "found 1", "sign(m)", difference=change, verdict=outcome))
    return Comparison("speed", BASELINE, tuple(rows), {})


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (BETTER, "trains faster than tuned Adam, by +0.20 [-0.10, +0.40] doublings"),
        (WORSE, "trains more slowly than tuned Adam, by +0.20"),
        (UNDECIDED, "is not told apart from tuned Adam: +0.20"),
    ],
)
def test_a_search_says_in_words_what_it_found(outcome, words):
    said = verdict(comparison(outcome))
    assert said.startswith(f"found 1, sign(m), {words}")
    assert "Holm over 2 rivals, n = 3" in said
    assert f"does least on b: -0.40 [-0.10, +0.40], {outcome}" in said
    assert "least" not in verdict(comparison(outcome, tasks=("a",)))


def test_finalists_are_no_rivals_by_another_name(tmp_path):
    texts = {
        "adam": "adam g x x left",
        "m": "m g x x left",
        "ld * adam": "ld adam x x *",
        "2 * adam": "adam 2 x x *",
    }
    found = Probes(3)(np.stack([padded(words) for words in texts.values()]))
    candidates = [
        Candidate(i, rule, words, rule, probed.fingerprint, i, 1.0 - i / 10, 0.1, "trained", None)
        for i, ((rule, words), probed) in enumerate(zip(texts.items(), found, strict=True))
    ]
    history = History(tmp_path / FILE)
    race = Race(SearchConfig(), history, FakeEngine())
    race.settle(candidates, race=False)
    assert [c.rule for c in finalists(race)] == ["m"], "Adam, and with a decay, are rivals"
    rows = [a_row(ALL_TASKS, name, as_rival(text).what) for name, text in RIVALS.items()]
    rows.append(a_row(ALL_TASKS, "found 1", "m", mean=0.3))
    results = as_results(Comparison("speed", BASELINE, tuple(rows), {}), race)
    named = {result.name: result for result in results}
    assert named["found 1"].searched == pytest.approx(0.9) and named["found 1"].tokens == texts["m"]
    assert named["Lion"].tokens == "" and named["Lion"].searched is None
    assert named["PowerSign"].tokens.startswith("sign(g) sign(m)")
    history.close()


def test_a_finalist_trains_by_its_program_and_not_by_what_is_written(monkeypatch, tmp_path):
    """A rule's shortest form may have numbers that no token is, or take another iteration."""
    program = encode("(sqrt(-cd * rmsprop) - clip(2, 1e-5)) * clip(adam, 1e-5)", 3)
    written = "clip(adam, 1e-5) * (sqrt(cd * rmsprop) - 1e-5)"
    found = Candidate(0, written, str(program), "d", "f", 0, 0.5, 0.1, "trained", None)
    asked = {}
    monkeypatch.setattr(finals, "halve", lambda race: None)
    monkeypatch.setattr(finals, "finalists", lambda race: [found])
    monkeypatch.setattr(finals, "compare", lambda rivals, *args, **kw: asked.update(r=rivals))
    suite = SimpleNamespace(workloads=[])
    finals.speed_finals(None, SearchConfig(), (), tmp_path, suite=suite)
    rival = asked["r"][-1]
    assert (rival.name, rival.what) == ("found 1", written)
    assert rival.program().shape == (3, 5)
    assert rival.optimizer.digest == parse(written).digest
