"""Child tasks and the population trainer."""

from nos_optax.population.convnet import ConvNet as ConvNet
from nos_optax.population.data import Dataset as Dataset
from nos_optax.population.data import DatasetError as DatasetError
from nos_optax.population.data import load_digits as load_digits
from nos_optax.population.grid import Children as Children
from nos_optax.population.grid import Epoch as Epoch
from nos_optax.population.grid import TrainingGrid as TrainingGrid
from nos_optax.population.protocol import STATUSES as STATUSES
from nos_optax.population.protocol import Evaluation as Evaluation
from nos_optax.population.protocol import Protocol as Protocol
from nos_optax.population.task import Task as Task
from nos_optax.population.task import image_task as image_task
from nos_optax.population.task import paper_child as paper_child
from nos_optax.population.trainer import PopulationTrainer as PopulationTrainer
