"""The claim of a discovery: test tasks, the ceiling of tuning, and the way from runs to tables."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import adam_ceiling
import discover
import jax
import numpy as np
import optax
import pytest
from held_out import HELD_OUT

from nos_optax.population.reference import Reference
from nos_optax.population.suite import KNOWN, SuiteTrainer, load_suite
from nos_optax.population.task_check import check_task

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = {"cifar10": "tensorflow_datasets", "ptb": "ptb", "multi30k": "multi30k"}


def test_test_tasks_are_none_that_a_search_knows():
    assert len(HELD_OUT) >= 6 and not set(HELD_OUT) & set(KNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_OUT)
def test_test_tasks_can_train(name):
    folder = FOLDERS.get(name.partition("-")[0])
    if folder and not (DATA / folder).exists():
        pytest.skip(f"no {folder} in {DATA}")
    workload = HELD_OUT[name](DATA)
    task, size = workload.task, workload.minibatch_size
    assert task.name == name
    check_task(task, size)
    assert 2_000 < task.num_params < 500_000
    assert task.num_examples(task.validation) >= 150
    params, state = task.init(jax.random.key(0))
    rows = jax.tree.map(lambda x: x[: task.evaluation_batch], task.validation)
    mean = float(np.mean(task.metric(params, state, rows)))
    assert mean < task.perfect and mean == pytest.approx(task.chance, rel=0.3)


@pytest.fixture(scope="module")
def suite():
    reference = Reference(0.01, (1.0, 0.9), (1.0, 0.9), (1.0, 0.9))
    return SuiteTrainer(load_suite(["table"]), 1, references=[reference])


def test_a_sample_trains_as_its_optimizer_does(suite):
    samples = adam_ceiling.draw(6, seed=1)
    tuner = adam_ceiling.Tuner(samples, suite, 0)
    rows, tried = np.arange(6), np.tile(np.array([2, 4]), (6, 1))
    losses = tuner.train(rows, tried, seed=3)
    assert samples.kinds[:2] == ("Adam", "NAdam")
    for row in (0, 1, 4):
        b1, b2, eps, floor = (float(x) for x in samples.constants[row])
        make = {"Adam": optax.adam, "NAdam": optax.nadam}[samples.kinds[row]]
        decay = optax.linear_schedule(1.0, floor, tuner.horizon)
        rates = 0.01 * np.array(adam_ceiling.RATES, np.float32)[[2, 4]]
        expected = suite.loops[0].train(
            lambda rate, make=make, b1=b1, b2=b2, eps=eps, decay=decay: optax.chain(
                make(rate, b1=b1, b2=b2, eps=eps), optax.scale_by_schedule(decay)
            ),
            rates,
            3,
            tuner.horizon,
        )
        np.testing.assert_allclose(losses.validation[row], expected.validation, rtol=2e-4)
        np.testing.assert_allclose(losses.train[row], expected.train, rtol=2e-4)


def test_constants_lie_in_their_ranges_and_adam_is_among_them():
    samples = adam_ceiling.draw(1000, seed=0)
    np.testing.assert_allclose(samples.constants[0], adam_ceiling.USUAL, rtol=1e-6)
    b1, b2, eps, floor = samples.constants.T
    assert (floor >= 0).all() and (floor <= 1).all() and 0.2 < (floor == 1).mean() < 0.5
    assert (b1 >= 0).all() and (b1 <= 0.9901).all() and (b1 < 0.5).mean() > 0.1
    assert (b2 >= 0.68).all() and (b2 <= 0.99991).all()
    assert (eps >= 0.99e-10).all() and (eps <= 1.01e-3).all()


def smoke(name, tmp_path):
    command = [sys.executable, EXPERIMENTS / name, "--scale", "smoke", "--out", tmp_path / "out"]
    subprocess.run([*command, "--results", tmp_path / "results"], check=True, timeout=600)


@pytest.mark.slow
def test_smoke_of_the_ceiling(tmp_path):
    smoke("adam_ceiling.py", tmp_path)
    content = json.loads((tmp_path / "results" / "adam_ceiling_smoke.json").read_text())
    assert content["best"]["kind"] in ("Adam", "NAdam")
    assert len(content["scores"]["best"]) == 2


@pytest.mark.slow
def test_smoke_of_the_discovery(tmp_path, monkeypatch):
    # A cache of its own: that of all tests may hold what earlier versions measured.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    smoke("discover.py", tmp_path)
    folder = tmp_path / "results" / "discovery_smoke"
    results = json.loads((folder / "results.json").read_text())
    assert list(results["tasks"]) == ["friedman-table"]
    promoted = json.loads((folder / "promotion.json").read_text())["promoted"]
    assert len(promoted) == 1
    assert "(results.md)" in (folder / "promotion.md").read_text()
    (reference,) = (folder / "references").iterdir()
    assert "friedman-table" in reference.name


def test_what_the_repository_has_measured_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(discover, "reference_store", lambda: tmp_path / "cache")
    arguments = discover.Arguments("smoke", out=tmp_path / "out", results=tmp_path / "results")
    trainings, cache = tmp_path / "out" / "test" / "trainings", tmp_path / "cache"
    for folder in (trainings, cache):
        folder.mkdir(parents=True)
    whole = {
        trainings / "cifar10-vae_1.jsonl": b'{"config": {}}\n',
        cache / "adam_cifar10-vae_2.json": b"{}",
    }
    for path, content in whole.items():
        path.write_bytes(content)
    (cache / "adam_another-task_3.json").write_bytes(b"{}")
    stale = cache / "adam_cifar10-vae_1.json"  # of an earlier version of the task
    stale.write_bytes(b"[]")
    os.utime(stale, (1e9, 1e9))
    for folder in ("trainings", "references"):
        (arguments.published / folder).mkdir(parents=True)
    (arguments.published / "references" / "adam_cifar10-vae_0.json.xz").write_bytes(b"of old")
    discover.keep(arguments)
    kept = sorted(file.name for file in arguments.published.rglob("*.xz"))
    assert kept == ["adam_cifar10-vae_2.json.xz", "cifar10-vae_1.jsonl.xz"]

    shutil.rmtree(cache)
    longer = b"longer by now, as it went on"
    for here, then in ((longer, longer), (b"", b'{"config": {}}\n')):
        (trainings / "cifar10-vae_1.jsonl").write_bytes(here)
        discover.recall(arguments)
        assert (trainings / "cifar10-vae_1.jsonl").read_bytes() == then
    assert (cache / "adam_cifar10-vae_2.json").read_bytes() == b"{}"


def test_the_ceiling_is_a_rival_once_it_is_known(tmp_path, monkeypatch):
    path = tmp_path / "ceiling.json"
    monkeypatch.setattr(discover, "CEILING", path)
    assert "NAdam, tuned constants" not in discover.rivals()
    best = {"kind": "NAdam", "b1": 0.8, "b2": 0.99, "eps": 1e-6, "floor": 0.5}
    path.write_text(json.dumps({"best": best}))
    rival = discover.rivals()["NAdam, tuned constants"]
    params, gradient = np.ones(2, np.float32), np.array([1.0, -2.0], np.float32)
    tx, same = rival.optimizer(0.1, 4), optax.nadam(0.1, b1=0.8, b2=0.99, eps=1e-6)
    state, plain = tx.init(params), same.init(params)
    for scale in (1.0, 0.875, 0.75):
        update, state = tx.update(gradient, state, params)
        expected, plain = same.update(gradient, plain, params)
        np.testing.assert_allclose(update, scale * expected, rtol=1e-6)
    assert list(discover.rivals(("NAdam",))) == ["Adam", "NAdam"]
    with pytest.raises(ValueError, match="--rivals Eve: there are Adam, NAdam, "):
        discover.rivals(("Eve", "NAdam"))
