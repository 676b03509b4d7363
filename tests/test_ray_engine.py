"""Evaluation by Ray: the same rewards as on this machine, whatever is killed."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from nos_optax.grammar import SearchSpace, decode, encode
from nos_optax.population import DatasetError
from nos_optax.search import AcceleratorError, TaskConfig
from nos_optax.search.engines import cluster as cluster_module
from nos_optax.search.engines.local import LocalEngine
from nos_optax.search.engines.ray import RayEngine, WorkerError, _result, task_size

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


def with_workers(engine, monkeypatch, does, deadly=(), size=8):
    """Let workers do something for some rows in place of all evaluations, which are the tokens."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers lack this file
    deadly = {PROGRAMS[row].tobytes() for row in deadly}

    def evaluate(task, programs, *others):
        if any(program.tobytes() in deadly for program in programs):
            does()
        return programs

    monkeypatch.setattr(engine, "_evaluate", ray.remote(max_retries=0)(evaluate))
    monkeypatch.setattr(engine, "task_size", size)


def exit_at_once():
    os._exit(7)


def run_out_of_memory():
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does


def hang():
    time.sleep(1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "deadly", "size"),
    [(exit_at_once, (5,), 8), (run_out_of_memory, (0, 7, 59), 8), (exit_at_once, (59,), 1)],
)
def test_rules_that_end_their_workers_are_named_and_all_others_come(
    engine, monkeypatch, does, deadly, size
):
    with_workers(engine, monkeypatch, does, deadly, size)
    parts = []
    with pytest.raises(WorkerError, match="alone ended 3 workers each") as error:
        for part in engine.evaluate(PROGRAMS, seed=3):
            parts.append(part)
    came = np.concatenate([rows for rows, _ in parts])
    assert sorted(came) == sorted(set(range(len(PROGRAMS))) - set(deadly))
    found = np.concatenate([x for _, x in parts]).reshape(-1, *PROGRAMS.shape[1:])
    np.testing.assert_array_equal(found, PROGRAMS[came])
    assert all(str(decode(PROGRAMS[row])) in str(error.value) for row in deadly)


@pytest.mark.slow
def test_a_task_that_ends_every_worker_stops_soon(engine, monkeypatch):
    with_workers(engine, monkeypatch, exit_at_once, range(len(PROGRAMS)))
    with pytest.raises(WorkerError, match="6 workers ended and none had a result"):
        next(engine.evaluate(PROGRAMS, seed=3))


@pytest.mark.slow
def test_a_task_that_hangs_has_a_time_limit(engine, monkeypatch):
    with_workers(engine, monkeypatch, hang, deadly=[3], size=1)
    monkeypatch.setattr(engine, "timeout", 20)
    parts = []
    with pytest.raises(WorkerError, match="no worker had a result within 20 seconds") as error:
        for part in engine.evaluate(PROGRAMS, seed=3):
            parts.append(part)
    assert len(parts) == len(PROGRAMS) - 1
    assert str(decode(PROGRAMS[3])) in str(error.value)
    with_workers(engine, monkeypatch, hang)  # and its worker is free again
    assert len(list(engine.evaluate(PROGRAMS, seed=3))) == 8


DEADLY_TASK = """
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from nos_optax.population import Task

DRIVER = {driver}

def only_on_workers(act):
    if os.getppid() != DRIVER:
        act()

def task():
    {factory}
    x = np.zeros((64, 2), np.float32)

    def loss(params, state, batch, key):
        return jnp.mean((params - batch) ** 2), state

    def metric(params, state, batch):
        return -jnp.mean((params - batch) ** 2, axis=-1)

    init = lambda key: (jnp.ones(2), ())
    return Task("deadly", init, loss, metric, x, x, chance=-1.0, perfect=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        ("only_on_workers(lambda: os._exit(1))", (), "loading the task ended 3 workers"),
        (
            "only_on_workers(lambda: time.sleep(1000))",
            ("--ray-timeout", "15"),
            "no worker had a result within 15 seconds (--ray-timeout), waiting for loading",
        ),
        ("{}['absent']", (), "task 'deadly:task' failed at"),
    ],
)
def test_a_command_on_workers_ends_in_one_message(tmp_path, factory, options, said):
    pytest.importorskip("ray")
    text = DEADLY_TASK.replace("{driver}", str(os.getpid())).replace("{factory}", factory)
    (tmp_path / "deadly.py").write_text(text)
    command = [sys.executable, "-m", "nos_optax.search", "--engine", "ray", "--samples", "8"]
    command += ["--task", "deadly:task", "--out", tmp_path / "run", *options]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


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


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail\r\n"])
def test_a_port_that_is_no_rays_is_refused_at_once(monkeypatch, answer):
    """Ray itself waits for minutes."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster_module, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            connection.sendall(answer)
            time.sleep(1)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Ray at '{address}'"):
            RayEngine(TASK, 2, address)


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
    good = [encode(rule, 2).array.ravel() for rule in ("adam", "ld * sign(m)")]
    programs = np.concatenate([PROGRAMS[:6], good])
    expected = next(local.evaluate(programs, seed=3))[1]
    assert (expected.status == 0).any()
    ray = RayEngine(task, iterations=2, address=cluster.address)
    try:
        assert ray.facts["adam"] == local.facts["adam"]
        assert_whole(list(ray.evaluate(programs, seed=3)), expected)
        again = next(local.evaluate(programs, seed=7, rates=expected.sweep))[1]
        assert_whole(list(ray.evaluate(programs, seed=7, rates=expected.sweep)), again)
    finally:
        ray.close()
        local.close()
