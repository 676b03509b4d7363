"""The measurements of the suite of small tasks, one section each, in the manner of sections.py."""

import contextlib
import dataclasses
import importlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from bench import Bench
from peaks import DATA_SHEETS, PRECISIONS, measure_peaks
from scipy.stats import spearmanr
from timing import peak_memory, summary

from nos_optax.grammar import RuleError, SearchSpace, encode, rules
from nos_optax.grammar.vocabulary import OPERANDS, UNARY
from nos_optax.population import loop as population_loop
from nos_optax.population.kernel import kernel_works
from nos_optax.population.loop import TaskLoop
from nos_optax.population.protocol import TRAINED
from nos_optax.population.reference import LONGEST, reference_store, steps_of
from nos_optax.population.suite import (
    SuiteTrainer,
    Workload,
    load_suite,
)
from nos_optax.search import (
    PPO,
    Evolution,
    LocalEngine,
    Probes,
    SearchConfig,
    Strategy,
    run_search,
)
from nos_optax.search.config import GIVEN
from nos_optax.search.finals import verdict

Findings = Iterator[tuple[str, object]]

ITERATIONS = 3
LANES = {False: 1024, True: 8}  # on a card, and in a trial
# What makes a rule hard to read, or a search slow to repeat, is left out: noise, drops, restarts.
SPACE = SearchSpace(
    ITERATIONS,
    operands=tuple(
        w for w in OPERANDS if w not in ("noise", "annealed_noise", "rd(10)", "rd(20)", "1e-1*w")
    ),
    unary=tuple(w for w in UNARY if not w.startswith(("drop", "sigmoid"))),
)
TRIED = ("adam", "(1 + sign(g) * sign(m)) * adam", "rmsprop", "m", "g", "sign(m)", "cd * adam")


def sanity(bench: Bench) -> Findings:
    """Compare children's losses with the CPU's; train beside a child that is infinite at once."""
    steps = 5 if _is_tiny(bench) else 20
    yield "the kernel works", kernel_works(bench.device)
    cpu = jax.local_devices(backend="cpu")[:1]
    for workload in _workloads(bench)[:: len(load_suite()) - 1]:  # the first and the last
        loops = {"cpu": _loop(workload, cpu, 1, False)}
        for name, fused in _evaluators(bench):
            loops[name] = _loop(workload, [bench.device], len(TRIED), fused)
        with _precision("float32"):
            _compile(loops.values())
            expected = _some_losses(loops.pop("cpu"), steps)
            found = {}
            for name, loop in loops.items():
                alone = _some_losses(loop, steps)
                beside = _some_losses(loop, steps, neighbour="log(g - g)")
                found[name] = float(np.max(np.abs(alone / expected - 1)))
                found[f"{name}, beside a child that is nan"] = float(
                    np.max(np.abs(beside - alone)[:-1])
                )
        yield workload.task.name, found
        yield "headline", f"{workload.task.name}: {_short(found)}"


def suite_throughput(bench: Bench) -> Findings:
    """Evaluate whole candidates on the suite: random ones, and only such as learn."""
    programs = _passing(LANES[_is_tiny(bench)])
    for name, fused in _evaluators(bench):
        trainer, seconds = _trainer(bench, fused)
        findings: dict[str, Any] = {"lanes": trainer.lanes, "compile_seconds": seconds}
        yield name, findings
        evaluation = trainer.evaluate(programs)
        learned = programs[evaluation.status == TRAINED]
        known = _known()
        populations = {
            "random": programs,
            "learning": np.resize(np.concatenate([known, learned]), programs.shape),
        }
        for kind, population in populations.items():
            times, trained = [], 0
            for seed in range(1 if _is_tiny(bench) else 2):
                start = time.perf_counter()
                trained = int((trainer.evaluate(population, seed + 1).status == TRAINED).sum())
                times.append(time.perf_counter() - start)
            findings[kind] = {
                "candidates": len(population),
                "learned": trained,
                **summary(times),
                "candidates_per_second": len(population) / float(np.median(times)),
            }
            yield name, findings | peak_memory(bench.device)
        rates = [f"{findings[k]['candidates_per_second']:.4g} {k}" for k in populations]
        yield "headline", f"{name}: {', '.join(rates)} candidates a second"


