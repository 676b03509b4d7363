"""Reports: what is in the page, and what may not be."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import random
import re
import shutil
import sqlite3
import sys
import xml.etree.ElementTree as xml
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_engine import FakeEngine
from report_cases import (
    CONFIG,
    FINALS,
    INVALID,
    by_hand,
    candidate,
    compared,
    finished_speed_search,
    search,
    speed_search,
)

import nos_optax
from nos_optax import report
from nos_optax.grammar import Program, SearchSpace, decode
from nos_optax.grammar.vocabulary import OPERANDS
from nos_optax.search import SearchConfig, run_search
from nos_optax.search.history import History, Training, Watched
from nos_optax.search.judge import seed_key
from nos_optax.search.race import Race
from nos_optax.search.reports import read_run, write_comparison, write_report
from nos_optax.search.reports.charts import charts
from nos_optax.search.reports.layout import WIDTH, layout, width_of
from nos_optax.search.reports.marks import Chart, Panel, line
from nos_optax.search.reports.mathematics import mathml
from nos_optax.search.reports.page import results_html, run_page
from nos_optax.search.reports.seeds import raced_rules, seed_counts
from nos_optax.search.reports.statistics import (
    families,
    in_decades,
    rate_counts,
    running_quantiles,
    t_interval,
    token_shares,
)
from nos_optax.search.run_folder import RunFolder, read_candidates

VOID = {"meta", "link", "br", "input", "col"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = search(tmp_path_factory.mktemp("runs") / "run")
    write_report(path)
    return path


class Page(HTMLParser):
    """What a browser finds in a page, but for what it runs."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.open, self.scripts, self.words = [], [], [], [], []
        self.elements = Counter()
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements[tag] += 1
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[n] for n in ("href", "src", "xlink:href") if n in attributes]
        self.links += [f"#{i}" for i in attributes.get("aria-labelledby", "").split()]
        self.links += re.findall(r"url\(([^)]*)\)", " ".join(v or "" for v in attributes.values()))
        assert not any(name.startswith("on") for name in attributes), attributes
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def rows(self):
        return json.loads(self.scripts[0])


# What is in it.


def test_the_page_holds_what_the_folder_does(run):
    page = Page(run / "report.html")
    candidates = read_candidates(run)
    assert [row[:4] for row in page.rows] == [
        [c.id, c.rule, c.reward, c.status] for c in candidates
    ]
    assert [row[5] for row in page.rows] == [c.origin for c in candidates]
    results = json.loads((run / "results.json").read_text())
    assert len(results) == 8
    for result in results:
        low, high = t_interval(result["rewards"])
        for word in (result["name"], result["rule"], f"{result['mean']:.4f}", f"{high:.4f}"):
            assert word in page.text, word
        assert f"{low:.4f}".replace("-", "\u2212") in page.text
    assert page.elements["math"] == len(results)
    for name, value in json.loads((run / "config.json").read_text())["config"].items():
        flag = "--" + name.replace("_", "-")
        assert flag in page.text
        if type(value) in (int, str):
            assert str(value) in page.text
    for reason in {c.reason for c in candidates} - {None}:
        assert reason in page.text
    assert "not finished" not in page.text


def test_the_pictures_are_beside_it(run):
    names = {"rewards", "choices", "outcomes", "learning_rates", "scores", "time"}
    assert {file.name for file in (run / "report").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    for file in (run / "report").glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
    for file in (run / "report").glob("*.svg"):
        assert xml.parse(file).getroot().tag.endswith("svg")
    assert not list(run.rglob("*.partial"))
    page = Page(run / "report.html")
    assert page.elements["svg"] == page.elements["figure"] == len(names)
    assert page.elements["desc"] == page.elements["svg"]


def test_nothing_is_loaded_and_every_id_is_one(run):
    page = Page(run / "report.html")
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    for link in page.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in page.ids), link
    policy = re.search(r'Security-Policy" content="([^"]*)"', (run / "report.html").read_text())[1]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'" and directives["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-[\w+/=]*'", directives["script-src"])


