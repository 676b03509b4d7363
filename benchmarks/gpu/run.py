"""How fast is the search on a GPU, and how far from what the card can do?

Question: candidates an hour at the paper's full protocol on CIFAR-10's child, for random rules and
          for rules that all survive; how many lanes; how far a child's step is from the floor that
          its arithmetic and its memory traffic set; whether cheaper matrix products rank rules
          alike; what rules that are data cost; how fast PyTorch is, one child at a time.
Method:   everything is compiled before it is timed, results are waited for, and the median of
          repeats counts. A child's step is timed with all lanes full. Each section stands alone:
          one that fails is recorded with its message. Findings are written as they are made, and
          `--sections` adds to what the file has, so that a run may be cut and taken up again.
Command:  python benchmarks/gpu/run.py --data-dir DIR
          python benchmarks/gpu/run.py --sections lanes throughput
          python benchmarks/gpu/run.py --tiny            (any device, in 2 minutes)
Needs:    a GPU, and `pip install torch` with CUDA for the PyTorch section, else left out. Without
          --data-dir the images are digits with noise: as large, and as many, as CIFAR-10's.
Writes:   benchmarks/results/gpu_DEVICE.json
"""

import argparse
import json
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import jax
from bench import TINY, Bench, Size, load_dataset
from sections import SECTIONS


def main() -> None:
    """Run the sections, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--tiny", action="store_true", help="a trial of the benchmark itself")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = parser.parse_args()

    device = jax.local_devices()[0]
    if device.platform == "cpu" and not args.tiny:
        print("left out: JAX sees no accelerator here; --tiny tries the benchmark on the CPU")
        return
    if not args.tiny:
        jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    dataset = load_dataset(args.data_dir, args.tiny)
    name = re.sub(r"\W+", "_", device.device_kind) + ("_tiny" if args.tiny else "")
    path = args.out / f"gpu_{name}.json"
    facts = {
        "device": device.device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "dataset": dataset.name,
        "train_examples": len(dataset.train_images),
    }
    content: dict[str, Any] = resumed(path, facts) | facts
    bench = Bench(TINY if args.tiny else Size(), dataset, device, content)
    for section in args.sections:
        start = time.perf_counter()
        print(f"== {section}", flush=True)
        findings = content["sections"][section] = {}
        try:
            for key, finding in SECTIONS[section](bench):
                findings[key] = finding
                print(f"{key}: {json.dumps(finding)}", flush=True)
                write(path, content)
        except Exception as error:  # The other sections may still succeed.
            findings["failed"] = f"{type(error).__name__}: {error}"
            print(findings["failed"], flush=True)
        findings["wall_seconds"] = time.perf_counter() - start
        write(path, content)


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
    main()
