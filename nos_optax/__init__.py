"""Optimizers found by neural optimizer search, and the search, for JAX and Optax.

Bello, Zoph, Vasudevan and Le, "Neural Optimizer Search with Reinforcement Learning", ICML 2017.
"""

from nos_optax._version import __version__ as __version__
from nos_optax.grammar import RuleError as RuleError
from nos_optax.grammar import UpdateRule as UpdateRule
from nos_optax.grammar import from_rule as from_rule
from nos_optax.grammar import parse as parse
from nos_optax.grammar import rules as rules
from nos_optax.grammar import scale_by_rule as scale_by_rule
from nos_optax.schedules import cyclical_cosine as cyclical_cosine
from nos_optax.schedules import linear_cosine as linear_cosine
from nos_optax.schedules import noisy_linear_cosine as noisy_linear_cosine
from nos_optax.schedules import restart_cosine as restart_cosine
from nos_optax.transforms import addsign as addsign
from nos_optax.transforms import powersign as powersign
from nos_optax.transforms import scale_by_addsign as scale_by_addsign
from nos_optax.transforms import scale_by_powersign as scale_by_powersign
