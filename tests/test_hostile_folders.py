"""Run folders that somebody sent, damaged files, odd names, settings and signals.

Each test is of a kind of fault, over several cases of it. The engine is a fake, so that a search
takes a fraction of a second; most of what is tried here is refused before anything is trained.
"""

import ast
import contextlib
import dataclasses
import gc
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tokenize
import unicodedata
import xml.etree.ElementTree as xml
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_engine import FakeEngine
from markupsafe import escape
from matplotlib.figure import Figure
from report_cases import by_hand, candidate

from nos_optax import report
from nos_optax._command import command_line, make_console, printable, protect_minus, unprotected
from nos_optax._files import refuse_links, write_figure
from nos_optax.compare import Budget, Comparison, compare
from nos_optax.compare.results import Row
from nos_optax.compare.statistics import Difference
from nos_optax.explain.__main__ import sweeps_table
from nos_optax.explain.sweep import Sweep
from nos_optax.grammar import parse
from nos_optax.grammar.vocabulary import UNARY
from nos_optax.population.flags import CHECKS, arithmetic, own_flags
from nos_optax.population.task_check import function_digests
from nos_optax.search import SearchConfig, command, read_candidates, run_search, search
from nos_optax.search import export as export_module
from nos_optax.search.history import History, Training, _checksum
from nos_optax.search.interrupts import Interrupts, handlers_kept, interruptible
from nos_optax.search.promote import promote
from nos_optax.search.reports import read_run, results_html, write_comparison, write_report
from nos_optax.search.reports.page import run_page
from nos_optax.search.results import Result, results_table, write_best
from nos_optax.search.run_folder import RunFolder, default_path, folder_of_its_own, read_config

CONFIG = SearchConfig(
    protocol="paper",
    samples=24,
    batch_size=8,
    iterations=1,
    strategy="random",
    finalists=1,
    final_seeds=2,
)


def begin(path, engine=None, on_batch=lambda candidates: None, **changes):
    config = dataclasses.replace(CONFIG, out=path, **changes)
    return run_search(config, on_batch, engine=engine or FakeEngine())


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "run"
    begin(path)
    write_report(path)
    return path


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def contents(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and not p.is_symlink()}


def edit_config(path, **flags):
    content = json.loads((path / "config.json").read_text())
    content["config"] |= flags
    (path / "config.json").write_text(json.dumps(content))


def call(monkeypatch, main, *arguments):
    """Call a command; return what it says if it fails."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(command, "use_own_flags", lambda: None)
    try:
        main()
    except SystemExit as error:
        return str(error.code)
    return None


# A folder names what lies outside it.

PAYLOAD = """
from pathlib import Path
Path({mark!r}).touch()
from nos_optax.search.strategies import RandomSearch as Greedy
def task():
    raise SystemExit("called")
"""


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module and a package that leave a mark when they are imported."""
    mark, source = tmp_path / "imported", tmp_path / "source"
    (source / "sent").mkdir(parents=True)
    for file in (source / "payload.py", source / "sent" / "payload.py"):
        file.write_text(PAYLOAD.format(mark=str(mark)))
    (source / "sent" / "__init__.py").write_text(PAYLOAD.format(mark=str(mark)))
    monkeypatch.syspath_prepend(source)
    yield mark
    for name in ("payload", "sent", "sent.payload"):
        sys.modules.pop(name, None)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


NAMED = [
    {"strategy": "payload:Greedy"},
    {"strategy": "sent.payload:Greedy"},
    {"task": ("payload:task",)},
    {"task": ("sent.payload:absent",)},
    {"task": ("http.server:test",)},
    {"strategy": "payload:Greedy", "task": ("payload:task",)},
    {"data_dir": "/tmp/sent"},
    {"task": ("cifar10",), "data_dir": "sent"},
    {"engine": "ray", "ray_address": "192.0.2.1:6379"},
]


@pytest.mark.parametrize("named", NAMED, ids=str)
@pytest.mark.parametrize(
    "flags",
    [
        {},
        slow({"samples": 30}),
        slow({"strategy": "ppo"}),
        slow({"task": ("digits",)}),
        slow({"strategy": "other:Name"}),
    ],
    ids=str,
)
def test_what_only_a_folder_names_is_neither_imported_nor_used(
    folder, payload, monkeypatch, named, flags
):
    edit_config(folder, **named)
    before = contents(folder)
    texts = {k: v[0] if isinstance(v, tuple) else v for k, v in flags.items()}
    words = [w for name, value in texts.items() for w in (f"--{name}", value)]
    said = call(monkeypatch, command.main, "--resume", "--out", folder, *words)
    assert said.startswith("error: ") and "\n" not in said
    assert any(word in said for word in (f"names --{n.replace('_', '-')} " for n in named)) or (
        "another configuration" in said
    )
    with pytest.raises(ValueError, match=r"is not trusted|another configuration"):
        search(flags.get("task"), out=folder, resume=True, **_without_task(flags))
    with pytest.raises(ValueError, match="another configuration"):  # all flags are other ones
        search("digits", out=folder, resume=True, strategy="random", seed=9, **_outside(named))
    assert not payload.exists() and contents(folder) == before


