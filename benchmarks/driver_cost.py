"""What do 100, 1,000 and 10,000 workers cost the driver of a search?

Question: the paper's queue had 100 workers. How busy is the one driver process, what does it send
          and hold, and how long do the workers wait, at 100, 1,000 and 10,000?
Method:   measured here, with a local Ray whose tasks do nothing but return a real evaluation: the
          driver's CPU time and bytes on the loopback device for a task, its memory for a task that
          waits and for a worker, CPU time of Ray's two daemons; the CPU time of sampling the
          policy, updating it and recording a candidate; and how unequal candidates are in cost
          (digits, whole protocol, divided by their mean). From these a simulation of a
          batch-synchronous search: the driver samples a batch, submits its tasks one after
          another, free workers take them in order, the driver fetches results one at a time, and
          updates the policy when it has all of them.
Assumed:  a candidate takes --candidate-seconds on average, a task is --task-size candidates, the
          network is never full, no worker is lost, and costs are linear beyond what was measured.
          Of Ray's own traffic between nodes only what one node shows is counted.
Command:  python benchmarks/driver_cost.py
Needs:    pip install 'nos_optax[ray]'
Time:     1 minute on one core.
Writes:   benchmarks/results/driver_cost.json
"""

import argparse
import dataclasses
import heapq
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

ITERATIONS = 2
FLEETS = (100, 1_000, 10_000)  # workers


class Cost(NamedTuple):
    """A cost that grows with the size of the batch."""

    once: float
    each: float

    def of(self, count: int) -> float:
        return self.once + self.each * count


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the driver spends: CPU seconds, bytes."""

    submit: float  # CPU seconds a task
    fetch: float  # CPU seconds a task
    daemons: float  # CPU seconds a task of raylet and GCS, which also run beside the driver
    wire: float  # bytes a task on the loopback device, both ways, everything included
    arguments: float  # bytes of a pickled task's arguments
    result: float  # bytes of a pickled task's result
    waiting: float  # bytes of memory a task that waits
    worker: float  # bytes of memory a worker that the driver is connected to
    base: float  # bytes of memory of the driver itself, JAX and Ray included
    ask: Cost  # CPU seconds a batch and a candidate
    tell: Cost
    record: float  # CPU seconds a candidate: decode, print, hash

    def a_candidate(self, size: int) -> float:
        """Return the driver's CPU seconds for a candidate, in tasks of a size and large batches."""
        return (self.submit + self.fetch) / size + self.ask.each + self.tell.each + self.record


