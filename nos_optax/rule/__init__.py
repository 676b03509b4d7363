"""Looking at one update rule: `python -m nos_optax.rule "exp(sign(g) * sign(m)) * g"`."""

from nos_optax.rule.facts import Facts as Facts
from nos_optax.rule.facts import describe as describe
from nos_optax.rule.sweep import Sweep as Sweep
from nos_optax.rule.sweep import sweep as sweep
from nos_optax.rule.trajectories import FUNCTIONS as FUNCTIONS
from nos_optax.rule.trajectories import TestFunction as TestFunction
from nos_optax.rule.trajectories import Trajectory as Trajectory
from nos_optax.rule.trajectories import best_trajectory as best_trajectory