def _without_task(flags):
    return {name: value for name, value in flags.items() if name != "task"}


def _outside(named):
    """Return the flags that may differ from the folder's, as the user gives them."""
    given = {"data_dir": "/mine", "ray_address": "127.0.0.1:1"}
    return {name: given[name] for name in given if name in named}


@pytest.mark.parametrize("named", NAMED, ids=str)
def test_readers_import_nothing(folder, payload, named):
    edit_config(folder, **named)
    run_page(read_run(folder), {})
    export_module.export(folder)
    read_config(folder)
    assert not payload.exists()


def test_what_is_given_again_is_used(folder, payload, monkeypatch):
    edit_config(folder, strategy="payload:Greedy")
    asked = []
    monkeypatch.setattr(command, "run_search", lambda config, *_: asked.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, command.main, "--resume", "--out", folder, "--strategy", "payload:Greedy")
    assert asked[0].strategy == "payload:Greedy" and not payload.exists()
    begin(folder, strategy="payload:Greedy", resume=True, samples=32)
    assert payload.exists()


def test_a_run_on_a_cluster_goes_on_without_it(folder, monkeypatch):
    edit_config(folder, engine="ray", ray_address="192.0.2.1:6379")
    asked = []
    monkeypatch.setattr(command, "run_search", lambda config, *_: asked.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, command.main, "--resume", "--out", folder, "--engine", "local")
    assert (asked[0].engine, asked[0].ray_address) == ("local", None)


# Links.

PLACES = [
    *("history.sqlite", "history.sqlite-wal", "history.sqlite-shm", "config.json", "lock"),
    *("best", "report", "report.html", "results.json", "candidates.jsonl"),
    *("best/found_9.py", "report/rewards.png", "tensorboard", "history.jsonl"),
]
COMMANDS = {
    "report": lambda path: write_report(path),
    "report elsewhere": lambda path: write_report(path, path.parent / "page.html"),
    "export": lambda path: export_module.export(path),
    "candidates": lambda path: read_candidates(path),
    "resume": lambda path: begin(path, resume=True, samples=32),
    "fresh": lambda path: begin(path),
}


