"""The search language: rules as text, trees, tokens, and Optax transformations."""

from nos_optax.grammar.catalogue import Accuracy as Accuracy
from nos_optax.grammar.catalogue import PaperRule as PaperRule
from nos_optax.grammar.catalogue import rules as rules
from nos_optax.grammar.encoding import as_rule as as_rule
from nos_optax.grammar.encoding import decode as decode
from nos_optax.grammar.encoding import encode as encode
from nos_optax.grammar.errors import RuleError as RuleError
from nos_optax.grammar.export import to_python as to_python
from nos_optax.grammar.program import Program as Program
from nos_optax.grammar.rule import UpdateRule as UpdateRule
from nos_optax.grammar.rule import parse as parse
from nos_optax.grammar.space import SearchSpace as SearchSpace
from nos_optax.grammar.static import ScaleByRuleState as ScaleByRuleState
from nos_optax.grammar.static import from_rule as from_rule
from nos_optax.grammar.static import scale_by_rule as scale_by_rule
from nos_optax.grammar.traced import ProgramState as ProgramState
from nos_optax.grammar.traced import apply_program as apply_program
from nos_optax.grammar.traced import init_program_state as init_program_state
from nos_optax.grammar.traced import program_streams as program_streams
from nos_optax.grammar.vocabulary import BINARY as BINARY
from nos_optax.grammar.vocabulary import OPERANDS as OPERANDS
from nos_optax.grammar.vocabulary import UNARY as UNARY
