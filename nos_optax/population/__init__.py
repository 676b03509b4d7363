"""Child tasks and the population trainer."""

from nos_optax.population.convnet import ConvNet as ConvNet
from nos_optax.population.data import Dataset as Dataset
from nos_optax.population.data import DatasetError as DatasetError
from nos_optax.population.data import load_digits as load_digits
from nos_optax.population.protocol import STATUSES as STATUSES
from nos_optax.population.protocol import Evaluation as Evaluation
from nos_optax.population.protocol import Protocol as Protocol
from nos_optax.population.trainer import PopulationTrainer as PopulationTrainer
