"""What an honest claim is made against: the optimizers that one would use without a search."""

from collections.abc import Callable, Mapping

import jax
import optax

BASELINE = "Adam"
RIVALS: Mapping[str, str] = {
    "Adam": "adam",
    "NAdam": "optax.nadam",
    "NAdam, linear decay": f"{__name__}:nadam_linear",
    "Lion": "optax.lion",
    "Adam, cosine decay": "cd * adam",
    "Adam, linear decay": "ld * adam",
    "Momentum, cosine decay": "cd * m",
    "PowerSign": "powersign",
    "AddSign": "addsign",
}
"""Those at the end of each search, by what tables call them: see `nos_optax.compare.as_rival`.

Each that is no rule compiles a program of its own on every task, so there are few of these. AdamW
with Optax's decay is Adam there, within a thousandth of a doubling.
"""

ALL_RIVALS: Mapping[str, str] = RIVALS | {
    "AdamW": "optax.adamw",
    "AdamW, cosine decay": f"{__name__}:adamw_cosine",
    "Cautious Adam": "(1 + sign(g) * sign(m)) * adam",  # addsign_adam, a row of Table 6
    "AdaBelief": "optax.adabelief",
    "Adam, warm-up and cosine decay": f"{__name__}:adam_warmup_cosine",
    "NAdam, cosine decay": f"{__name__}:nadam_cosine",
    "NAdam, cosine decay to a tenth": f"{__name__}:nadam_tenth",
    "NAdam, cosine decay to a third": f"{__name__}:nadam_third",
    "Lion, cosine decay": f"{__name__}:lion_cosine",
    "Lion, linear decay": f"{__name__}:lion_linear",
}
"""Those of a claim. A rule that decays its steps, or a part of them, has rivals which do so too."""

OfSteps = Callable[[int], optax.Schedule]
Optimizer = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


def linear(total_steps: int, floor: jax.typing.ArrayLike = 0.0) -> optax.Schedule:
    """Return the line from 1 to a floor."""
    return optax.linear_schedule(1.0, floor, total_steps)


def cosine(total_steps: int, floor: float = 0.0) -> optax.Schedule:
    """Return half a cosine from 1 to a floor."""
    return optax.cosine_decay_schedule(1.0, total_steps, floor)


def warmup_cosine(total_steps: int) -> optax.Schedule:
    """Return a rise from 0 over the first tenth of the steps, and half a cosine to 0 after it."""
    first = max(1, total_steps // 10)
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, first, max(total_steps, first + 1))


def decayed(optimizer: Optimizer, schedule: OfSteps) -> Callable[..., optax.GradientTransformation]:
    """Return a function from a rate and a length of training to an optimizer with a schedule.

    Args:
        optimizer: a function of the learning rate.
        schedule: a function of the length, to what the steps are multiplied by.
    """

    def factory(learning_rate, total_steps: int) -> optax.GradientTransformation:
        return optax.chain(optimizer(learning_rate), optax.scale_by_schedule(schedule(total_steps)))

    return factory


# With Optax's defaults.
adamw_cosine = decayed(optax.adamw, cosine)
adam_warmup_cosine = decayed(optax.adam, warmup_cosine)
nadam_linear = decayed(optax.nadam, linear)
nadam_cosine = decayed(optax.nadam, cosine)
nadam_tenth = decayed(optax.nadam, lambda total_steps: cosine(total_steps, 1 / 10))
nadam_third = decayed(optax.nadam, lambda total_steps: cosine(total_steps, 1 / 3))
lion_linear = decayed(optax.lion, linear)
lion_cosine = decayed(optax.lion, cosine)