@pytest.mark.parametrize("command_name", COMMANDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_links_are_refused_by_name(folder, tmp_path, place, command_name, kind):
    outside, inside = tmp_path / "outside", folder / place
    outside.mkdir()
    target = {"file": outside / "file", "folder": outside, "nothing": outside / "none"}[kind]
    with contextlib.closing(sqlite3.connect(outside / "file")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    (outside / "found_1.py").write_text("mine")
    if inside.is_dir():
        shutil.rmtree(inside)
    inside.unlink(missing_ok=True)
    inside.parent.mkdir(exist_ok=True)
    inside.symlink_to(target)
    before, names = contents(tmp_path), sorted(map(str, tmp_path.rglob("*")))
    if command_name == "fresh" and place != "config.json":
        with pytest.raises(FileExistsError):  # a run is there already
            COMMANDS[command_name](folder)
    else:
        with pytest.raises(OSError, match=r"is a link|holds another run") as error:
            COMMANDS[command_name](folder)
        assert str(inside) in str(error.value) or command_name == "fresh"
    assert contents(tmp_path) == before
    assert sorted(map(str, tmp_path.rglob("*"))) == names


def test_links_in_a_folder_that_is_not_begun_are_refused(tmp_path):
    outside = tmp_path / "precious"
    outside.write_text("mine")
    for name in ("lock", "history.sqlite", "config.json"):
        path = tmp_path / f"of {name}"
        path.mkdir()
        (path / name).symlink_to(outside)
        with pytest.raises(OSError, match=r"is a link|holds another run"):
            begin(path)
    assert outside.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_refused_and_not_waited_for(folder):
    (folder / "results.json").unlink()
    os.mkfifo(folder / "results.json")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        write_report(folder)


def test_the_folder_itself_may_be_given_by_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    assert len(read_candidates(tmp_path / "latest")) == 24
    assert len(begin(tmp_path / "latest", resume=True, samples=32).candidates) == 32


def small_compare(out):
    compare(["m", "g"], "table", budget=Budget((0.1,), seeds=2), epochs=1, out=out)


WRITERS = {
    "compare": (small_compare, ("trainings", "results.json", "results.md", "results.svg")),
    "promote": (
        lambda out: promote([], rules=1, promoted=1, out=out),
        ("trainings", "promotion.json", "test"),
    ),
}


@pytest.mark.parametrize(
    ("writer", "name"), [(w, name) for w, (_, names) in WRITERS.items() for name in names]
)
@pytest.mark.parametrize("kind", ["file", "folder", "nothing", "pipe"])
def test_comparisons_and_funnels_write_through_no_link(tmp_path, writer, name, kind):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "file").write_text("mine")
    if kind == "pipe":
        os.mkfifo(out / name)
    else:
        target = {"file": outside / "file", "folder": outside, "nothing": outside / "none"}[kind]
        (out / name).symlink_to(target)
    with pytest.raises(OSError, match=r"is a link|neither a file nor a folder") as error:
        WRITERS[writer][0](out)
    assert str(out / name) in str(error.value)
    assert contents(outside) == {outside / "file": b"mine"}
    assert sorted(p.name for p in outside.iterdir()) == ["file"]


def test_links_beside_results_are_nobodys_business(tmp_path):
    (tmp_path / "data").symlink_to(tmp_path)
    refuse_links(tmp_path, ("trainings", "results.json"))
    with pytest.raises(OSError, match="data is a link"):
        refuse_links(tmp_path)


def test_pictures_replace_links(tmp_path):
    outside = tmp_path / "precious"
    outside.write_text("mine")
    for name in ("trajectories.svg", "trajectories.png", "sweep.svg"):
        (tmp_path / name).symlink_to(outside)
        write_figure(tmp_path / name, Figure())
        assert not (tmp_path / name).is_symlink() and (tmp_path / name).stat().st_size > 100
    assert outside.read_text() == "mine"


def test_a_page_whose_pictures_would_go_elsewhere_is_refused(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "page").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="page is a link"):
        write_report(folder, tmp_path / "page.html")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM candidates", "DELETE FROM trainings"],
        ["DELETE FROM candidates WHERE id >= 20"],
        ["DROP TABLE candidates"],
    ],
)
def test_a_history_that_has_lost_rows_is_damaged(folder, statements):
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    before = (folder / "candidates.jsonl").read_bytes()
    with pytest.raises(OSError, match=r"is damaged: its history.sqlite has .* candidates, and its"):
        begin(folder, resume=True, samples=32)
    assert (folder / "candidates.jsonl").read_bytes() == before


