"""Settings of every test: two CPU devices, whatever the machine; each program compiles once.

Most of the time of the tests is XLA's. Its compiled programs are kept in a folder that all tests,
their processes and the next run share.
"""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# Read when JAX is first imported, here and in the processes that tests start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
