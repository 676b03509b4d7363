"""The measurements, one section each: they yield (name, finding) as soon as it is known."""

import importlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from bench import ITERATIONS, Bench
from child_step import Step, by_xla, compile_gradient, on_paper
from peaks import DATA_SHEETS, measure_peaks
from scipy.stats import spearmanr
from short_trainer import short_trainer
from timing import peak_memory, seconds_of, summary

from nos_optax.grammar import encode, parse
from nos_optax.population import PopulationTrainer, Protocol
from nos_optax.population import loop as population_loop
from nos_optax.population.protocol import TRAINED
from nos_optax.population.task import paper_child

Findings = Iterator[tuple[str, object]]


def lanes(bench: Bench) -> Findings:
    """Time a child's step with more and more lanes, all of them full."""
    seconds: dict[int, float] = {}
    rows: list[dict] = []
    for count in bench.size.lanes:
        trainer, compile_seconds = bench.step_trainer(count)
        trainer.evaluate(_copies("g", count))
        if trainer.lanes < count:
            rows.append({"lanes": count, "left out": "out of memory"})
            yield "rows", rows
            continue
        step = _step_time(trainer, _copies("g", count), bench.size.repeats)
        seconds[count] = step["seconds"]
        rows.append(
            {"lanes": count, "compile_seconds": compile_seconds, "child_step": step}
            | peak_memory(bench.device)
        )
        yield "rows", rows
        best = best_lanes(
            seconds, len(bench.dataset.train_images), bench.size.protocol, bench.size.random
        )
        yield "best", best
        yield "headline", f"{best} lanes, {1e6 * seconds[best]:.1f} us a child step"