def main() -> None:
    """Measure, simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidate-seconds", type=float, default=60.0)
    parser.add_argument("--task-size", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="per worker")
    parser.add_argument("--tasks", type=int, default=4000, help="to measure with")
    parser.add_argument("--candidates", type=int, default=48, help="whose cost is measured")
    parser.add_argument("--train-examples", type=int, help="of digits (default: 1000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()

    costs = measure(args.tasks, args.task_size)
    for name, value in dataclasses.asdict(costs).items():
        print(f"{name:10}", *(f"{x:.3g}" for x in np.atleast_1d(value)))
    spread = candidate_spread(args.candidates, args.train_examples)
    quantiles = np.quantile(spread, [0, 0.5, 0.9, 1]).round(2).tolist()
    print(f"candidates cost {quantiles} of their mean (least, median, 9 in 10, most)")

    saturating = args.candidate_seconds / costs.a_candidate(args.task_size)
    print(f"one driver is fully busy with {saturating:,.0f} workers")
    rows = []
    for workers in FLEETS:
        for per_worker in args.batches:
            row = simulate(workers, per_worker * workers, args.task_size, spread, costs, args)
            rows.append(row)
            print({key: float(f"{value:.3g}") for key, value in row.items()}, flush=True)
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "assumed": {"candidate_seconds": args.candidate_seconds, "task_size": args.task_size},
        "measured": {k: v._asdict() if isinstance(v, Cost) else v for k, v in vars(costs).items()},
        "candidate_cost_over_mean": spread.round(3).tolist(),
        "workers_that_saturate_the_driver": saturating,
        "simulated": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "driver_cost.json").write_text(json.dumps(content, indent=1) + "\n")


def simulate(workers: int, batch: int, size: int, spread, costs: Costs, args) -> dict:
    """Run three batches on paper; return what the driver and the workers did."""
    rng = np.random.default_rng(0)
    tasks, now, driver, worked = batch // size, 0.0, 0.0, 0.0
    for _ in range(3):
        ask, tell = costs.ask.of(batch), costs.tell.of(batch) + costs.record * batch
        submitted = now + ask + costs.submit * np.arange(1, tasks + 1)
        seconds = args.candidate_seconds * rng.choice(spread, (tasks, size)).sum(axis=1)
        now = submitted[-1]
        for end in sorted(finish(workers, submitted, seconds)):
            now = max(now, end) + costs.fetch
        now += tell
        driver += ask + tell + tasks * (costs.submit + costs.fetch)
        worked += seconds.sum()
    row = {
        "workers": workers,
        "batch": batch,
        "candidates_per_second": 3 * batch / now,
        "driver_cpu": driver / now,
        "daemon_cpu": 3 * tasks * costs.daemons / now,
        "network_bytes_per_second": 3 * tasks * costs.wire / now,
        "driver_memory_megabytes": (costs.base + tasks * costs.waiting + workers * costs.worker)
        / 1e6,
        "workers_idle": 1 - worked / (workers * now),
        # What remains if the driver cost nothing: the wait for a batch's last candidate.
        "workers_idle_with_a_free_driver": idle_of_batches(workers, tasks, size, spread),
    }
    return {name: float(value) for name, value in row.items()}


def finish(workers: int, submitted: np.ndarray, seconds: np.ndarray) -> list[float]:
    """Return when each task is done, if free workers take them in order."""
    free, ends = [0.0] * workers, []
    for start, duration in zip(submitted, seconds, strict=True):
        ends.append(max(start, free[0]) + duration)
        heapq.heapreplace(free, ends[-1])
    return ends


def idle_of_batches(workers: int, tasks: int, size: int, spread: np.ndarray) -> float:
    """Return the workers' idle share where only stragglers cost time."""
    rng = np.random.default_rng(0)
    worked = total = 0.0
    for _ in range(3):
        seconds = rng.choice(spread, (tasks, size)).sum(axis=1)
        total += max(finish(workers, np.zeros(tasks), seconds))
        worked += seconds.sum()
    return 1 - worked / (workers * total)


def measure(tasks: int, size: int) -> Costs:
    """Measure everything but the candidates."""
    worker, waiting = measure_memory(tasks)
    base = memory()
    of_tasks = measure_tasks(tasks, size)
    ask, tell, record = measure_controller()
    return Costs(
        **of_tasks,
        waiting=waiting,
        worker=worker,
        base=base,
        ask=ask,
        tell=tell,
        record=record,
    )


def measure_memory(tasks: int, few: int = 1, many: int = 7) -> tuple[float, float]:
    """Return the bytes that the driver holds for a worker it is connected to and a waiting task."""
    import ray

    from nos_optax.search import TaskConfig
    from nos_optax.search.engines.cluster import join

    join("local", many)

    def nap(seconds, *arguments):
        time.sleep(seconds)

    sleep: Any = ray.remote(num_cpus=1, max_retries=-1)(nap)
    held = []
    for workers in (few, many):
        ray.get([sleep.remote(3) for _ in range(workers)])
        held.append(memory())
    task = TaskConfig(protocol="paper"), ITERATIONS
    waiting = [
        sleep.remote(3600, task, np.zeros(5 * ITERATIONS, np.int32), 0, None, None)
        for _ in range(tasks)
    ]
    time.sleep(2)
    held.append(memory())
    del waiting
    ray.shutdown()
    return (held[1] - held[0]) / (many - few), (held[2] - held[1]) / tasks


