"""Every file of docs/examples runs: tasks learn and are searched, optimizers train."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from nos_optax.grammar import encode
from nos_optax.population import STATUSES, PopulationTrainer, Protocol
from nos_optax.population.task_check import check_task
from nos_optax.search import TaskConfig
from nos_optax.search.engines.trainers import make_trainer
from nos_optax.search.loading import load_task

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
MINIBATCH = {"breast_cancer": 20, "nnx_digits": 50, "transformer": 20}
IN_PROCESS = (
    "train_state",
    "nnx_optimizer",
    "equinox_mlp",
    "partition",
    "inject_hyperparams",
    "gradient_accumulation",
    "from_rule",
)
OWN_PROCESS = ("sharded",)  # JAX's devices are counted once


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delenv("NOS_OPTAX_PTB", raising=False)


def accuracies(output: str) -> list[float]:
    return [float(x) for x in re.findall(r"^accuracy ([\d.]+)", output, re.MULTILINE)]


def test_no_example_is_without_a_test_and_a_row():
    files = {file.stem for file in EXAMPLES.glob("*.py")}
    assert files == {*MINIBATCH, *IN_PROCESS, *OWN_PROCESS, "which_optimizer"}
    rows = re.findall(r"^\| \[(\w+)\.py\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text(), re.M)
    assert sorted(rows) == sorted((name, name) for name in files)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_PROCESS)
def test_an_optimizer_trains(name, capsys):
    names = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    found = accuracies(capsys.readouterr().out)
    assert found and min(found) > 0.9
    assert len(set(found)) == 1  # from_rule: the formula and the file are the same rule
    if name == "inject_hyperparams":
        assert names["train_step"]._cache_size() == 1  # as its docstring says


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_PROCESS)
def test_an_optimizer_trains_in_its_own_process(name):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    on_cpu = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=on_cpu)
    assert done.returncode == 0, done.stderr
    assert min(accuracies(done.stdout)) > 0.9
    assert "w1: (64, 64), of which each of 4 devices has (64, 16)" in done.stdout


@pytest.mark.slow
def test_the_worked_example_of_a_comparison(tmp_path):
    command = [sys.executable, EXAMPLES / "which_optimizer.py", "--steps", "20", "--seeds", "2"]
    done = subprocess.run(
        [*command, "--out", tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "my network: against adam, in the score by the task's metric, Holm over 7" in done.stdout
    rows = json.loads((tmp_path / "results.json").read_text())["tasks"]["my network"]["rivals"]
    assert len(rows) == 8 and min(row["mean"] for row in rows) > -np.log(10)  # all have learned
    assert (tmp_path / "results.svg").exists()


@pytest.mark.parametrize("name", MINIBATCH)
def test_a_task_fits_together(name):
    task = load_task(TaskConfig(protocol="paper", task=(f"{name}:task",)), jax.devices()[0])
    check_task(task, MINIBATCH[name])
    assert task.chance < task.baseline < task.threshold(margin=6) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIBATCH)
def test_a_task_learns(name):
    config = TaskConfig(
        protocol="paper", task=(f"{name}:task",), minibatch_size=MINIBATCH[name], epochs=2
    )
    trainer = make_trainer(config, 1, jax.devices()[:1])
    programs = np.stack([encode(rule, 1).array for rule in ("adam", "g - g", "-g")])
    evaluation = trainer.evaluate(programs)
    assert evaluation.reward[0] > trainer.threshold
    assert [STATUSES[s] for s in evaluation.status] == ["trained", "dead", "dead"]
    assert (evaluation.reward[1:] == np.float32(trainer.chance)).all()


@pytest.mark.slow
def test_nnx_children_train_side_by_side_as_alone():
    task = load_task(TaskConfig(protocol="paper", task=("nnx_digits:task",)), jax.devices()[0])
    # Continuous rules: a sign turns last digits, which differ from machine to machine, into steps.
    programs = np.stack([encode(rule, 1).array for rule in ("g", "m", "m + g")])
    protocol, devices = Protocol((0.1,), batch_size=100, epochs=1), jax.devices()[:1]
    alone, together = (
        PopulationTrainer(task, protocol, 1, lanes=lanes, devices=devices) for lanes in (1, 3)
    )
    np.testing.assert_allclose(
        together.evaluate(programs).reward, alone.evaluate(programs).reward, atol=0.02
    )


def test_the_transformer_reads_penn_treebank(tmp_path, monkeypatch):
    transformer = importlib.import_module("transformer")
    monkeypatch.setenv("NOS_OPTAX_PTB", str(tmp_path))
    with pytest.raises(ValueError, match=r"NOS_OPTAX_PTB is .*ptb\.train\.txt and .*ptb\.valid"):
        transformer.task()
    (tmp_path / "ptb.train.txt").write_text(" the market <unk> rose N \n" * 2000)
    (tmp_path / "ptb.valid.txt").write_text(" short \n")
    with pytest.raises(ValueError, match="has 8 characters, but 250 windows need 8250"):
        transformer.task()
    (tmp_path / "ptb.valid.txt").write_text(" é quartz! \n" * 2000)  # unknown characters
    task = transformer.task()
    assert task.name == "transformer, Penn Treebank"
    assert task.validation.max() < 16 and task.chance == 1 / 16


def test_the_generated_text_is_fixed_and_varied():
    transformer = importlib.import_module("transformer")
    text = transformer.generated_text(200, seed=0)
    assert text == transformer.generated_text(200, seed=0)
    lines = text.split("\n")
    assert len(lines) == 200 and len(set(lines)) > 190


@pytest.mark.slow
def test_a_task_is_searched(tmp_path):
    """One with batch norm and dropout. The README's commands search the table."""
    name = "nnx_digits"
    command = [sys.executable, ROOT / "experiments" / "search.py"]
    command += [
        "--protocol",
        "paper",
        "--task",
        f"{name}:task",
        "--minibatch-size",
        str(MINIBATCH[name]),
    ]
    command += ["--samples", "6", "--batch-size", "3", "--epochs", "1", "--out", tmp_path / "run"]
    command += ["--finalists", "1", "--final-seeds", "1", "--accelerator", "cpu"]
    env = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^6 candidates in \d+ s", done.stdout, re.MULTILINE)
    assert (tmp_path / "run" / "results.json").exists()
