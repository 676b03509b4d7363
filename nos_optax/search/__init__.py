"""The search loop: strategies, run folders, reports."""

from nos_optax.search.accelerator import AcceleratorError as AcceleratorError
from nos_optax.search.accelerator import enable_compilation_cache as enable_compilation_cache
from nos_optax.search.accelerator import select_devices as select_devices
from nos_optax.search.config import FRESH_SEEDS as FRESH_SEEDS
from nos_optax.search.config import SearchConfig as SearchConfig
from nos_optax.search.config import TaskConfig as TaskConfig
from nos_optax.search.loop import SearchResult as SearchResult
from nos_optax.search.loop import load_dataset as load_dataset
from nos_optax.search.loop import search as search
from nos_optax.search.loop import train_again as train_again
from nos_optax.search.report import results_table as results_table
from nos_optax.search.run_folder import Candidate as Candidate
from nos_optax.search.run_folder import RunFolder as RunFolder
from nos_optax.search.run_folder import default_path as default_path
from nos_optax.search.run_folder import read_candidates as read_candidates
from nos_optax.search.strategies import PPO as PPO
from nos_optax.search.strategies import RandomSearch as RandomSearch
from nos_optax.search.strategies import Strategy as Strategy
from nos_optax.search.strategies import make_strategy as make_strategy