def test_the_colours_follow_the_page(run):
    text = (run / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "var(--blue)" in drawings and re.findall("#[0-9a-f]{6}", drawings) == []
    assert "prefers-color-scheme: dark" in text


def test_the_time_of_a_run_that_did_not_record_it(run, tmp_path):
    assert "Seconds in each stage" in Page(run / "report.html").text
    old = by_hand(tmp_path / "old", [candidate(0)])
    assert "was not recorded" in Page(write_report(old)).text


def test_no_picture_is_cut(run, fast):
    for chart in (*charts(read_run(run)).values(), *charts(read_run(fast)).values()):
        drawing = layout(chart)
        for mark in drawing.marks:
            for path in mark.paths:
                assert np.all((path >= -6) & (path <= (WIDTH + 6, drawing.height))), chart.name
        for words in drawing.words:
            left = words.x + words.move[0]
            left -= {"start": 0, "middle": 0.5, "end": 1}[words.anchor] * width_of(words.text)
            assert left >= 0 and left + 0.9 * width_of(words.text) <= WIDTH, (chart.name, words)


@pytest.mark.parametrize(
    "values", [[3.0], [0.0, 5e-324], [1.0, 1 + 2e-16], [-1e308, 1e308], [0, 1e-9], [7, 1e9]]
)
def test_an_axis_has_round_numbers_of_any_values(values):
    chart = Chart("any", [Panel([line(values, values, "blue")])])
    drawing = layout(chart)
    assert all(np.isfinite(path).all() for mark in drawing.marks for path in mark.paths)
    assert len(drawing.words) > 2


# What may not be in it.


@pytest.mark.slow
def test_what_comes_from_outside_is_text(tmp_path):
    facts = {"dataset": INVALID, "versions": {"a": INVALID}}
    bad = candidate(0, INVALID), candidate(1, "g", 0.1, "rejected", origin=None, reason=INVALID)
    path = by_hand(
        tmp_path / "a&b <i>$x$",
        [*bad, candidate(2, INVALID + " ", fingerprint=INVALID)],
        facts=facts,
    )
    with RunFolder(dataclasses.replace(CONFIG, out=path, resume=True)) as folder:
        row = {"name": INVALID, "rule": INVALID, "rewards": [0.5, None], "searched": 0.5}
        folder.write_json("results.json", [row, {**row, "searched": None}])
    page = Page(write_report(path))
    assert len(page.scripts) == 2 and page.elements["i"] == 0
    assert page.rows[0][1] == INVALID and page.rows[1][6] == INVALID
    assert INVALID.replace("\n", " ") in "".join(page.words)
    assert not re.search(r'd="[^"]*(nan|inf)', (path / "report.html").read_text())
    compared = Page(
        write_comparison([path, search(tmp_path / "other", samples=4)], tmp_path / "c.html")
    )
    assert len(compared.scripts) == 1 and compared.elements["i"] == 0
    assert INVALID in "".join(compared.words)


# Runs that are not as they should be.


def rejected(number):
    return candidate(
        number, "1", 0.1, "rejected", origin=None, learning_rate=None, reason="constant"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([], ["No candidate has been evaluated", "0 candidates of 96"]),
        ([candidate(0)], ["1 candidate of 96", "have not been trained again"]),
        ([rejected(i) for i in range(40)], ["40 candidates of 96", "constant", "100.0%"]),
        (
            [candidate(i, f"{i} * g", x) for i, x in enumerate((-3.5, math.inf, -math.inf))],
            ["3 candidates of 96"],
        ),
        ([candidate(0, "g", 0.1, "diverged", learning_rate=None)], ["every rate diverged"]),
        ([candidate(0, " + ".join(["g"] * 3000))], ["1 candidate of 96"]),
    ],
    ids=["empty", "one", "all rejected", "infinite", "diverged", "long"],
)
def test_a_run_that_was_killed_has_a_report(tmp_path, candidates, words):
    page = Page(write_report(by_hand(tmp_path / "run", candidates)))
    assert "is not finished" in page.text
    for word in words:
        assert word in page.text
    assert (len(page.scripts) == 2) == bool(candidates)
    if candidates:
        expected = [c.reward if math.isfinite(c.reward) else None for c in candidates]
        assert [row[2] for row in page.rows] == expected