def suite_profile(bench: Bench) -> Findings:
    """Time a child's step on each task: with its rule, and with plain gradient descent in place."""
    tiny = _is_tiny(bench)
    count, steps = LANES[tiny], 4 if tiny else 40
    peaks = measure_peaks(bench.size.matrix, bench.size.copied_bytes, bench.size.repeats)
    yield "measured_peaks", peaks
    bandwidth, float32 = float(peaks["bandwidth"]), float(peaks["float32"])
    sheet = DATA_SHEETS.get(bench.device.device_kind)
    if sheet:
        yield "data_sheet", sheet._asdict()
    workloads = _workloads(bench)
    ways = [("plain descent", False), *_evaluators(bench)]
    loops = {
        (w.task.name, name): _loop(w, [bench.device], count, fused)
        for name, fused in ways
        for w in workloads
    }
    with mock.patch.object(population_loop, "apply_program", _descent):
        _compile(loop for (_, name), loop in loops.items() if name == "plain descent")
    _compile(loops.values())
    headlines = []
    for workload in workloads:
        programs = np.resize(_known(), (count, ITERATIONS, 5))
        step = {
            name: _step_seconds(loops[workload.task.name, name], programs, steps, bench) / count
            for name, _ in ways
        }
        floor = on_paper(workload, count)
        limits = {
            "bytes": floor["bytes"] / bandwidth,
            "operations": floor["operations"] / float32,
        }
        row = {
            "child_step_seconds": step,
            "rule_share": {
                n: 1 - step["plain descent"] / s for n, s in step.items() if n != "plain descent"
            },
            "on_paper": floor,
            "floor_seconds": limits,
            "fraction_of_limit": {n: max(limits.values()) / s for n, s in step.items()},
        }
        yield workload.task.name, row
        best = min((s, n) for n, s in step.items() if n != "plain descent")[1]
        headlines.append(
            f"{workload.task.name} {step[best] * 1e6:.3g} us, rule {row['rule_share'][best]:.0%}, "
            f"{row['fraction_of_limit'][best]:.0%} of the limit"
        )
        yield "headline", "; ".join(headlines)


def on_paper(workload: Workload, lanes: int) -> dict[str, float]:
    """Return the fewest operations and bytes of a child's step, worked out, not measured.

    Operations are those of the gradient as XLA counts them before it optimizes, and 100 a
    parameter for the rule (three averages and some ten functions). Bytes are those that must pass
    through the memory if the gradient and the rule are one kernel each: the gradient reads the
    weights and writes itself; the rule reads it, and reads and writes weights and three averages.
    """
    task = workload.task
    shapes = jax.eval_shape(task.init_flat, jax.random.key(0))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((workload.minibatch_size, *x.shape[1:]), x.dtype),
        task.train,
    )

    def gradient(params, state, batch, key):
        def loss(params):
            return task.loss(task.unflatten(params), state, batch, key)

        return jax.grad(loss, has_aux=True)(params)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        cost = jax.jit(gradient).lower(*shapes, batch, jax.random.key(0)).cost_analysis()
        if not cost:
            raise RuntimeError("XLA does not count the operations of this task's gradient")
    size = task.num_params
    return {
        "parameters": size,
        "operations": float(cost["flops"]) + 100.0 * size,
        "bytes": 4.0 * size * (1 + 1 + 1 + 2 * 4),
    }


def suite_precision(bench: Bench) -> Findings:
    """Rank rules by the suite with cheaper products, and in float32 on the CPU."""
    count = LANES[True] if _is_tiny(bench) else 96
    programs = np.concatenate([_known(), _passing(count)])[:count]
    cpus = jax.local_devices(backend="cpu")
    start = time.perf_counter()
    reference = SuiteTrainer(_workloads(bench), ITERATIONS, cpus, store=reference_store())
    expected = reference.evaluate(programs)
    yield "float32 on the CPU", {"seconds": time.perf_counter() - start}
    both = expected.status == TRAINED
    for name in ("default", "float32", "bf16") if bench.device.platform != "cpu" else ("default",):
        with _precision(name):
            trainer, _ = _trainer(bench, kernel_works(bench.device))
            reward = trainer.evaluate(programs).reward
        correlation = {
            "all": float(spearmanr(expected.reward, reward).statistic),
            "learned": float(spearmanr(expected.reward[both], reward[both]).statistic),
        }
        difference = float(np.abs(expected.reward - reward)[both].mean())
        yield name, {"rank_correlation": correlation, "mean_difference": difference}
        yield "headline", f"{name}: rank correlation {correlation['all']:.4f} with the CPU's"


