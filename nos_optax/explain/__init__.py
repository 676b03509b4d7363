"""Looking at one update rule: `python -m nos_optax.explain "exp(sign(g) * sign(m)) * g"`."""

from nos_optax.explain.facts import Facts as Facts
from nos_optax.explain.facts import describe as describe
from nos_optax.explain.sweep import Sweep as Sweep
from nos_optax.explain.sweep import sweep as sweep
from nos_optax.explain.trajectories import FUNCTIONS as FUNCTIONS
from nos_optax.explain.trajectories import TestFunction as TestFunction
from nos_optax.explain.trajectories import Trajectory as Trajectory
from nos_optax.explain.trajectories import best_trajectory as best_trajectory