def test_the_report_of_an_empty_history_says_so(folder):
    for name in ("history.sqlite-wal", "history.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / "history.sqlite").write_bytes(b"")
    with pytest.warns(UserWarning, match="history.sqlite is damaged: it is empty"):
        write_report(folder)


@pytest.mark.parametrize("tasks", [None, 3, "digits", {}])
def test_facts_that_are_compared_on_resume_are_of_their_kind(folder, tasks):
    content = json.loads((folder / "config.json").read_text())
    content.pop("children", None)
    (folder / "config.json").write_text(json.dumps(content | {"tasks": tasks}))
    with pytest.raises(ValueError, match="is damaged: tasks is"):
        begin(folder, resume=True, samples=32)


def test_a_comparison_says_hostile_names_on_one_line():
    change = Difference(1.0, 0.5, 1.5, 0.01)
    outcome = {"what": "m", "rate": 0.1, "rates": (0.1,), "inside": False, "scores": (1.0, 2.0)}
    outcome |= {"mean": 1.5, "deviation": 0.1, "n": 2, "learned": 1, "validation_loss": 1.0}
    outcome |= {"training_loss": 1.0, "p_holm": 0.01}
    names = ("t\nWrote /x", "a\n# forged")
    rows = (
        Row(*names, **outcome, difference=None, verdict="baseline"),
        Row(names[0], "b\x1b[1m\n", **outcome, difference=change, verdict="better"),
    )
    found = Comparison("score", names[1], rows, {})
    said = [found.sentence(names[0]), *found.notes()]
    assert len(said) == 3 and not any("\n" in x or "\x1b" in x for x in said), said


STOPPED = """
import os, signal, sys, threading, time
from nos_optax._command import stoppable
with stoppable("stopped"):
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    class Ignored:
        def __del__(self):  # as a callback of the garbage collector: an exception is forgotten here
            time.sleep(1)
    x = Ignored()
    del x
    time.sleep(30)
"""


def test_an_interrupt_is_not_lost_where_exceptions_are():
    done = subprocess.run(
        [sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_hostile_folders as t
t.begin(Path(sys.argv[2]), on_batch=lambda c: os.kill(os.getpid(), 9))
"""


@pytest.mark.parametrize(
    "state",
    ["closed", "in use", *(slow(state) for state in ("killed", "copied without its index"))],
)
def test_readers_change_nothing(state, folder, tmp_path):
    with contextlib.ExitStack() as stack:
        if state in ("killed", "copied without its index"):
            folder = tmp_path / "killed"
            arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder)]
            assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
            assert (folder / "history.sqlite-wal").stat().st_size
            if "index" in state:
                (folder / "history.sqlite-shm").unlink()
        if state == "in use":
            config = dataclasses.replace(CONFIG, out=folder, resume=True)
            stack.enter_context(RunFolder(config))
        before = {p: (p.stat().st_mtime_ns, p.is_dir()) for p in (folder, *folder.rglob("*"))}
        count = len(read_candidates(folder))
        read_run(folder)
        export_module.export(folder, out=tmp_path / "out.jsonl")
        assert count == (24 if state in ("closed", "in use") else 8)
        after = {p: (p.stat().st_mtime_ns, p.is_dir()) for p in (folder, *folder.rglob("*"))}
        assert after == before


def test_a_foreign_database_is_not_made_a_history(folder):
    (folder / "history.sqlite").unlink()
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = contents(folder)
    for name in ("report", "export", "candidates"):
        with pytest.raises(OSError, match="no such table"):
            COMMANDS[name](folder)
    assert contents(folder) == before


# Names.

NAMES = [
    "audio encoding: wav2vec",
    "-*- coding: utf-7 -*-",
    "vim: set fileencoding=latin-9 :",
    "x\nraise SystemExit('run')",
    "x\rraise SystemExit('run')",
    "x\x0craise SystemExit('run')",
    "x\u2028raise SystemExit('run')",
    "x\x85y\x0bz\x1c\x1d\x1e",
    "'''\"\"\"\\",
    "\x00null",
    "[/bold][red]x[/]",
    "[link=http://example.com]click[/link]",
    "\x1b]0;title\x07\x1b[2J\x9b31m",
    "\u202eevil\u2066\u200b",
    "</title><script>alert(1)</script>",
    "a\udc80surrogate",
    "$\\frac{x$ _x_ ^",
    ":smile: {curly} %s %(x)s",
    "=cmd|' /C calc'!A0",
    "",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_gets_out_of_a_comment(name, tmp_path):
    results = [Result("found 1", "g * m", "g m x x *", (0.5,), (0.1,), ("trained",), 0.5)]
    with RunFolder(dataclasses.replace(CONFIG, out=tmp_path / "run")) as folder:
        write_best(folder, results, {"dataset": name, "score": f"score {name}"})
    with RunFolder(dataclasses.replace(CONFIG, out=tmp_path / "plain")) as folder:
        write_best(folder, results, {"dataset": "plain"})
    made, plain = (tmp_path / run / "best" / "found_1.py" for run in ("run", "plain"))
    assert made.read_bytes().split(b"\n")[:5] == plain.read_bytes().split(b"\n")[:5]
    with tokenize.open(made) as source, tokenize.open(plain) as expected:
        assert ast.dump(ast.parse(source.read())) == ast.dump(ast.parse(expected.read()))
    module = {}
    exec(compile(made.read_bytes(), str(made), "exec"), module)
    assert "scale_by_found_1" in module


def obeyed(text):
    """Return the characters of a text that a terminal or an editor would obey."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_is_obeyed_by_a_terminal_or_read_as_markup(name, monkeypatch, capsys):
    console = make_console()
    console.file = io.StringIO()
    console.print(results_table([Result(name, name, "", (0.5,), (0.1,), (name,), 0.5)], "s" + name))
    scores = np.array([[0.1], [0.2]])
    console.print(sweeps_table({name: Sweep((0.1, 1.0), scores)}, f"{name}: score"))
    console.print(name)
    said = console.file.getvalue()
    assert not obeyed(said) and "0.200" in said
    assert printable(name, keep="\n") in said

    def fail():
        raise ValueError(f"no such task: {name}")

    monkeypatch.setattr(command, "parse", fail)
    said = call(monkeypatch, command.main)
    assert printable(name, keep="\n") in said and not obeyed(said)
    assert not obeyed(printable(name)) and "\n" not in printable(name)
    printable(name).encode()


def named(path, name):
    """Write a run folder in which a name is wherever a text is."""
    stored = name.encode(errors="replace").decode()  # SQLite holds no halves of surrogate pairs
    rows = [
        candidate(0, f"g {stored}", reason=stored, status=f"s{stored}", fingerprint="f"),
        candidate(1, "-g", 0.1, "rejected", origin=None, reason=f"={stored}"),
    ]
    by_hand(path, rows, facts={"dataset": name, "score": f"score {name}"})
    with contextlib.closing(History(path / "history.sqlite")) as history:
        history.add_trainings(["f"], [Training(0.5, 0.1, "trained", (0.5,), (0.5,), 1.0)])
    row = {"name": f"n{name}", "rule": f"r{name}", "rewards": [0.5, 0.6], "searched": 0.5}
    (path / "results.json").write_text(json.dumps([row]))
    return path


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_text_of_pages_and_tables(name, tmp_path):
    path = named(tmp_path / "run", name)
    page = run_page(read_run(path), {})
    assert not obeyed(page.replace("\t", "")) and page.count("<script") == 2
    page.encode()
    assert "<script>alert" not in results_html(read_run(path).results)
    lines = export_module.export(path, out=tmp_path / "out.jsonl").read_text().splitlines()
    assert not any(obeyed(line) for line in lines)
    assert [json.loads(line)["rule"] for line in lines][1] == "-g"


def test_names_are_text_of_pictures(tmp_path):
    path = named(tmp_path / "run", "\x00\x1b\x9b\u202e$</svg>")
    page = write_report(path).read_text(encoding="utf-8")
    assert not obeyed(page.replace("\t", ""))
    pictures = list((path / "report").glob("*.svg"))
    assert pictures
    for picture in pictures:
        xml.parse(picture)


# Damaged files.

DAMAGED = [
    b"", b"{", b"null", b"3", b'"rules"', b'{"name": 3}', b"\xff\xfe", b"[" * 100_000,
    b'[{"name": "x"}]', b"[1]", b"[[]]", b"[null]",
]  # fmt: skip
VALUES = [3, None, True, [], {}, "x", [1], ["x"], [[1]], [None], 1e308, 10**400, "\x1b[31m"]


def row(**changes):
    return {
        "name": "found 1", "rule": "g * m", "tokens": "g m x x *", "rewards": [0.5, 0.6],
        "learning_rates": [0.1, 0.1], "statuses": ["trained", "trained"], "searched": 0.5,
    } | changes  # fmt: skip


def reported(path):
    """Return the page of a run, without its pictures, and what is said of its damage."""
    run = read_run(path)
    page = run_page(run, {})
    for line in run.damage:
        assert "\n" not in line and not obeyed(line) and str(escape(line))[:40] in page
    return page, run.damage


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:16]))
def test_damaged_results_are_named_and_the_rest_is_reported(folder, content):
    (folder / "results.json").write_bytes(content)
    page, said = reported(folder)
    assert len(said) == 1 and "results.json is damaged" in said[0]
    assert "results.json is damaged" in page and "Candidates by status" in page


