"""What is trained by name, and how long: the suite's tasks, images, tasks of one's own."""

import dataclasses
from pathlib import Path

import jax

from nos_optax.population.data import Dataset, DatasetError, load_digits
from nos_optax.population.own import call_own, import_own
from nos_optax.population.suite import KNOWN as EMBEDDED
from nos_optax.population.suite import Workload, load_suite
from nos_optax.population.task import Task, image_task, paper_child

IMAGES = ("digits", "cifar10")  # the paper's child, scored by its accuracy
KNOWN = (*EMBEDDED, *IMAGES)
MINIBATCH_SIZE, EPOCHS = 32, 5  # of tasks that do not say
MOST_EXAMPLES = 2**30  # of a training: their order is drawn before it begins, and takes memory


def load_workload(
    given: "str | Task | Workload | Dataset",
    minibatch_size: int | None = None,
    epochs: int | None = None,
    data_dir: Path | None = None,
    train_examples: int | None = None,
) -> Workload:
    """Return a task, its minibatches and how long optimizers train on it.

    Args:
        given: a name of an embedded task, `digits`, `cifar10`, or `module:name` of a
            `Task` or a `Workload`, or of a function that returns one; or such a task; or images,
            which train the paper's ConvNet.
        minibatch_size: examples in a minibatch; the workload's own, else 32, where None.
        epochs: of a training; the workload's own number of steps, else 5 epochs, where None.
        data_dir: TensorFlow Datasets folder of `cifar10`.
        train_examples: the first so many of the training examples; all where None, but 1000 of
            `digits`.

    Raises:
        ValueError: there is no such task, or it has fewer examples than a minibatch.
        DatasetError: the data is missing, or has fewer training examples.
    """
    found = find_task(given, data_dir, train_examples)
    if isinstance(found, Workload):
        task, size, horizon = found.task, found.minibatch_size, found.horizon
        children = found.children
    else:
        task, size, horizon, children = found, MINIBATCH_SIZE, 0, 1
        epochs = EPOCHS if epochs is None else epochs
    size = size if minibatch_size is None else minibatch_size
    examples = task.num_examples(task.train)
    if not 1 <= size <= examples:
        raise ValueError(
            f"{task.name}: the minibatch size must be from 1 to the {examples} training examples, "
            f"got {size}"
        )
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    steps = horizon if epochs is None else epochs * (examples // size)
    if steps * size > MOST_EXAMPLES:
        raise ValueError(
            f"{task.name}: {steps:,} steps of {size} examples are more than {MOST_EXAMPLES:,} "
            "examples a training: give fewer epochs"
        )
    return Workload(task, size, steps, children)


def find_task(
    given: "str | Task | Workload | Dataset",
    data_dir: Path | None = None,
    train_examples: int | None = None,
) -> Task | Workload:
    """Return a task; see `load_workload`.

    Raises:
        ValueError: there is none of that name.
        DatasetError: the data is missing, or has fewer training examples.
    """
    found: object = given
    if isinstance(given, str):
        found = _by_name(given, data_dir, train_examples)
        train_examples = None if given in IMAGES else train_examples
    match found:
        case Dataset():
            found = image_task(found, paper_child(found))
        case Workload() if train_examples is not None:
            return dataclasses.replace(found, task=_with_examples(found.task, train_examples))
        case Workload():
            return found
    if not isinstance(found, Task):
        raise ValueError(
            f"task {given!r} is a {type(found).__name__}; give a nos_optax.population.Task or "
            "Workload, or a function that returns one"
        )
    return found if train_examples is None else _with_examples(found, train_examples)


def _by_name(name: str, data_dir: Path | None, train_examples: int | None) -> object:
    if name in EMBEDDED:
        return load_suite([name])[0]
    if name in IMAGES:
        return load_images(name, data_dir, train_examples)
    found = import_own("task", name, KNOWN)
    return call_own("task", name, found) if callable(found) else found


def _with_examples(task: Task, count: int) -> Task:
    """Return a task with the first `count` of its training examples.

    Raises:
        DatasetError: it has fewer.
    """
    present = task.num_examples(task.train)
    if count > present:
        raise DatasetError(f"--train-examples is {count}; {task.name} has {present}")
    return dataclasses.replace(task, train=jax.tree.map(lambda x: x[:count], task.train))


def load_images(name: str, data_dir: Path | None, train_examples: int | None) -> Dataset:
    """Return the images of one of IMAGES.

    Raises:
        DatasetError: they are missing, or fewer than asked for, with the remedy.
    """
    if name == "digits":
        return load_digits(train_examples=train_examples or 1000)
    from nos_optax.population.cifar10 import load_cifar10

    return load_cifar10(data_dir, train_examples)
