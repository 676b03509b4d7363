"""The search from command line to run folder, and what bad input gets."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from nos_optax.grammar import Program, decode, encode, parse
from nos_optax.population import STATUSES
from nos_optax.search import Probes, SearchConfig, command, read_candidates, run_search
from nos_optax.search.history import Candidate
from nos_optax.search.results import Result, best_candidates, results_table
from nos_optax.search.run_folder import RunFolder

TINY = SearchConfig(
    protocol="paper",
    samples=10,
    batch_size=4,
    train_examples=200,
    epochs=1,
    finalists=2,
    final_seeds=2,
    accelerator="cpu",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    batches, stages = [], []
    config = dataclasses.replace(TINY, out=tmp_path_factory.mktemp("runs") / "run")
    result = run_search(config, lambda c: batches.append(len(c)), stages.append)
    return result, batches, stages


@pytest.mark.slow
def test_the_loop_evaluates_what_was_asked(run):
    result, batches, stages = run
    assert batches == [4, 8, 10]
    assert stages[0] == "compiling"
    assert [c.id for c in result.candidates] == list(range(10))


@pytest.mark.slow
def test_the_run_folder_holds_everything(run):
    result, _, _ = run
    folder = result.folder
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["samples"] == 10 and config["train_examples"] == 200
    assert read_candidates(folder) == result.candidates
    for candidate in result.candidates:
        rule = decode(Program.from_words(candidate.tokens))
        assert rule.digest == candidate.digest == parse(candidate.rule).digest
        assert len(candidate.rule) <= len(str(rule))
        assert 0 <= candidate.reward <= 1 and candidate.status in (*STATUSES, "rejected")
    results = json.loads((folder / "results.json").read_text())
    assert [r["mean"] for r in results] == sorted((r["mean"] for r in results), reverse=True)
    names = {r["name"] for r in results}
    assert {"SGD", "Momentum", "RMSProp", "Adam", "PowerSign", "AddSign"} <= names
    for row in results:
        assert len(row["rewards"]) == 2
        assert parse(row["rule"]) is not None
    found = [r for r in results if r["name"].startswith("found")]
    assert len(found) == len(list((folder / "best").glob("*.py")))
    for module in (folder / "best").glob("*.py"):
        compile(module.read_text(), str(module), "exec")
    assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search(run, tmp_path):
    again = run_search(dataclasses.replace(TINY, out=tmp_path / "again"))
    assert run[0].candidates == again.candidates
    assert [r.rewards for r in run[0].results] == [r.rewards for r in again.results]


def candidate(reward, rule="g", status="trained"):
    rule = parse(rule)
    (probed,) = Probes(2)(encode(rule, 2).array[None])
    return Candidate(
        0, str(rule), "", rule.digest, probed.fingerprint, 0, reward, 0.1, status, None
    )


def test_best_candidates_are_distinct_and_trained():
    pool = [
        candidate(0.5, "g * m"),
        candidate(0.7, "m * g"),
        candidate(0.9, "g", "dead"),
        candidate(0.65, "adam"),
        candidate(0.66, "rmsprop^sign(exp(rd(10)) + clip(g, 1e-4))"),  # is rmsprop
        candidate(0.6, "adam * m"),
    ]
    assert [c.reward for c in best_candidates(pool, 5)] == [0.7, 0.6]
    assert len(best_candidates(pool, 1)) == 1
    assert best_candidates([], 3) == []


def test_results_report_the_mean_and_the_spread():
    results = [
        Result("Adam", "adam", "", (0.8, 0.9), (0.01, 0.1), ("trained", "trained")),
        Result("found 1", "g", "", (0.2, 0.4), (None, 0.1), ("dead", "trained"), 0.95),
    ]
    assert results[0].mean == pytest.approx(0.85)
    assert results[0].deviation == pytest.approx(np.std([0.8, 0.9], ddof=1))
    table = results_table(results)
    assert list(table.columns[0].cells) == ["Adam", "found 1"]
    assert list(table.columns[4].cells) == ["2/2", "1/2"]
    assert [r.usual_rate for r in results] == ["1e-02", "1e-01"]
    assert list(table.columns[6].cells) == ["", "0.9500"]


def test_records_survive_what_json_lacks(tmp_path):
    with RunFolder(dataclasses.replace(TINY, out=tmp_path / "run")) as folder:
        folder.write_json("x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
        assert json.loads((folder.path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["search.py", *map(str, arguments)])
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as exit_info:
        command.main()
    return exit_info.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples must be at least 1, got 0"),
        (["--seed", "99999999999999999999"], "--seed must be less than 1000000"),
        (["--iterations", "5"], "--iterations must be 1 to 4, got 5"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--accelerator", "tpu"], "no tpu here; JAX sees cpu"),
        (["--accelerator", "gpu"], "no gpu here; JAX sees cpu"),
        (["--task", "cifar10", "--data-dir", "nowhere"], "nowhere"),
        (["--train-examples", "5000"], "5000"),
        (
            ["--protocol", "paper", "--train-examples", "50"],
            "minibatch_size must be from 1 to the 50 training examples",
        ),
        (["--prepare-data", "absent.tar.gz", "--data-dir", "data"], "absent.tar.gz"),
        (["--prepare-data", "absent.tar.gz"], "--data-dir"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    monkeypatch, tmp_path, capfd, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code = call(monkeypatch, *arguments)
    assert code not in (0, None)
    said = capfd.readouterr().err + str(code)
    assert message in said and "Traceback" not in said
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["--task", "mnist"], ["--sample", "3"]])
def test_unknown_words_of_the_command_line(monkeypatch, capsys, arguments):
    code = call(monkeypatch, *arguments)
    assert code not in (0, None)
    output = capsys.readouterr()
    said = f"{code}{output.err}{output.out}"
    assert arguments[-1] in said or arguments[0] in said


@pytest.mark.slow
def test_a_folder_with_another_run_is_left_alone(monkeypatch, run):
    folder = run[0].folder
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code = call(monkeypatch, "--out", folder)
    assert isinstance(code, str) and "another run" in code and str(folder) in code
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_help_names_every_flag(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(command.Arguments):
        assert "--" + field.name.replace("_", "-") in text


@pytest.mark.slow
def test_the_command_line_runs_a_search(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        "search.py --protocol paper --samples 4 --batch-size 4 --train-examples 200 --epochs 1 "
        "--iterations 1 --strategy random --finalists 1 --final-seeds 1 --seed 3 "
        f"--out {tmp_path / 'run'}".split(),
    )
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    command.main()
    printed = capsys.readouterr().out
    assert "PowerSign" in printed and str(tmp_path / "run") in printed
    assert "\x1b" not in printed, "quiet where the output is not a terminal"


@pytest.mark.slow
def test_the_command_line_evaluates_rules(monkeypatch, capsys):
    import evaluate

    monkeypatch.setattr(evaluate, "enable_compilation_cache", lambda: None)
    arguments = "evaluate.py adam m*ld --protocol paper --train-examples 200 --epochs 1 --seeds 1"
    monkeypatch.setattr(sys, "argv", arguments.split())
    evaluate.main()
    printed = capsys.readouterr().out
    assert "adam" in printed and "m * ld" in printed


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("g * q", "unknown operand 'q'"),
        ("exp(g", "expected ')'"),
        ("(" * 200 + "g" + ")" * 200, "nested more than"),
        ("0.3 * g", "0.3 is not in the vocabulary"),
    ],
)
def test_bad_rules_on_the_command_line(monkeypatch, rule, message):
    import evaluate

    monkeypatch.setattr(sys, "argv", ["evaluate.py", rule])
    monkeypatch.setattr(evaluate, "enable_compilation_cache", lambda: None)
    with pytest.raises(SystemExit) as exit_info:
        evaluate.main()
    assert str(exit_info.value.code).startswith("error: ")
    assert message in str(exit_info.value.code)
