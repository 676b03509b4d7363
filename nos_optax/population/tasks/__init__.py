"""The embedded tasks: small, different in kind, and there wherever Python and scikit-learn are."""

from nos_optax.population.tasks.characters import characters as characters
from nos_optax.population.tasks.digits import digits_autoencoder as digits_autoencoder
from nos_optax.population.tasks.digits import digits_convnet as digits_convnet
from nos_optax.population.tasks.digits import digits_mlp as digits_mlp
from nos_optax.population.tasks.table import table as table
from nos_optax.population.tasks.transformer import transformer as transformer
from nos_optax.population.tasks.words import words as words
