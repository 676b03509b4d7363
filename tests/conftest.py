"""Settings of every test: two CPU devices, whatever the machine; each program compiles once.

Most of the time of the tests is XLA's. Its compiled programs are kept in a folder that all tests,
their processes and the next run share, and LLVM optimizes them little.
"""

import os
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# Read when JAX is first imported, here and in the processes that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
# Tests run most programs once or a few times, so that compiling costs more than running. Level 1
# compiles 10 to 50 % faster; programs of level 0 are so slow that longer trainings take longer.
# XLA's older way to write loops compiles in two thirds of the time; jaxlib 0.12 does not know it.
FAST = "--xla_backend_optimization_level=1"
if version("jaxlib").startswith("0.10."):
    FAST += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST)

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
