"""Steady-state times: everything is compiled and has run before."""

import resource
import sys
import time
from collections.abc import Callable

import jax
import numpy as np


def seconds_of(function: Callable, repeats: int, calls: int = 1) -> dict:
    """Return the median seconds of a call and the range over repeats; results are waited for."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        results = [function() for _ in range(calls)]
        jax.block_until_ready(results)
        seconds.append((time.perf_counter() - start) / calls)
    return summary(seconds)


def summary(seconds: list[float]) -> dict:
    return {"seconds": float(np.median(seconds)), "range": [min(seconds), max(seconds)]}


def peak_memory(device: jax.Device) -> dict:
    """Return the most bytes in use since the process began."""
    statistics = device.memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return {"peak_bytes": statistics["peak_bytes_in_use"], "memory_of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_bytes": peak, "memory_of": "process"}
