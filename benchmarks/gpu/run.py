"""How fast is the search on a GPU, and how far from what the card can do?

Question: candidates an hour at the paper's full protocol on CIFAR-10's child, for random rules and
          for rules that all survive; how many lanes; how far a child's step is from the floor that
          its arithmetic and its memory traffic set; whether cheaper matrix products rank rules
          alike; what rules that are data cost; how fast PyTorch is, one child at a time.
Method:   everything is compiled before it is timed, results are waited for, and the median of
          repeats counts. A child's step is timed with all lanes full. Each section stands alone:
          one that fails is recorded with its message. Findings are written as they are made, and
          `--sections` adds to what the file has, so that a run may be cut and taken up again; a
          section without `wall_seconds` was cut. `lease.sh` runs them by the clock.
Command:  python benchmarks/gpu/run.py --data-dir DIR
          python benchmarks/gpu/run.py --sections lanes throughput
          python benchmarks/gpu/run.py --sections search:1         (a section with another seed)
          python benchmarks/gpu/run.py --tiny            (any device, in 2 minutes)
Needs:    a GPU, and `pip install torch` with CUDA for the PyTorch section, else left out. Images
          from --data-dir (TFDS's folder) or --cifar (pack_cifar10.py); without either they are
          digits with noise: as large, and as many, as CIFAR-10's.
Writes:   benchmarks/results/gpu_DEVICE.json
"""

import argparse
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import sections
from bench import TINY, Bench, Size, load_dataset

from nos_optax.search import select_devices

SECTIONS: dict[str, Callable] = dict(sections.SECTIONS)
try:
    import suite_sections

    SECTIONS |= suite_sections.SECTIONS
except ImportError as error:  # They search, and need more packages than the others.
    print(f"the suite's sections are left out: {error}")


def main() -> int:
    """Run the sections, one after another; return 1 if one failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="TFDS's folder with a prepared CIFAR-10")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as pack_cifar10.py packs it")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), metavar="NAME[:SEED]")
    parser.add_argument("--tiny", action="store_true", help="a trial of the benchmark itself")
    parser.add_argument(
        "--cache", action="store_true", help="leave the cache of compiled programs on, and say so"
    )
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds that may be spent")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--runs", type=Path, help="searches' run folders (default: OUT/runs)")
    args = parser.parse_args()

    device = select_devices()[0]  # and, beside a card, a device for each core of the CPU
    if device.platform == "cpu" and not args.tiny:
        print("left out: JAX sees no accelerator here; --tiny tries the benchmark on the CPU")
        return 0
    if not args.cache:
        jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    kind = re.sub(r"\W+", "_", device.device_kind) + ("_tiny" if args.tiny else "")
    path = args.out / f"gpu_{kind}.json"
    facts = {
        "device": device.device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "images": "CIFAR-10" if args.data_dir or args.cifar else "noisy digits",
    }
    content: dict[str, Any] = resumed(path, facts) | facts
    bench = Bench(
        TINY if args.tiny else Size(),
        partial(load_dataset, args.data_dir, args.cifar, args.tiny),
        device,
        content,
        args.runs or args.out / "runs",
        args.limit,
    )
    failures = 0
    for section in args.sections:
        start = time.perf_counter()
        print(f"== {section}", flush=True)
        findings = content["sections"][section] = {}
        if args.cache:
            findings["compile_cache"] = "on: compile seconds may be those of reading it"
        write(path, content)
        try:
            name, _, seed = section.partition(":")
            bench.seed = int(seed or 0)
            for key, finding in known(name)(bench):
                findings[key] = finding
                print(f"{key}: {json.dumps(finding)}", flush=True)
                write(path, content)
        except Exception as error:  # The other sections may still succeed.
            findings["failed"] = f"{type(error).__name__}: {error}"
            print(f"failed: {json.dumps(findings['failed'])}", flush=True)
            failures += 1
        findings["wall_seconds"] = time.perf_counter() - start
        write(path, content)
    return min(failures, 1)


def known(name: str) -> Callable:
    """Return the section of a name."""
    if name not in SECTIONS:
        raise LookupError(f"unknown section {name}; there are {', '.join(SECTIONS)}")
    return SECTIONS[name]


def resumed(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier run on the same device, data and version of JAX found, if any."""
    if path.exists():
        earlier = json.loads(path.read_text())
        if all(earlier.get(key) == value for key, value in facts.items()):
            return earlier
    return {"sections": {}}


def write(path: Path, content: dict) -> None:
    """Replace the file as a whole: the machine may be taken away in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