def test_a_run_without_retrained_rules_shows_its_best_candidates_as_such(tmp_path):
    rows = [candidate(i, f"{i} * g", i / 10, fingerprint=str(i)) for i in range(7)]
    rows += [candidate(7, "g * 6 + 0", 0.6, fingerprint="6"), candidate(8, "w", 0.9, "diverged")]
    page = Page(write_report(by_hand(tmp_path / "run", rows)))
    assert "Not trained again" in page.text and "flatter" in page.text
    assert re.findall(r"candidate (\d) 0", page.text) == ["6", "5", "4", "3", "2"]
    assert "0.6000 in the search" in page.text and page.elements["math"] == 5


@pytest.mark.slow
def test_a_search_without_finalists_shows_its_best_candidates(tmp_path):
    page = Page(write_report(search(tmp_path / "run", finalists=0)))
    assert "not finished" not in page.text and "Not trained again" in page.text
    assert page.elements["math"] == 5


@pytest.mark.slow
def test_a_config_of_another_version_is_shown_as_it_is(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    (old / "config.json").write_text('{"version": "0.0.1", "config": {"gone": [1, {"a": null}]}}')
    (old / "results.json").unlink()
    page = Page(write_report(old))
    assert "--gone" in page.text and "0.0.1" in page.text and len(page.rows) == 96


@pytest.mark.slow
def test_a_report_while_the_search_runs(tmp_path):
    config = dataclasses.replace(CONFIG, out=tmp_path / "run")
    seen = []

    def on_batch(candidates):
        page = Page(write_report(tmp_path / "run"))
        seen.append((len(page.rows), len(candidates)))

    run_search(dataclasses.replace(config, samples=64), on_batch, engine=FakeEngine())
    assert seen == [(32, 32), (64, 64)]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_only_read(run, tmp_path, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in (run, *run.rglob("*"))}
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(run))
    page = Page(write_report(run, tmp_path / "elsewhere.html"))
    assert len(page.rows) == 96 and (tmp_path / "elsewhere" / "rewards.png").exists()
    assert {file: file.stat().st_mtime_ns for file in (run, *run.rglob("*"))} == before


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    report.main()


@pytest.mark.slow
def test_the_command(run, tmp_path, monkeypatch, capsys):
    call(monkeypatch, run, "--out", tmp_path / "page.html")
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert len(Page(tmp_path / "page.html").rows) == 96
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, run, by_hand(tmp_path / "second", [candidate(0)]))
    assert capsys.readouterr().out.strip() == "comparison.html"
    assert "2 runs in 2 groups" in Page(tmp_path / "comparison.html").text


@pytest.mark.slow
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    lost = shutil.copytree(run, tmp_path / "lost")
    (lost / "history.sqlite").unlink()
    for arguments, message in [
        (["nowhere"], "nowhere holds no run"),
        ([tmp_path], f"{tmp_path} holds no run"),
        ([tmp_path / "file"], "holds no run"),
        ([lost], "there is no history.sqlite in it"),
        ([run, "--out", tmp_path / "page.pdf"], "must end in .html"),
        ([run, "--out", tmp_path / "no" / "page.html"], "cannot write"),
        ([run, run], "given more than once"),
        ([], "name at least one run"),
    ]:
        with pytest.raises(SystemExit) as exit_info:
            call(monkeypatch, *arguments)
        assert message in str(exit_info.value.code), arguments
        assert "\n" not in str(exit_info.value.code)