def suite_pytorch(bench: Bench) -> Findings:
    """Train one child at a time in PyTorch, by Adam on flat tensors, eager and compiled."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        yield "left out", f"no PyTorch: {error}"
        return
    on_cpu = bench.device.platform == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        yield "left out", f"PyTorch {torch.__version__} does not see the card"
        return
    sys.path.append(str(Path(__file__).parents[1]))
    from peers.pytorch_perceptron import step_seconds

    yield "version", torch.__version__
    steps = 20 if on_cpu else 300
    workload = load_suite(["digits-mlp"])[0]
    count = LANES[on_cpu]
    loop = _loop(workload, [bench.device], count, kernel_works(bench.device))
    programs = np.resize(encode("adam", ITERATIONS).array, (count, ITERATIONS, 5))
    ours = _step_seconds(loop, programs, min(steps, 40), bench) / count
    yield "ours, seconds a child's step", ours
    for name in ("eager",) if on_cpu else ("eager", "compiled"):
        seconds, warm_up = step_seconds("cpu" if on_cpu else "cuda", name == "compiled", steps)
        yield name, {"seconds": seconds, "warm_up_seconds": warm_up, "ratio": seconds / ours}
        yield "headline", f"{name} takes {seconds / ours:.4g} times as long"


class TimeIsUp(Exception):
    """Ends a search that has no number of samples to reach."""


def search(bench: Bench) -> Findings:
    """Search the suite from a random start, for as long as there is; then train the best again."""
    tiny = _is_tiny(bench)
    finals = 75.0  # seconds kept for them, which compile for each rival that is no rule
    name = f"suite_{bench.device.platform}_{bench.seed}"
    config = SearchConfig(
        accelerator="cpu" if bench.device.platform == "cpu" else "gpu",
        samples=16 if tiny else 10**7,
        batch_size=8 if tiny else 4096,  # half of them are repeats, or hopeless
        iterations=SPACE.iterations,
        operands=SPACE.operands,
        unary=SPACE.unary,
        strategy=GIVEN,
        seed=bench.seed,
        finalists=2 if tiny else 8,
        final_seeds=2 if tiny else 8,
        watch=(),  # all minutes are the search's
        out=bench.runs / name,
    )
    strategy = _strategy(bench.seed)
    yield "strategy", {"name": type(strategy).__name__, "seed": bench.seed}
    start = time.perf_counter()
    engine = LocalEngine(config, ITERATIONS, _workloads(bench) if tiny else ())
    yield "engine_seconds", time.perf_counter() - start
    done: list = []

    def on_batch(candidates):
        done[:] = candidates
        if bench.seconds_left < finals and not tiny:
            raise TimeIsUp

    start = time.perf_counter()
    with contextlib.suppress(TimeIsUp):
        result = run_search(config, on_batch, strategy=strategy, engine=engine)
    seconds = time.perf_counter() - start
    trained = sum(c.is_training for c in done)
    yield (
        "search",
        {
            "seconds": seconds,
            "samples": len(done),
            "distinct_trainings": trained,
            "trainings_per_second": trained / seconds,
            "learned": sum(c.is_training and c.status == "trained" for c in done),
            "best": _best(done, 20),
        },
    )
    yield "headline", f"{trained} distinct trainings in {seconds:.0f} s"
    if not tiny:
        again = dataclasses.replace(config, samples=len(done), resume=True)
        result = run_search(again, strategy=_strategy(bench.seed), engine=engine)
    engine.close()
    ranked = sorted(result.results, key=lambda r: -r.mean)
    rows = [{"name": r.name, "rule": r.rule, "mean": r.mean, "rewards": r.rewards} for r in ranked]
    yield "finals", rows
    said = "no rule learned" if result.comparison is None else verdict(result.comparison)
    yield "headline", f"{trained} distinct trainings in {seconds:.0f} s; {said}"


def _strategy(seed: int) -> Strategy:
    """Return evolution with a population as large as a generation; for odd seeds the controller."""
    key = jax.random.key(seed)
    if seed % 2:
        return PPO(SPACE, key)
    return Evolution(SPACE, key, population_size=4096, tournament_size=8, founders=512)


def _best(candidates: list, count: int) -> list[dict]:
    own = [c for c in candidates if c.is_training and c.status == "trained"]
    return [
        {"rule": c.rule, "reward": c.reward, "sample": c.id}
        for c in sorted(own, key=lambda c: -c.reward)[:count]
    ]


SECTIONS: dict[str, Callable] = {
    section.__name__: section
    for section in (
        sanity,
        suite_throughput,
        suite_profile,
        suite_precision,
        suite_pytorch,
        search,
    )
}


def _is_tiny(bench: Bench) -> bool:
    return bench.device.platform == "cpu"


def _workloads(bench: Bench) -> list[Workload]:
    """Return the suite; its first task, for a few steps, where this is only a trial."""
    if not _is_tiny(bench):
        return load_suite()
    (workload,) = load_suite(["digits-mlp"])
    return [dataclasses.replace(workload, horizon=16, minibatch_size=8)]


def _evaluators(bench: Bench) -> list[tuple[str, bool]]:
    """Return the ways to run rules side by side: one kernel, where it can be, and selects."""
    selects = ("selects", False)
    return [("kernel", True), selects] if kernel_works(bench.device) else [selects]


def _loop(workload: Workload, devices, lanes: int, fused: bool) -> TaskLoop:
    """Return a loop like the suite's own, so that its compiled program is in the cache."""
    return TaskLoop(
        workload.task,
        workload.minibatch_size,
        steps_of(LONGEST, workload.horizon),
        ITERATIONS,
        devices,
        lanes,
        fused,
    )