def best_lanes(seconds: Mapping[int, float], examples: int, protocol: Protocol, share: int) -> int:
    """Return the lanes with which a device evaluates its share of a population fastest.

    Half of the candidates are taken to survive the sweep: more than at the start of a search, fewer
    than at its end.

    Args:
        seconds: per child and step, for each number of lanes.
        examples: in the training set.
        protocol: how a candidate earns its reward.
        share: candidates of one device.
    """
    sweep_steps = max(1, min(protocol.sweep_examples, examples) // protocol.batch_size)
    train_steps = examples // protocol.batch_size * protocol.epochs
    swept, trained = share * len(protocol.learning_rates), -(-share // 2)

    def total(lanes: int) -> float:
        # Empty lanes of the last group take as long as full ones.
        steps = -(-swept // lanes) * sweep_steps + -(-trained // lanes) * train_steps
        return steps * lanes * seconds[lanes]

    return min(sorted(seconds), key=total)


def throughput(bench: Bench) -> Findings:
    """Evaluate whole candidates: random ones, and only such as survive the sweep."""
    trainer, compile_seconds = bench.full_trainer()
    yield "lanes", bench.lanes
    yield "compile_seconds", compile_seconds
    yield "child_steps_of_a_survivor", _child_steps(trainer)
    hourly: dict[str, str] = {}
    for name in ("random", "surviving"):
        programs = bench.random_programs() if name == "random" else bench.surviving_programs()
        seconds = []
        for _ in range(bench.size.full_repeats):
            start = time.perf_counter()
            evaluation = bench.evaluate(programs)
            seconds.append(time.perf_counter() - start)
            if name == "random":
                bench.keep_survivors(programs, evaluation)
            row = _population_row(trainer, evaluation.status, seconds)
            yield name, row
            hourly[name] = f"{row['candidates_per_hour']:.0f} {name}"
            yield "headline", "candidates an hour: " + ", ".join(hourly.values())
    yield "lanes_after", trainer.lanes  # fewer than before, had the memory not sufficed


def floor(bench: Bench) -> Findings:
    """Compare a child's step with its arithmetic, its memory traffic and what the card can do."""
    size, count = bench.size, bench.lanes
    step_trainer, _ = bench.step_trainer(count)
    net = paper_child(bench.dataset, bench.device)
    paper = on_paper(net, size.protocol.batch_size, count)
    yield "on_paper", paper._asdict() | {"product_flops": paper.product_flops, "flops": paper.flops}

    compiled, arguments = compile_gradient(net, size.protocol.batch_size, count)
    xla = by_xla(compiled, count)
    yield "by_xla", xla
    jax.block_until_ready(compiled(*arguments))
    gradient = seconds_of(lambda: compiled(*arguments), size.repeats, calls=5)["seconds"] / count
    yield "gradient_seconds", gradient
    step = _step_time(step_trainer, _copies("g", count), size.repeats)["seconds"]
    yield "child_step_seconds", step

    measured = measure_peaks(size.matrix, size.copied_bytes, size.repeats)
    yield "measured_peaks", measured
    rates = {name: value for name, value in measured.items() if isinstance(value, float)}
    against = _against(rates, paper, xla, gradient, step)
    yield "against_measured_peaks", against
    yield (
        "headline",
        f"a child step of {1e6 * step:.1f} us reaches "
        f"{1 / against['step_over_floor']['default']:.1%} of the measured limit that binds",
    )
    kind = bench.device.device_kind
    if kind in DATA_SHEETS:
        sheet = DATA_SHEETS[kind]._asdict()
        yield "data_sheet", sheet
        yield "against_data_sheet", _against(sheet, paper, xla, gradient, step)
    else:
        yield "data_sheet", {"left out": f"no figures for {kind!r}, only for {list(DATA_SHEETS)}"}


def _against(peak: dict, paper: Step, xla: dict, gradient: float, step: float) -> dict:
    """Return the fractions of a device's rates that are reached, and the distance to the floor."""
    rates = {name: rate for name, rate in peak.items() if name != "bandwidth"}
    traffic = {
        "pass_bytes": paper.pass_bytes / step,
        "least_bytes": paper.least_bytes / step,
        "by_xla_in_gradient": xla["bytes"] / gradient,
    }
    moving = paper.least_bytes / peak["bandwidth"]
    return {
        "arithmetic": {name: paper.flops / step / rate for name, rate in rates.items()},
        "bandwidth": {name: rate / peak["bandwidth"] for name, rate in traffic.items()},
        "step_over_floor": {
            name: step / max(paper.seconds(rate, peak["float32"]), moving)
            for name, rate in rates.items()
        },
    }


def precision(bench: Bench) -> Findings:
    """Evaluate the surviving rules with matrix products of each precision."""
    programs = bench.surviving_programs()
    rewards, correlations = {}, []
    for name in bench.size.precisions:
        try:
            _, compile_seconds = bench.full_trainer(name)
            start = time.perf_counter()
            rewards[name] = bench.evaluate(programs, name).reward
            seconds = time.perf_counter() - start
        except Exception as error:  # A device that lacks the algorithm says so in its own way.
            yield name, {"left out": f"{type(error).__name__}: {error}"}
            continue
        agreement = _agreement(rewards["float32"], rewards[name])
        yield (
            name,
            {
                "compile_seconds": compile_seconds,
                "candidates_per_hour": 3600 * len(programs) / seconds,
                "mean_reward": float(rewards[name].mean()),
                **agreement,
            },
        )
        correlations.append(f"{agreement['rank_correlation']:.3f} {name}")
        yield "headline", "rank correlation with float32: " + ", ".join(correlations)
    another_seed = bench.evaluate(programs, "float32", seed=1).reward
    yield "float32 with another seed", _agreement(rewards["float32"], another_seed)


def _agreement(a: np.ndarray, b: np.ndarray) -> dict:
    return {
        "rank_correlation": float(spearmanr(a, b).statistic),
        "mean_difference": float(np.abs(a - b).mean()),
    }


def interpreter(bench: Bench) -> Findings:
    """Time steps against those of a trainer in which the rule is replaced by the gradient."""
    count = bench.lanes

    def the_gradient(program, streams, state, g, w, total_steps, key):
        return g, state

    with mock.patch.object(population_loop, "apply_program", the_gradient):
        plain = short_trainer(
            bench.dataset,
            bench.size.protocol,
            ITERATIONS,
            bench.device,
            count,
            bench.size.steps,
            fused=False,
        )
        plain.evaluate(_copies("g", count))  # compiles
    interpreted, _ = bench.step_trainer(count)
    populations = {
        "g": _copies("g", count),
        "drop(g, 0.3) * exp(sign(g) * sign(m))": _copies(
            "drop(g, 0.3) * exp(sign(g) * sign(m))", count
        ),
        "surviving": np.resize(bench.surviving_programs(), (count, ITERATIONS, 5)),
    }
    for programs in populations.values():
        interpreted.evaluate(programs)
    # Within a round, so that what slows the machine for a while slows both.
    base, steps = [], {name: [] for name in populations}
    for _ in range(bench.size.rounds):
        base.append(_step_time(plain, populations["g"], repeats=1)["seconds"])
        for name, programs in populations.items():
            steps[name].append(_step_time(interpreted, programs, repeats=1)["seconds"])
    yield "step_without_a_rule", summary(base)
    for name, seconds in steps.items():
        shares = [1 - a / b for a, b in zip(base, seconds, strict=True)]
        share = {"share": float(np.median(shares)), "share_range": [min(shares), max(shares)]}
        yield name, summary(seconds) | share
        yield "headline", f"the rule's share of a step: {share['share']:.1%} ({name})"


def pytorch(bench: Bench) -> Findings:
    """Evaluate a few surviving rules one after another in PyTorch, eager and compiled."""
    try:
        torch = importlib.import_module("torch")

        sys.path.append(str(Path(__file__).parents[1]))
        from peers.pytorch_loop import Loop
    except ImportError as error:
        yield "left out", f"no PyTorch: {error}"
        return
    on_cpu = bench.device.platform == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        yield "left out", f"PyTorch {torch.__version__} does not see the card"
        return
    yield "version", torch.__version__
    yield "tf32_convolutions", torch.backends.cudnn.allow_tf32
    trainer = bench.new_trainer()
    programs = bench.surviving_programs()[: bench.size.peer_candidates]
    ours = bench.content["sections"].get("throughput", {}).get("surviving", {})
    headlines: dict[str, str] = {}
    for name, compile_child in (("eager", False), ("compiled", True)):
        if compile_child and on_cpu:
            yield name, {"left out": "on CPU: it compiles for half a minute"}
            continue
        loop = Loop(trainer, bench.dataset, "cpu" if on_cpu else "cuda", compile_child)
        order = torch.tensor(trainer.order(0)).long().to(loop.device)
        start = time.perf_counter()
        loop.train_child(parse("g").expression, 1e-3, order[:5], 0)
        warm_up = time.perf_counter() - start
        seconds = []
        for program in programs:
            start = time.perf_counter()
            loop.reward(program)
            seconds.append(time.perf_counter() - start)
            hourly = 3600 / float(np.mean(seconds))
            row = {"warm_up_seconds": warm_up, **summary(seconds), "candidates_per_hour": hourly}
            if ours:
                row["population_is_faster"] = ours["candidates_per_hour"] / hourly
            yield name, row
            headlines[name] = f"{hourly:.0f} {name}"
            if ours:
                headlines[name] += f" (the population is {row['population_is_faster']:.1f} x)"
            yield "headline", "PyTorch's candidates an hour: " + ", ".join(headlines.values())


SECTIONS = {
    section.__name__: section
    for section in (lanes, throughput, pytorch, precision, floor, interpreter)
}


def _copies(rule: str, count: int) -> np.ndarray:
    return np.stack([encode(rule, ITERATIONS).array] * count)


def _step_time(trainer: PopulationTrainer, programs: np.ndarray, repeats: int) -> dict:
    """Return the seconds per child and step of a `short_trainer` with its lanes full."""
    time = seconds_of(lambda: trainer.evaluate(programs), repeats)
    steps = trainer.sweep_steps * len(programs)
    return {
        "seconds": time["seconds"] / steps,
        "range": [seconds / steps for seconds in time["range"]],
    }


def _child_steps(trainer: PopulationTrainer) -> int:
    """Return the steps of a candidate that survives the sweep."""
    return len(trainer.protocol.learning_rates) * trainer.sweep_steps + trainer.train_steps


def _population_row(trainer: PopulationTrainer, status: np.ndarray, seconds: list[float]) -> dict:
    count, trained = len(status), int((status == TRAINED).sum())
    swept = count * len(trainer.protocol.learning_rates)
    useful = swept * trainer.sweep_steps + trained * trainer.train_steps
    groups = (
        math.ceil(swept / trainer.lanes) * trainer.sweep_steps
        + math.ceil(trained / trainer.lanes) * trainer.train_steps
    )
    return {
        "candidates": count,
        "trained": trained,
        **summary(seconds),
        "candidates_per_hour": 3600 * count / float(np.median(seconds)),
        "full_lanes": useful / (groups * trainer.lanes),
    }
