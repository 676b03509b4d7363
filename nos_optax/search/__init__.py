"""The search loop: strategies, run folders, reports."""

import importlib.util

_NEEDS = "filelock flax jinja2 latex2mathml matplotlib rich scipy sklearn tyro".split()
_absent = [m for m in _NEEDS if not importlib.util.find_spec(m)]
if _absent:
    raise ImportError(
        f"the search needs {', '.join(_absent)}, which `pip install nos_optax` leaves out: "
        "pip install 'nos_optax[search]'"
    )

# ruff: noqa: E402  (the imports below need what was looked for above)
from nos_optax.population.accelerator import AcceleratorError as AcceleratorError
from nos_optax.population.accelerator import enable_compilation_cache as enable_compilation_cache
from nos_optax.population.accelerator import select_devices as select_devices
from nos_optax.search.api import search as search
from nos_optax.search.config import FRESH_SEEDS as FRESH_SEEDS
from nos_optax.search.config import PaperTaskConfig as PaperTaskConfig
from nos_optax.search.config import SearchConfig as SearchConfig
from nos_optax.search.config import TaskConfig as TaskConfig
from nos_optax.search.engines import Engine as Engine
from nos_optax.search.engines import make_engine as make_engine
from nos_optax.search.engines.local import LocalEngine as LocalEngine
from nos_optax.search.finals import train_again as train_again
from nos_optax.search.history import Candidate as Candidate
from nos_optax.search.history import History as History
from nos_optax.search.history import Training as Training
from nos_optax.search.loading import load_dataset as load_dataset
from nos_optax.search.loading import load_task as load_task
from nos_optax.search.loop import SearchResult as SearchResult
from nos_optax.search.loop import run_search as run_search
from nos_optax.search.probes import Probes as Probes
from nos_optax.search.results import Result as Result
from nos_optax.search.results import results_table as results_table
from nos_optax.search.run_folder import RunFolder as RunFolder
from nos_optax.search.run_folder import default_path as default_path
from nos_optax.search.run_folder import read_candidates as read_candidates
from nos_optax.search.run_folder import read_config as read_config
from nos_optax.search.strategies import PPO as PPO
from nos_optax.search.strategies import STRATEGIES as STRATEGIES
from nos_optax.search.strategies import Evolution as Evolution
from nos_optax.search.strategies import RandomSearch as RandomSearch
from nos_optax.search.strategies import Strategy as Strategy
from nos_optax.search.strategies import make_strategy as make_strategy