def _compile(loops: Iterable[TaskLoop]) -> None:
    """Compile several loops side by side: XLA works outside Python's lock."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(TaskLoop.compile, loops))


@contextlib.contextmanager
def _precision(name: str) -> Generator[None]:
    """Set the precision of matrix products in all threads, as the context of JAX does in one."""
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", PRECISIONS[name])
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def _trainer(bench: Bench, fused: bool) -> tuple[SuiteTrainer, float]:
    """Return a compiled trainer of the suite and the seconds that compiling took."""
    start, lanes = time.perf_counter(), LANES[_is_tiny(bench)]
    trainer = SuiteTrainer(
        _workloads(bench), ITERATIONS, [bench.device], lanes, store=reference_store(), fused=fused
    )
    trainer.compile()
    return trainer, time.perf_counter() - start


def _known() -> np.ndarray:
    """Return the catalogue's rules that are short enough, `int32[P, G, 5]`."""
    programs = []
    for text in [*TRIED, *(rule.rule for rule in rules.values())]:
        with contextlib.suppress(RuleError):
            programs.append(encode(text, ITERATIONS).array)
    return np.stack(programs)


def _passing(count: int) -> np.ndarray:
    """Return random rules that the probes do not reject, no two alike: what a search trains."""
    probes, found, key = Probes(ITERATIONS), {}, 0
    while len(found) < count:
        sample = np.asarray(SPACE.sample(jax.random.key(key), 4 * count))
        for row, probed in zip(sample, probes(sample), strict=True):
            if probed.rejection is None:
                found.setdefault(probed.fingerprint, row.reshape(ITERATIONS, 5))
        key += 1
    return np.stack(list(found.values())[:count])


def _some_losses(loop: TaskLoop, steps: int, neighbour: str | None = None) -> np.ndarray:
    """Return the mean training losses of TRIED, the last with a neighbour in its place if given."""
    texts = [*TRIED[:-1], neighbour or TRIED[-1]]
    programs = np.stack([encode(text, ITERATIONS).array for text in texts])
    rates = np.full(len(texts), 1e-3, np.float32)
    return np.asarray(loop.train(programs, rates, 0, steps).train)


def _step_seconds(loop: TaskLoop, programs: np.ndarray, steps: int, bench: Bench) -> float:
    """Return the seconds of a step of all children: of many steps, less those of one."""
    rates = np.full(len(programs), 1e-4, np.float32)
    repeats = bench.size.repeats

    def seconds(count: int) -> float:
        start = time.perf_counter()
        loop.train(programs, rates, 0, count)
        return time.perf_counter() - start

    seconds(steps)  # compiles
    many = float(np.median([seconds(steps) for _ in range(repeats)]))
    one = float(np.median([seconds(1) for _ in range(repeats)]))
    return (many - one) / (steps - 1)


def _descent(program, streams, state, g, w, total_steps, key):
    """Stand in for `apply_program`: the update is the gradient, and nothing is averaged."""
    return g, state


def _short(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in found.items())