# Searches that race, watch, and compare.


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Return the folder of a search by the speed protocol that came to its end."""
    path = finished_speed_search(tmp_path_factory.mktemp("runs") / "fast")
    write_report(path)
    return path


@pytest.fixture
def changed(fast, tmp_path):
    """Return a copy of that folder, to damage."""
    return shutil.copytree(fast, tmp_path / "changed")


def test_the_finals_are_shown_task_by_task(fast):
    page = Page(fast / "report.html")
    summary = page.text.split("What came out")[-1].split("The best rules")[0]
    assert FINALS["tasks"]["all tasks"]["sentence"] in summary
    assert "found 1 on characters (\u22120.62)" in summary and "Seed by seed" not in summary
    table = page.text.split("Least on:")[1].split("Seeds")[0]
    assert "found 1 characters \u22120.62 +0.25 +0.15 to +0.35 better +1.12" in table
    assert "NAdam digits-mlp \u22120.50 0.00 \u22120.10 to +0.10 undecided" in table
    assert table.count("baseline") == 3 and FINALS["notes"][0] in table
    # NAdam is no rule: it is shown as code, once, and not typeset.
    assert page.text.count("optax.nadam") == 1 and page.elements["math"] == 1
    assert "<math" not in results_html(read_run(fast).results[1:])


def test_the_seeds_and_the_watch_tasks_are_shown(fast):
    page, run = Page(fast / "report.html"), read_run(fast)
    rules = raced_rules(run)
    several = sum(len(rule.rewards) > 1 for rule in rules)
    further = sum(" seed " in key for key in run.trainings)
    assert several > 1 and run.damage == ()
    assert f"finalists trained {further} further seeds of {len(rules)} rules" in page.text
    assert "Seeds in the search" in page.text and "that led by their first rewards" in page.text
    drawings = {file.stem for file in (fast / "report").glob("*.svg")}
    assert {"tasks", "seeds", "race", "watch"} <= drawings
    watch = xml.parse(fast / "report" / "watch.svg").getroot()
    words = " ".join("".join(element.itertext()) for element in watch.iter())
    assert "transformer" in words and "fitness" in words
    assert "Nothing is selected by the watch tasks" in page.text
    assert "Nothing learned" not in page.text


def test_nothing_of_it_is_in_a_page_without_a_race(run):
    page = Page(run / "report.html")
    for name in ("tasks", "seeds", "watch"):
        assert name not in page.ids
    assert "Race:" not in page.text


def test_the_estimates_are_those_of_the_race(fast):
    config = json.loads((fast / "config.json").read_text())["config"]
    config = SearchConfig(**config, out=fast, resume=True)
    engine = FakeEngine()
    with RunFolder(config) as folder:
        race, rows = Race(config, folder.history, engine), folder.history.candidates()
        for first in range(0, len(rows), config.batch_size):
            race.settle(rows[first : first + config.batch_size])
        expected = race.best()
    assert engine.evaluated == []
    for raced, (best, estimate) in zip(raced_rules(read_run(fast)), expected, strict=True):
        assert raced.candidate.rule == best.rule
        assert raced.estimate == pytest.approx(estimate)


def test_what_a_rule_earns_on_each_task_is_the_mean_over_its_seeds(tmp_path):
    config = dataclasses.replace(CONFIG, race=4)
    facts = {"tasks": ["easy", "hard <"]}
    path = by_hand(tmp_path / "run", [candidate(0), candidate(1, "m")], config, facts)
    curves = {
        "g": (0.2, 0.4, -1.0, -1.0),
        seed_key("g", 1): (0.6, 0.8, -2.0, -2.0),
        "m": (None,) * 4,
    }
    with contextlib.closing(History(path / "history.sqlite")) as history:
        for key, curve in curves.items():
            history.add_trainings([key], [Training(0.5, 0.1, "trained", (0.1,), curve, 1.0)])
    run = read_run(path)
    assert {r.candidate.rule: r.by_task for r in raced_rules(run)} == {
        "g": pytest.approx({"easy": 0.5, "hard <": -1.5}),
        "m": {},
    }
    assert "By task: easy +0.50, hard &lt; \u22121.50." in run_page(run, {})


def test_a_race_without_an_end_shows_its_estimates(tmp_path):
    path = speed_search(tmp_path / "run", trainings=20, samples=96, batch_size=16)
    run = read_run(path)
    assert run.finished and run.trained >= 20 and run.finals is None
    page = run_page(run, {})
    best = raced_rules(run)[0]
    assert "these are estimates of the search" in page and "Task by task" not in page
    assert f"candidate {best.candidate.id}" in page and "of 20 asked for" in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged (JSONDecodeError"),
        ("[" * 100_000, "is damaged (RecursionError"),
        ("[]", "it holds no comparison of speeds"),
        (json.dumps(FINALS | {"measure": "loss"}), "it holds no comparison of speeds"),
        (json.dumps(FINALS | {"tasks": [1]}), "no tasks or no notes"),
        (json.dumps(FINALS | {"baseline": None}), "it has no baseline"),
        (json.dumps(FINALS | {"tasks": {"a": 1}}), "task a is left out"),
        (json.dumps(FINALS | {"tasks": {"a": {"sentence": 1, "rivals": []}}}), "task a is left"),
    ],
)
def test_finals_that_are_none_are_named_and_the_rest_is_shown(changed, content, said):
    (changed / "finals" / "results.json").write_text(content)
    run = read_run(changed)
    assert run.finals is None and len(run.damage) == 1 and said in run.damage[0]
    page = run_page(run, {})
    assert "finals/results.json is damaged" in page and "Seeds" in page
    assert "Task by task" not in page


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"name": ""},
        {"name": "Adam"},
        {"verdict": "best"},
        {"verdict": []},
        {"difference": "0.1"},
        {"difference": True},
        {"difference": 10**400},
        {"mean": 1e300},
        {"interval": [0.1]},
        {"interval": [0.1, [2]]},
        {"interval": 3},
    ],
    ids=str,
)
def test_one_damaged_rival_leaves_the_others(changed, change):
    rows = [compared("Adam", None, "baseline"), compared("x", 0.1, "better") | change]
    rows += [None, compared("y", 0.2, "worse")]
    finals = FINALS | {"tasks": {"a": {"sentence": "a.", "rivals": rows}}, "notes": [1, "b"]}
    (changed / "finals" / "results.json").write_text(json.dumps(finals))
    run = read_run(changed)
    assert [row.name for row in run.finals.rows["a"]] == ["Adam", "y"]
    assert run.finals.notes == ("b",) and run.finals.sentence == "a."
    assert ["rival 2 of 4" in said for said in run.damage] == [True, False]


def test_differences_that_are_not_finite_are_drawn(changed):
    rows = [compared(f"rival {i}", i / 10 - 1, "worse") for i in range(40)]
    rows += [compared("Adam", None, "baseline"), compared("\u2066 x$y$", None, "undecided")]
    rows += [compared("no interval", 0.5, "undecided") | {"interval": [None, None]}]
    one = {"sentence": "one.", "rivals": rows[::-1]}
    finals = FINALS | {"tasks": {"one": one, "two": {"sentence": "", "rivals": rows[:1]}}}
    (changed / "finals" / "results.json").write_text(json.dumps(finals))
    run = read_run(changed)
    pictures = {"tasks": layout(charts(run)["tasks"])}
    page = run_page(run, pictures)
    assert run.damage == () and "not finite" in page and "no interval" in page
    assert "\u2066" not in page and "The table has 18 more" in page


def test_names_of_finals_are_text(changed):
    row = compared(INVALID, 0.1, "better") | {"what": INVALID}
    task = {"sentence": INVALID, "rivals": [row]}
    finals = {"measure": "speed", "baseline": INVALID, "tasks": {INVALID: task}, "notes": [INVALID]}
    (changed / "finals" / "results.json").write_text(json.dumps(finals))
    page = Page(write_report(changed))
    assert len(page.scripts) == 2 and INVALID in page.words


def alter(folder, *statements):
    """Change the history behind its back."""
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_damaged_tables_of_the_history_are_left_out(changed):
    alter(
        changed,
        "UPDATE watched SET reward = 7 WHERE number = 1",
        "UPDATE trainings SET reward = 7 WHERE rowid = 1",
    )
    run = read_run(changed)
    assert run.watched == () and run.trainings == {} and len(run.damage) == 2
    page = run_page(run, {})
    assert "its watch tasks are left out" in page and "its further seeds are left out" in page
    assert "Task by task" in page and "Fitness and watch" not in page


def test_a_history_of_an_older_version_is_read(changed):
    alter(changed, "DROP TABLE watched", "DROP TABLE trainings")
    run = read_run(changed)
    assert run.damage == () and run.watched == () and run.trainings == {}
    assert "Task by task" in run_page(run, {})


def test_rows_of_watch_tasks_that_cannot_be_drawn_are_left_out(changed):
    config = json.loads((changed / "config.json").read_text())["config"]
    with RunFolder(SearchConfig(**config, out=changed, resume=True)) as folder:
        for number, rewards in ((3, (1.0,)), (4, ()), (5, (math.nan, 1.0)), (6, (10**400, 1.0))):
            folder.history.add_watched(Watched(number, 300, "g", 0.5, 0.2, rewards))
        folder.history.add_watched(Watched(7, 700, INVALID, 1e300, 0.2, (0.1, 0.1)))
        folder.history.add_watched(Watched(8, 800, INVALID, 0.1, 0.2, (0.1, 0.1)))
    run = read_run(changed)
    assert [row.number for row in run.watched] == [1, 2, 8, 25] and len(run.damage) == 5
    assert run.watch == ("transformer", "table")
    layout(charts(run)["watch"])


def test_the_watch_tasks_of_another_configuration_have_numbers(changed):
    content = json.loads((changed / "config.json").read_text())
    content["config"]["watch"] = ["table"]
    (changed / "config.json").write_text(json.dumps(content))
    assert read_run(changed).watch == ("watch task 1", "watch task 2")


def test_rewards_without_bounds_race(tmp_path):
    config = dataclasses.replace(CONFIG, race=4)
    rewards = (math.inf, -math.inf, math.nan, 1e300, -1e9, 0.5)
    rows = [
        candidate(i, f"{i} * g", x, fingerprint=str(i)) for i, x in enumerate(rewards) if x == x
    ]
    rows = [dataclasses.replace(row, id=i, origin=i) for i, row in enumerate(rows)]
    path = by_hand(tmp_path / "run", rows, config)
    with RunFolder(dataclasses.replace(config, out=path, resume=True)) as folder:
        add = folder.history.add_trainings
        for number, reward in enumerate((0.4, math.inf), 1):
            add([f"5 seed {number}"], [Training(reward, 0.1, "trained", (), (), 1.0)])
    run = read_run(path)
    assert {len(rule.rewards) for rule in raced_rules(run)} == {1, 2}
    for chart in charts(run).values():
        layout(chart)
    assert "The race trained 1 further seed of 2 rules" in run_page(run, {})


@pytest.mark.slow
def test_seeds_are_counted_in_bins(fast):
    (rule, *_) = raced_rules(read_run(fast))
    rules = [rule._replace(rewards=(0.0,) * n) for n in (1, 2, 2, 3, 4, 5, 8, 9, 16, 17)]
    expected = {"17 to 32": 1, "9 to 16": 2, "5 to 8": 2, "3 to 4": 2, "2": 2, "1": 1}
    assert seed_counts(rules) == expected and list(seed_counts(rules)) == list(expected)


# Several runs.


@pytest.mark.slow
def test_runs_that_differ_only_in_the_seed_are_one_group(tmp_path):
    paths = [search(tmp_path / f"ppo{seed}", seed=seed, samples=40) for seed in (3, 4)]
    again = search(tmp_path / "again", seed=4, samples=40)
    other = search(tmp_path / "other", samples=40, epochs=7)
    page = Page(write_comparison([*paths, other, again], tmp_path / "compared.html"))
    assert "4 runs in 2 groups" in page.text and "same seed, not counted" in page.text
    assert "A: 5 (n = 2)" in page.text and "B: 7 (n = 1)" in page.text
    quarters = [np.mean([c.reward for c in read_candidates(path)][-10:]) for path in paths]
    low, high = t_interval(quarters)
    assert f"{np.mean(quarters):.4f}" in page.text
    assert f"{low:.4f} to {high:.4f}".replace("-", "\u2212") in page.text
    differs = page.text.split("without the seed")[1].split("Time of")[0]
    assert "epochs" in differs and "minibatch_size" not in differs and "seed" not in differs
    assert {f.name for f in (tmp_path / "compared").glob("*.svg")} == {
        "rewards.svg",
        "best.svg",
        "quantiles.svg",
        "scores.svg",
    }


@pytest.mark.slow
def test_many_groups_and_empty_runs_compare(tmp_path):
    paths = [by_hand(tmp_path / "empty", [])]
    for i in range(9):
        config = dataclasses.replace(CONFIG, epochs=10 + i, batch_size=1 + i)
        rows = [candidate(k, reward=0.1 * i) for k in range(i + 1)]
        paths.append(by_hand(tmp_path / f"run{i}", rows, config))
    page = Page(write_comparison(paths, tmp_path / "page.html"))
    assert "10 runs in 10 groups" in page.text and "0 of 96" in page.text
    assert "J:" in page.text and "No run has trained its best rules again" in page.text


# The numbers.


def test_t_interval():
    low, high = t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # the 97.5 % quantile of t with 2 degrees of freedom
    assert (low, high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))
    assert t_interval([1.0]) is None and t_interval([1.0, math.nan]) is None
    assert t_interval([1.0, math.nan, 3.0]) == t_interval([1.0, 3.0])


@pytest.mark.parametrize("count", [1, 2, 5, 300, 4000])
def test_running_quantiles_are_those_of_each_window(count):
    rewards = np.random.default_rng(0).random(count)
    last, (low, median) = running_quantiles(rewards, (0.1, 0.5))
    window = max(1, min(64, count // 4))
    assert last[0] == window and last[-1] == count and len(last) <= 256
    for i, end in enumerate(last):
        assert median[i] == pytest.approx(np.median(rewards[end - window : end]))
        assert low[i] <= median[i]


def test_token_shares_are_of_the_choices_of_a_kind():
    rows = [candidate(i, tokens="g m x exp *  r1 g sign x +") for i in range(4)]
    rows += [candidate(i, tokens="v v x x left") for i in range(4, 8)]
    shares = token_shares(rows, np.array([0, 4, 8]))
    assert {word: list(share) for word, share in shares["operand"].items()} == {
        "g": [pytest.approx(2 / 3), 0],
        "m": [pytest.approx(1 / 3), 0],
        "v": [0, 1],
    }
    assert list(shares["unary"]["x"]) == [0.5, 1] and list(shares["binary"]["left"]) == [0, 1]


def test_families_are_different_texts_with_equal_updates():
    rows = [
        candidate(i, rule, fingerprint=f)
        for i, (rule, f) in enumerate(
            [("g", "a"), ("g", "a"), ("m", "b"), ("m * 1", "b"), ("v", "c"), ("1", "d"), ("2", "d")]
        )
    ]
    rows[5:] = [dataclasses.replace(row, origin=None) for row in rows[5:]]
    assert [[c.rule for c in group] for group in families(rows)] == [["m", "m * 1"]]


def test_rates_count_each_training_once():
    rows = [
        candidate(0),
        candidate(1, origin=0),
        candidate(2, status="diverged", learning_rate=None),
        candidate(3, status="dead", learning_rate=1e-3),
    ]
    assert rate_counts(rows) == {0.001: {"dead": 1}, 0.1: {"trained": 1}, None: {"diverged": 1}}
    assert list(rate_counts(rows)) == [0.001, 0.1, None]


def test_rates_are_counted_in_decades():
    counts = {1e-3: Counter(a=1), 0.0012: Counter(a=2), 3.0: Counter(b=1), None: Counter(c=4)}
    found = in_decades(counts, 10)
    assert found == {1e-3: {"a": 3}, 1e-2: {}, 1e-1: {}, 1.0: {"b": 1}, None: {"c": 4}}
    assert len(in_decades({1e-300: Counter(a=1), 1e300: Counter(a=1)}, 10)) <= 10
    assert in_decades({None: Counter(a=1)}, 10) == {None: {"a": 1}}


def test_mathematics_of_any_rule_is_well_formed():
    space = SearchSpace(iterations=4)
    programs = space.sample(jax.random.key(0), 50)
    rules = [str(decode(Program.from_array(row))) for row in programs]
    rules += [str(nos_optax.rules[name].rule) for name in nos_optax.rules] + list(OPERANDS)
    deep = functools.reduce(
        lambda inner, i: (
            random.Random(i)
            .choice(["exp({})", "sqrt({})", "({}) / g", "({})^m", "-({})", "clip({}, 1e-3)"])
            .format(inner)
        ),
        range(40),
        "g",
    )
    for rule in (*rules, deep):
        element = xml.fromstring(mathml(rule))
        assert element.tag.endswith("math"), rule
        text = "".join(element.itertext())
        assert "\\" not in text and "{" not in text, rule
    assert (
        "Adam" in mathml("adam") and "<msqrt>" in mathml("sqrt(g)") and "<mfrac>" in mathml("g / m")
    )
    assert mathml("no <rule>") == "<code>no &lt;rule&gt;</code>"