@pytest.mark.parametrize("field", row())
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:12])
def test_one_damaged_rule_leaves_the_others(folder, field, value):
    rows = [row(name="before"), row(**{field: value}), row(name="after")]
    (folder / "results.json").write_text(json.dumps(rows))
    run = read_run(folder)
    names = [result.name for result in run.results]
    assert {"before", "after"} <= set(names)
    assert len(names) == 3 or run.damage or value == []
    if field in ("name", "rule", "rewards") and value in (3, None, {}):
        assert len(run.damage) == 1 and "rule 2 of 3" in run.damage[0]


@pytest.mark.parametrize("value", ["long", b"\xff", None, -1.0, "1.5", float("inf")], ids=repr)
def test_times_that_are_none_are_named(folder, value):
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        connection.execute("UPDATE stages SET seconds = ? WHERE stage = 'train'", (value,))
        connection.commit()
    page, said = reported(folder)
    assert len(said) == 1 and "history.sqlite is damaged: the seconds of train" in said[0]
    assert "in all" in page and "the seconds of train" in page


@pytest.mark.parametrize("name", ["samples", "operands", "seed", "strategy", "final_epochs"])
@pytest.mark.parametrize("value", ["x", 1.5, {}, [1], [[]], None], ids=repr)
def test_flags_of_another_kind_are_named(folder, name, value):
    edit_config(folder, **{name: value})
    page, said = reported(folder)
    right = (name, value) == ("strategy", "x")
    right |= value is None and name in ("samples", "operands", "strategy", "final_epochs")
    assert right == (not said) and (right or f"config.json is damaged: {name} is" in said[0])
    assert "Candidates by status" in page


