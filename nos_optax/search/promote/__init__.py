"""From a search to a discovery: its best rules on ever larger tasks, then beside all rivals."""

from nos_optax.search.promote.command import promote as promote
from nos_optax.search.promote.results import Promotion as Promotion
from nos_optax.search.promote.stages import Stage as Stage
