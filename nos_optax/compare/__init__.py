"""Which optimizer for my model? Equal tuning, fresh seeds, paired differences."""

from nos_optax.compare.command import compare as compare
from nos_optax.compare.results import Comparison as Comparison
from nos_optax.compare.results import Row as Row
from nos_optax.compare.rivals import Rival as Rival
from nos_optax.compare.rivals import as_rival as as_rival
from nos_optax.compare.trials import Budget as Budget