@pytest.mark.parametrize("name", ["chance", "threshold", "untrained", "sweep_steps", "score"])
@pytest.mark.parametrize("value", ["x", {}, [1], True], ids=repr)
def test_facts_of_another_kind_are_named(folder, name, value):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {name: value}))
    (folder / "results.json").write_text(json.dumps([row(statuses=["dead"], searched=None)]))
    page, said = reported(folder)
    assert "Nothing learned" in page and (name == "score" or "is damaged" in said[0])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"config": 3}', b"\xff"], ids=repr)
def test_a_damaged_configuration_leaves_a_report(folder, content):
    (folder / "config.json").write_bytes(content)
    page, said = reported(folder)
    assert "config.json is damaged" in said[0] and "24" in page


@pytest.mark.parametrize(
    ("column", "value"),
    [("rule", 3), ("reward", "high"), ("learning_rate", "x"), ("status", None), ("origin", "0")],
)
def test_a_candidate_of_other_kinds_is_damage_even_if_its_checksum_is_right(folder, column, value):
    with contextlib.closing(sqlite3.connect(folder / "history.sqlite")) as connection:
        fields = [field.name for field in dataclasses.fields(read_candidates(folder)[0])]
        query = f"SELECT {', '.join(fields)} FROM candidates WHERE id = 5"
        values = dict(zip(fields, connection.execute(query).fetchone(), strict=True))
        values[column] = value
        connection.execute(
            f"UPDATE candidates SET {column} = ?, checksum = ? WHERE id = 5",
            (value, _checksum(list(values.values()))),
        )
        connection.commit()
    with pytest.raises(OSError, match="candidate 5 is not what was written"):
        write_report(folder)


def test_the_command_says_what_is_damaged_and_writes_the_page(folder, monkeypatch, capsys):
    (folder / "results.json").write_text("[3]")
    assert call(monkeypatch, report.main, folder) is None
    said = capsys.readouterr()
    assert said.out.strip() == str(folder / "report.html")
    assert said.err.count("\n") == 1 and said.err.startswith("warning: ")


def test_what_a_kill_left_half_written_is_cleared_at_the_next_start(folder):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], text=True,
                          capture_output=True).stdout.strip()  # fmt: skip
    left = [
        folder / f"report.html.{dead}.partial",
        folder / "best" / f"found_1.py.{dead}.partial",
        folder / "report" / f"rewards.png.{dead}.partial",
        folder / "config.json.partial",
    ]
    being_written = folder / f"report.html.{os.getppid()}.partial"
    for file in (*left, being_written):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    begin(folder, resume=True)
    assert not any(file.exists() for file in left) and being_written.exists()


# Folders by default, and paths.


def test_searches_that_start_together_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    barrier, made = threading.Barrier(8), []

    def start():
        barrier.wait()
        made.append(default_path())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*made}) == 8 and all(path.is_dir() for path in made)
    assert {path.name for path in made} == {"now", *(f"now-{n}" for n in range(2, 9))}


def test_a_folder_in_which_nothing_came_to_be_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no"), folder_of_its_own(CONFIG) as config:
        assert config.out.is_dir()
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
    with folder_of_its_own(CONFIG) as config:
        (config.out / "kept").touch()
    assert (config.out / "kept").exists()


@pytest.mark.parametrize("call_it", ["config", "data", "report", "comparison", "export", "read"])
def test_a_tilde_is_the_home_folder(call_it, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    by_hand(tmp_path / "other", [candidate(0)])
    done = {
        "config": lambda: SearchConfig(out="~/x").out == tmp_path / "x",
        "data": lambda: SearchConfig(data_dir=Path("~/x")).data_dir == tmp_path / "x",
        "report": lambda: write_report(Path("~/run"), Path("~/p.html")) == tmp_path / "p.html",
        "comparison": lambda: (
            write_comparison([Path("~/run"), Path("~/other")], Path("~/c.html"))
            == tmp_path / "c.html"
        ),
        "export": lambda: export_module.export(Path("~/run"), out=Path("~/e.jsonl")).exists(),
        "read": lambda: len(read_candidates(Path("~/run"))) == 24,
    }[call_it]()
    assert done and not (tmp_path / "~").exists()


def test_no_such_home_is_a_message():
    with pytest.raises(ValueError, match="give the path of the folder itself"):
        SearchConfig(out="~nobody-of-this-name/x")


# Signals.


def test_a_signal_that_is_lost_ends_the_search_after_the_population(tmp_path):
    """Python prints and forgets what is raised in a callback of the garbage collector."""
    sent = []

    def at_collection(phase, info):
        if not sent:
            sent.append(phase)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs here, in the callback

    with interruptible(signal.SIGINT) as interrupts, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda unraisable: None)

        def on_batch(candidates):
            gc.callbacks.append(at_collection)
            gc.collect()
            gc.callbacks.remove(at_collection)

        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path / "run", on_batch=interrupts.after(on_batch))
    assert sent and len(read_candidates(tmp_path / "run")) == 8


