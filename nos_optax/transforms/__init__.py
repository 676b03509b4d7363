"""Gradient transformations that the paper's search discovered, one file per method."""

from nos_optax.transforms.addsign import ScaleByAddSignState as ScaleByAddSignState
from nos_optax.transforms.addsign import addsign as addsign
from nos_optax.transforms.addsign import scale_by_addsign as scale_by_addsign
from nos_optax.transforms.powersign import ScaleByPowerSignState as ScaleByPowerSignState
from nos_optax.transforms.powersign import powersign as powersign
from nos_optax.transforms.powersign import scale_by_powersign as scale_by_powersign
