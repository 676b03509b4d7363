"""Evaluation by Ray: the same rewards as on this machine, whatever is killed."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from nos_optax.grammar import SearchSpace
from nos_optax.population import DatasetError
from nos_optax.search import AcceleratorError, TaskConfig
from nos_optax.search.engines.local import LocalEngine
from nos_optax.search.engines.ray import RayEngine, _result, task_size

ROOT = Path(__file__).parents[1]
TASK = TaskConfig(
    protocol="paper", accelerator="cpu", train_examples=100, sweep_examples=100, epochs=1
)
PROGRAMS = np.asarray(SearchSpace(iterations=2).sample(jax.random.key(0), 60))

# Ray starts its processes from here, where JAX runs already.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    engine = RayEngine(TASK, iterations=2, address=cluster.address)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected():
    return next(LocalEngine(TASK, iterations=2).evaluate(PROGRAMS, seed=3))[1]


def assert_whole(parts, expected):
    """Each row came exactly once, with bitwise the evaluation that this machine gives."""
    rows = np.concatenate([rows for rows, _ in parts])
    assert sorted(rows) == list(range(len(expected.reward)))
    for field, name in enumerate(expected._fields):
        found = np.concatenate([evaluation[field] for _, evaluation in parts])
        np.testing.assert_array_equal(found, expected[field][rows], err_msg=name)


def busy_workers(raylet=None):
    """Processes of this test, or of one node, that evaluate at this moment."""
    parents, busy = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int(
                (process / "stat").read_text().rsplit(")")[1].split()[1]
            )
            if (process / "cmdline").read_bytes().startswith(b"ray::_evaluate"):
                busy.append(int(process.name))
        except OSError:
            continue  # it ended meanwhile

    def ours(pid):
        return pid == (raylet or os.getpid()) or (pid in parents and ours(parents[pid]))

    return [pid for pid in busy if ours(pid)]


def kill_a_busy_worker():
    for _ in range(6000):
        if busy := busy_workers():
            os.kill(busy[0], signal.SIGKILL)
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_rewards_are_those_of_this_machine(engine, expected):
    assert engine.chance == 0.1 and engine.facts["train_examples"] == 100
    assert engine.facts["workers"] == 2 and engine.facts["lanes"] == 1
    parts = list(engine.evaluate(PROGRAMS, seed=3))
    assert len(parts) > 2
    assert_whole(parts, expected)
    assert len(np.unique(expected.sweep)) > 50  # of accuracies: the comparison is of something


@pytest.mark.slow
def test_the_tasks_size_changes_nothing(engine, expected, monkeypatch):
    monkeypatch.setattr(engine, "task_size", 50)
    parts = list(engine.evaluate(PROGRAMS, seed=3))
    assert [len(rows) for rows, _ in parts] in ([50, 10], [10, 50])
    assert_whole(parts, expected)


@pytest.mark.slow
def test_killed_workers_lose_and_repeat_nothing(engine, expected, monkeypatch):
    monkeypatch.setattr(engine, "task_size", 1)
    parts, kills = [], 0
    for part in engine.evaluate(PROGRAMS, seed=3):
        parts.append(part)
        if kills < 10:
            kills += kill_a_busy_worker()
    assert kills == 10
    assert_whole(parts, expected)


@pytest.mark.slow
def test_a_killed_node_loses_and_repeats_nothing(cluster, engine, expected, monkeypatch):
    monkeypatch.setattr(engine, "task_size", 1)
    node = cluster.add_node(num_cpus=1)
    raylet = node.all_processes["raylet"][0].process.pid
    killed = False
    for _ in range(100):  # the first ones may be over before the node has a worker
        parts = []
        for part in engine.evaluate(PROGRAMS, seed=3):
            parts.append(part)
            if not killed and busy_workers(raylet):
                cluster.remove_node(node, allow_graceful=False)
                killed = True
        assert_whole(parts, expected)
        if killed:
            break
    assert killed


@pytest.mark.slow
def test_an_abandoned_evaluation_leaves_the_engine_usable(engine, expected):
    next(engine.evaluate(PROGRAMS, seed=3))
    assert_whole(list(engine.evaluate(PROGRAMS[:5], 3)), type(expected)(*(x[:5] for x in expected)))


@pytest.mark.slow
def test_errors_of_the_workers_arrive_as_they_were_raised(cluster, engine):
    with pytest.raises(ValueError, match=r"^the population is empty"):
        list(engine.evaluate(PROGRAMS[:0], 0))
    with pytest.raises(ValueError) as from_ray:
        list(engine.evaluate(np.zeros((2, 4, 5)), 0))
    with pytest.raises(ValueError) as here:
        list(LocalEngine(TASK, 2).evaluate(np.zeros((2, 4, 5)), 0))
    assert str(from_ray.value) == str(here.value)

    absent = dataclasses.replace(TASK, task=("cifar10",), data_dir=Path("nowhere"))
    with pytest.raises(DatasetError, match=str(Path.cwd() / "nowhere")):
        RayEngine(absent, 2)
    with pytest.raises(AcceleratorError, match="has no tpu, but cpu"):
        RayEngine(dataclasses.replace(TASK, accelerator="tpu"), 2)


class NeedsAnAbsentPackage:
    def __reduce__(self):
        return __import__, ("a_package_that_is_absent",)


@pytest.mark.slow
def test_a_worker_without_the_package_is_named(engine):
    import ray

    needs = NeedsAnAbsentPackage()
    with pytest.raises(ImportError, match=r"'a_package_that_is_absent'\): install the same"):
        _result(ray.remote(lambda: needs).remote())


def test_an_address_without_ray_is_one_error(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense"):
        with pytest.raises(ConnectionError, match=f"no Ray at '{address}'"):
            RayEngine(TASK, 2, address)
    with pytest.raises(ValueError, match="workers is 3"):
        RayEngine(TASK, 2, "127.0.0.1:1", workers=3)


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'nos_optax\[ray\]'"):
        RayEngine(TASK, 2)


@pytest.mark.parametrize("population", [1, 7, 32, 1000, 10_000])
@pytest.mark.parametrize("workers", [1, 2, 100])
@pytest.mark.parametrize("lanes", [None, 64])
def test_task_sizes_keep_every_worker_busy(population, workers, lanes):
    size = task_size(population, workers, lanes)
    assert 1 <= size <= (8 if lanes is None else 4 * lanes)
    assert size == 1 or -(-population // size) >= workers * (1 if lanes else 2)


@pytest.mark.slow
def test_the_benchmark_starts_and_stops_its_own_ray(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, ROOT / "benchmarks" / "ray_scaling.py", "--candidates", "2"]
    command += ["--repeats", "1", "--train-examples", "100", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout and done.stderr == ""
    assert (tmp_path / "ray_scaling.json").exists()


@pytest.mark.slow
def test_the_speed_protocol_is_the_same_on_workers(cluster, tmp_path):
    """Also at rates that were chosen before."""
    task = TaskConfig(accelerator="cpu", task=("digits-mlp",))
    local = LocalEngine(task, iterations=2)
    expected = next(local.evaluate(PROGRAMS[:8], seed=3))[1]
    assert (expected.status == 0).any()
    ray = RayEngine(task, iterations=2, address=cluster.address)
    try:
        assert ray.facts["adam"] == local.facts["adam"]
        assert_whole(list(ray.evaluate(PROGRAMS[:8], seed=3)), expected)
        again = next(local.evaluate(PROGRAMS[:8], seed=7, rates=expected.sweep))[1]
        assert_whole(list(ray.evaluate(PROGRAMS[:8], seed=7, rates=expected.sweep)), again)
    finally:
        ray.close()
        local.close()