def test_two_signals_at_once_are_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    interrupts = Interrupts()
    interrupts.look()
    raised = 0
    for at in (100.0, 100.001, 100.5, 102.0):
        now[0] = at
        try:
            interrupts(signal.SIGINT, None)
        except KeyboardInterrupt:
            raised += 1
    assert raised == 2
    with pytest.raises(KeyboardInterrupt):
        interrupts.look()
    now[0] = 1e9
    interrupts.ignore()
    interrupts(signal.SIGINT, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_as_before_after_a_library_set_its_own(number):
    before = signal.getsignal(number)
    with interruptible(number) as interrupts:
        with handlers_kept():
            signal.signal(number, signal.SIG_IGN)
        assert signal.getsignal(number) is interrupts
    assert signal.getsignal(number) is before


# What decides the numbers.

OTHER = {
    "jax_enable_x64": lambda: jax.enable_x64(True),
    "jax_threefry_partitionable": lambda: jax.threefry_partitionable(False),
    "jax_default_matmul_precision": lambda: jax.default_matmul_precision("bfloat16"),
    "jax_default_prng_impl": lambda: jax.default_prng_impl("rbg"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_resume_under_other_numbers_is_refused_by_name(name, folder):
    before = contents(folder)
    with OTHER[name](), pytest.raises(ValueError, match=f"was begun with {name} .*, now it is"):
        begin(folder, resume=True, samples=32)
    after = contents(folder)
    assert {p: c for p, c in after.items() if "sqlite" not in p.name} == {
        p: c for p, c in before.items() if "sqlite" not in p.name
    }
    assert len(begin(folder, resume=True, samples=32).candidates) == 32


@pytest.mark.parametrize("variable", ["XLA_FLAGS", "LIBTPU_INIT_ARGS"])
def test_options_of_the_compiler_are_compared(variable, folder, monkeypatch):
    monkeypatch.setenv(variable, "--xla_dump_to=/tmp/x --xla_force_host_platform_device_count=3")
    assert arithmetic()[variable] == ""
    monkeypatch.setenv(variable, "--xla_b=1 --xla_cpu_enable_fast_math=true")
    assert arithmetic()[variable] == "--xla_b=1 --xla_cpu_enable_fast_math=true"
    with pytest.raises(ValueError, match=f"was begun with {variable} .*fast_math=true"):
        begin(folder, resume=True, samples=32)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_run_that_lost_its_history_is_damaged_and_stays_as_it_is(tmp_path, left, strategy):
    path = tmp_path / "run"
    begin(path, strategy=strategy)
    (path / "history.sqlite").unlink()
    if left == "an empty file":
        (path / "history.sqlite").touch()
    before = sorted(path.rglob("*"))
    with pytest.raises(OSError, match=r"is damaged: it has lost its history\.sqlite"):
        begin(path, strategy=strategy, resume=True, samples=32)
    assert sorted(path.rglob("*")) == before


# Settings of JAX that are the user's.


@pytest.fixture
def strict():
    """Every check of JAX, for the whole process, as environment variables set them."""
    values = {
        "jax_debug_nans": True,
        "jax_debug_infs": True,
        "jax_numpy_dtype_promotion": "strict",
        "jax_numpy_rank_promotion": "raise",
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    yield values
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow
def test_the_users_checks_of_jax_do_not_break_a_search(strict, tmp_path):
    from test_search_api import SETTINGS, SPACE, line

    settings = SETTINGS | {"samples": 8, "batch_size": 8, "reject": False, "iterations": 1}
    settings.pop("iterations")
    result = search(line(), SPACE, out=tmp_path / "run", progress=False, **settings)
    assert len(result.candidates) == 8 and result.results
    assert {name: getattr(jax.config, name) for name in strict} == strict, "they stay the user's"


@pytest.mark.parametrize("name", CHECKS)
def test_checks_are_off_inside_in_every_thread(name):
    seen = []
    with own_flags():
        seen.append(getattr(jax.config, name))
    assert seen[0] in (CHECKS[name], None)


# Numbers too large, and the command line.

NUMERIC = [
    *("samples", "batch_size", "iterations", "seed", "finalists", "final_seeds", "final_epochs"),
    *("train_examples", "sweep_examples", "epochs", "minibatch_size", "lanes", "trainings"),
]


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("value", [2**31, 2**63 - 1, 2**64, 10**30, -1, -(2**63)])
def test_every_number_has_bounds_that_are_checked_first(name, value):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ValueError, match=f"^{flag} must be .*{value}"):
        SearchConfig(**{"protocol": "paper", name: value})


@pytest.mark.parametrize("rule", ["-sign(m) * g", "-g", "-(g + m)", "- g", "-.5 * g", "-1e-3*w"])
def test_a_rule_that_begins_with_a_minus_is_a_positional(rule):
    (word,) = protect_minus([rule])
    assert word == f"({rule})" and parse(word) == parse(rule)


@pytest.mark.parametrize("number", ["-1", "-0.5", "-1e-3", "-1E+05", "-h"])
def test_a_negative_number_stays_one(number):
    assert protect_minus(["--seed", number]) == ["--seed", number]


def parsed(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    return command.parse()


@pytest.mark.parametrize("first", UNARY)
def test_every_word_of_the_vocabulary_is_taken(first, monkeypatch):
    words = [first, *(word for word in ("x", "-x", "exp") if word != first)]
    assert parsed(monkeypatch, "--unary", *words).unary == tuple(words)
    assert unprotected(protect_minus(words)) == tuple(words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unary", "x", "--unary", "exp"],
        ["--operands", "g", "m", "--seed", "1", "--operands", "v"],
        ["--seed", "1", "--seed=2"],
        ["--batch-size", "4", "--batch_size", "8"],
        ["--reuse", "--no-reuse"],
        ["--samples=4", "--samples=4"],
    ],
    ids=" ".join,
)
def test_no_word_is_dropped_silently(arguments, monkeypatch):
    flag = arguments[0].partition("=")[0].replace("_", "-")
    for main in (command.main, export_module.main, report.main):
        said = call(monkeypatch, main, *arguments)
        assert f"{flag} is given more than once" in said
    assert command_line(arguments, {"unary", "operands", "seed", "batch_size", "reuse", "samples"})


# What changed in a task.


@pytest.mark.parametrize("changed", ["init", "loss", "metric"])
def test_a_refusal_names_the_function_that_changed(changed, tmp_path):
    from test_search_api import line

    task = line()
    other = {
        "init": lambda key: (jax.numpy.ones(2), ()),
        "loss": lambda p, s, b, k: (2 * task.loss(p, s, b, k)[0], s),
        "metric": lambda p, s, b: ~task.metric(p, s, b),
    }[changed]
    begun = function_digests(task, 20)
    now = function_digests(dataclasses.replace(task, **{changed: other}), 20)
    assert [name for name in begun if begun[name] != now[name]] == [changed]
    with RunFolder(dataclasses.replace(CONFIG, out=tmp_path / "run")) as folder:
        facts = {"functions": begun, "versions": {}, "device_kind": "cpu"}
        folder.write_config(CONFIG, facts)
        with pytest.raises(ValueError, match=f"another {changed} of the task.*set.*x64"):
            folder.write_config(CONFIG, facts | {"functions": now})


@pytest.mark.parametrize("begun", [{"children": [1]}, {}], ids=["recorded", "older"])
def test_a_seed_of_more_trainings_is_another_reward(begun, tmp_path):
    facts = {"tasks": ["digits-mlp"], "horizons": [120], "versions": {}, "device_kind": "cpu"}
    with RunFolder(dataclasses.replace(CONFIG, out=tmp_path / "run")) as folder:
        folder.write_config(CONFIG, facts | begun)
        folder.write_config(CONFIG, facts | {"children": [1]})
        with pytest.raises(ValueError, match=r"begun with children \[1\], now it is \[4\]"):
            folder.write_config(CONFIG, facts | {"children": [4]})


def test_a_history_that_is_read_cannot_be_written(folder):
    with contextlib.closing(History(folder / "history.sqlite", read_only=True)) as history:
        with pytest.raises(OSError, match="readonly"):
            history.add_candidates([candidate(99)])
