"""The controller: an LSTM policy over token sequences, and PPO to train it."""

from nos_optax.controller.policy import MaskFn as MaskFn
from nos_optax.controller.policy import Policy as Policy
from nos_optax.controller.policy import PolicyConfig as PolicyConfig
from nos_optax.controller.policy import Samples as Samples
from nos_optax.controller.policy import Scores as Scores
from nos_optax.controller.policy import lstm_policy as lstm_policy
from nos_optax.controller.ppo import PRESETS as PRESETS
from nos_optax.controller.ppo import Controller as Controller
from nos_optax.controller.ppo import PPOConfig as PPOConfig
from nos_optax.controller.ppo import PPOMetrics as PPOMetrics
from nos_optax.controller.ppo import PPOState as PPOState
from nos_optax.controller.ppo import ppo_controller as ppo_controller
