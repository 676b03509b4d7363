"""The optimizers that `test_optax_contract.py` holds to Optax's contract, and what they train on.

To put another optimizer under contract, add a case to `OPTIMIZERS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nos_optax.grammar import from_rule
from nos_optax.schedules import cyclical_cosine, linear_cosine
from nos_optax.transforms import addsign, powersign

PARAMS = {"w": jnp.array([[-1.0, 2.0], [0.5, -3.0]]), "b": jnp.array([0.3, -0.2, 1.0])}


def gradients(steps, like=PARAMS):
    """Return one gradient per step, with changes of sign and with zeros."""
    leaves, treedef = jax.tree.flatten(like)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        drawn = [rng.normal(size=leaf.shape) * rng.integers(0, 4, leaf.shape) for leaf in leaves]
        yield treedef.unflatten(
            [jnp.asarray(g, leaf.dtype) for g, leaf in zip(drawn, leaves, strict=True)]
        )


class Case(NamedTuple):
    """An optimizer, with arguments that bring it to the minimum of Rosenbrock's function."""

    name: str
    factory: Callable[..., optax.GradientTransformation]
    kwargs: dict[str, Any]  # learning_rate, a float, is one of them
    static_args: tuple[str, ...] = ()  # arguments that `inject_hyperparams` must not trace

    def make(self, **overrides: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.factory(**(self.kwargs | overrides)))


RULE = {"learning_rate": 5e-4, "total_steps": 20_000}

OPTIMIZERS = [
    Case("powersign", powersign, {"learning_rate": 5e-4}),
    Case(
        "powersign_decayed",
        powersign,
        {
            "learning_rate": 1e-3,
            "base": 2.0,
            "sign_decay": linear_cosine(1.0, 20_000),
            "mu_dtype": "bfloat16",
            "weight_decay": 1e-5,
        },
    ),
    Case("addsign", addsign, {"learning_rate": 5e-4}),
    Case(
        "addsign_decayed",
        addsign,
        {
            "learning_rate": 5e-4,
            "b1": 0.8,
            "alpha": 2.0,
            "sign_decay": cyclical_cosine(1.0, 20_000, num_periods=5),
        },
    ),
    Case("rule_powersign_ld", from_rule, RULE | {"rule": "exp(ld * sign(g) * sign(m)) * g"}),
    Case("rule_rmsprop_cd", from_rule, RULE | {"rule": "cd * (rmsprop + m)"}),
    Case("rule_drop", from_rule, RULE | {"rule": "drop(exp(ld * sign(g) * sign(m)) * g, 0.3)"}),
    Case("rule_weights", from_rule, RULE | {"rule": "m + 1e-5 * w", "mu_dtype": "bfloat16"}),
]
