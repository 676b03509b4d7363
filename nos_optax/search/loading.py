"""The tasks and the images that a configuration names, or that were given from Python."""

from collections.abc import Sequence

import jax

from nos_optax.population import Dataset, Task, image_task, paper_child
from nos_optax.population.suite import Workload
from nos_optax.population.workloads import IMAGES, find_task, load_images, load_workload
from nos_optax.population.workloads import KNOWN as TASKS
from nos_optax.search.config import GIVEN, TaskConfig

Given = Task | Workload | Dataset | str  # a task from Python
GIVEN_BEFORE = (
    "the task was given from Python: go on by nos_optax.search.search(task, out=..., resume=True), "
    "or search for module:name"
)


def is_own(config: TaskConfig, tasks: Sequence[Given] = ()) -> bool:
    """Whether a task is the user's own: then what it computes is tried before the search."""
    if tasks:
        return any(isinstance(task, Task | Workload) for task in tasks)
    return not set(config.task) <= set(TASKS)


def load_workloads(config: TaskConfig, tasks: Sequence[Given] = ()) -> list[Workload]:
    """Return the tasks of a configuration, or those given, and how long rules train on each.

    Raises:
        DatasetError: the data is missing, or smaller than asked for, with the remedy.
        ValueError: what the user named is no task, or two have one name.
    """
    if not tasks and GIVEN in config.task:
        raise ValueError(GIVEN_BEFORE)
    shape = (config.minibatch_size, config.epochs, config.data_dir, config.train_examples)
    loaded = [load_workload(task, *shape) for task in tasks or config.task]
    names = [workload.task.name for workload in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks need different names, got {', '.join(names)}")
    return loaded


def load_task(config: TaskConfig, device: jax.Device) -> Task:
    """Return the one task that a configuration names, as the paper's protocol trains it.

    Args:
        config: what its `task` names.
        device: where it will be trained.

    Raises:
        DatasetError: the data is missing, or smaller than asked for, with the remedy.
        ValueError: what the user named is no task.
    """
    (name,) = config.task
    if name == GIVEN:
        raise ValueError(GIVEN_BEFORE)
    if name in IMAGES:
        dataset = load_dataset(config)
        return image_task(dataset, paper_child(dataset, device))
    found = find_task(name, config.data_dir, config.train_examples)
    return found.task if isinstance(found, Workload) else found


def load_dataset(config: TaskConfig) -> Dataset:
    """Return the images that a configuration names.

    Raises:
        DatasetError: they are missing, or fewer than asked for, with the remedy.
    """
    return load_images(config.task[0], config.data_dir, config.train_examples)