def measure_tasks(tasks: int, size: int) -> dict:
    """Return the costs of a task, with the engine itself and tasks that do nothing."""
    import ray
    from ray import cloudpickle

    from nos_optax.search import TaskConfig
    from nos_optax.search.engines.ray import RayEngine

    engine = RayEngine(
        TaskConfig(protocol="paper", accelerator="cpu"),
        ITERATIONS,
        "local",
        workers=2,
        task_size=size,
    )
    programs = np.zeros((tasks * size, 5 * ITERATIONS), np.int32)
    _, result = next(engine.evaluate(programs[:size], seed=0))

    def nothing(task, programs, seed, epochs):
        return result

    engine._evaluate = ray.remote(num_cpus=1, max_retries=-1)(nothing)
    list(engine.evaluate(programs[: 100 * size], seed=0))
    idle = rate_of_loopback()
    start, cpu, daemons, wire = time.time(), time.process_time(), daemon_seconds(), loopback()
    parts = engine.evaluate(programs, seed=0)
    next(parts)
    submit = time.process_time() - cpu
    assert len(list(parts)) == tasks - 1
    fetch = time.process_time() - cpu - submit
    daemons = daemon_seconds() - daemons
    wire = loopback() - wire - idle * (time.time() - start)

    a_task = (engine.task, programs[:size], 0, None, None)
    engine.close()
    return {
        "submit": submit / tasks,
        "fetch": fetch / tasks,
        "daemons": daemons / tasks,
        "wire": wire / tasks,
        "arguments": len(cloudpickle.dumps(a_task)),
        "result": len(cloudpickle.dumps(result)),
    }


def rate_of_loopback(seconds: float = 3.0) -> float:
    """Return the bytes a second on the loopback device while nobody works."""
    before = loopback()
    time.sleep(seconds)
    return (loopback() - before) / seconds


def measure_controller(small: int = 64, large: int = 1024) -> tuple[Cost, Cost, float]:
    """Return the CPU seconds of sampling, of updating, and of recording one candidate."""
    from nos_optax.grammar import Program, SearchSpace, decode
    from nos_optax.search import PPO

    seconds: dict[str, list[float]] = {"ask": [], "tell": []}
    tokens = np.empty((0, 0))
    for count in (small, large):
        strategy = PPO(SearchSpace(iterations=ITERATIONS), jax.random.key(0))
        times: dict[str, list[float]] = {"ask": [], "tell": []}
        for _ in range(4):  # the first one compiles
            start = time.process_time()
            tokens = strategy.ask(count)
            asked = time.process_time()
            strategy.tell(tokens, np.linspace(0, 1, count, dtype=np.float32))
            jax.block_until_ready(strategy.state)
            times["ask"].append(asked - start)
            times["tell"].append(time.process_time() - asked)
        for name, values in times.items():
            seconds[name].append(min(values))

    def line(name: str) -> Cost:
        at_small, at_large = seconds[name]
        each = max(0.0, (at_large - at_small) / (large - small))
        return Cost(max(0.0, at_small - each * small), each)

    start = time.process_time()
    for row in tokens:
        program = Program.from_array(row)
        rule = decode(program)
        json.dumps({"rule": str(rule), "tokens": str(program), "digest": rule.digest})
    return line("ask"), line("tell"), (time.process_time() - start) / len(tokens)


def candidate_spread(count: int, train_examples: int | None) -> np.ndarray:
    """Return what random candidates cost, each alone on one core, over their mean."""
    from nos_optax.grammar import SearchSpace
    from nos_optax.search import TaskConfig
    from nos_optax.search.engines.trainers import make_trainer

    config = TaskConfig(protocol="paper", accelerator="cpu", train_examples=train_examples)
    trainer = make_trainer(config, ITERATIONS, jax.local_devices()[:1])
    programs = np.asarray(SearchSpace(iterations=ITERATIONS).sample(jax.random.key(0), count))
    trainer.evaluate(programs[:1])
    seconds = []
    for program in programs:
        start = time.process_time()
        trainer.evaluate(program[None])
        seconds.append(time.process_time() - start)
    return np.array(seconds) / np.mean(seconds)


def memory() -> int:
    """Return the bytes that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def loopback() -> int:
    """Return the bytes that went through the loopback device so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[1])


def daemon_seconds() -> float:
    """Return the CPU seconds of the raylet and the GCS that this process started."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            fields = (process / "stat").read_text().rsplit(")")[1].split()
        except OSError:
            continue  # it ended meanwhile
        if name in ("raylet", "gcs_server") and int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
