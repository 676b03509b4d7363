"""A trainer of children that take a few steps and no more, to time a step of them."""

import dataclasses
import math

import jax

from nos_optax.population import Dataset, PopulationTrainer, Protocol, Task, image_task, paper_child

VALIDATION_EXAMPLES = 250  # so that validation takes its memory and next to no time


def short_trainer(
    task: Task | Dataset,
    protocol: Protocol,
    iterations: int,
    device: jax.Device,
    lanes: int,
    steps: int = 20,
    fused: bool | None = None,
) -> PopulationTrainer:
    """Return a trainer whose candidates take `steps` steps and no more, `lanes` at a time.

    One learning rate, too small for `g` to diverge, and a margin that no child reaches, so that
    there is no training after the sweep.
    """
    if isinstance(task, Dataset):
        task = image_task(task, paper_child(task, device))
    few = dataclasses.replace(
        task,
        validation=jax.tree.map(lambda x: x[:VALIDATION_EXAMPLES], task.validation),
        perfect=math.inf,
    )
    examples = steps * protocol.batch_size
    short = Protocol((1e-5,), protocol.batch_size, examples, epochs=1, margin=1e9)
    return PopulationTrainer(
        few,
        short,
        iterations=iterations,
        lanes=lanes,
        devices=[device],
        fused=fused,
    )
