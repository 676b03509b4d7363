"""What an honest claim is made against: the optimizers that one would use without a search."""

import optax

BASELINE = "Adam"
RIVALS = {
    "Adam": "adam",
    "NAdam": "optax.nadam",
    "AdamW": "optax.adamw",
    "Lion": "optax.lion",
    "Adam, cosine decay": "cd * adam",
    "Adam, linear decay": "ld * adam",
    "Momentum, cosine decay": "cd * m",
    "PowerSign": "powersign",
    "AddSign": "addsign",
}
"""Those at the end of each search, by what tables call them: see `nos_optax.compare.as_rival`."""

ALL_RIVALS = RIVALS | {
    "Cautious Adam": "(1 + sign(g) * sign(m)) * adam",  # addsign_adam, a row of Table 6
    "AdaBelief": "optax.adabelief",
    "AdamW, cosine decay": f"{__name__}:adamw_cosine",
    "NAdam, cosine decay": f"{__name__}:nadam_cosine",
    "NAdam, linear decay": f"{__name__}:nadam_linear",
    "Lion, cosine decay": f"{__name__}:lion_cosine",
    "Lion, linear decay": f"{__name__}:lion_linear",
}
"""Those of a claim. A rule that decays its steps has rivals which do so too."""


def adamw_cosine(learning_rate, total_steps: int) -> optax.GradientTransformation:
    """Return AdamW with Optax's defaults, its steps decayed to 0 by half a cosine."""
    return _decayed(optax.adamw(learning_rate), optax.cosine_decay_schedule(1.0, total_steps))


def nadam_cosine(learning_rate, total_steps: int) -> optax.GradientTransformation:
    """Return NAdam with Optax's defaults, its steps decayed to 0 by half a cosine."""
    return _decayed(optax.nadam(learning_rate), optax.cosine_decay_schedule(1.0, total_steps))


def nadam_linear(learning_rate, total_steps: int) -> optax.GradientTransformation:
    """Return NAdam with Optax's defaults, its steps decayed to 0 linearly."""
    return _decayed(optax.nadam(learning_rate), optax.linear_schedule(1.0, 0.0, total_steps))


def lion_cosine(learning_rate, total_steps: int) -> optax.GradientTransformation:
    """Return Lion with Optax's defaults, its steps decayed to 0 by half a cosine."""
    return _decayed(optax.lion(learning_rate), optax.cosine_decay_schedule(1.0, total_steps))


def lion_linear(learning_rate, total_steps: int) -> optax.GradientTransformation:
    """Return Lion with Optax's defaults, its steps decayed to 0 linearly."""
    return _decayed(optax.lion(learning_rate), optax.linear_schedule(1.0, 0.0, total_steps))


def _decayed(tx: optax.GradientTransformation, schedule: optax.Schedule):
    """Return an optimizer whose updates are multiplied by a schedule."""
    return optax.chain(tx, optax.scale_by_schedule(schedule))
