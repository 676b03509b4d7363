"""What rivals are compared on: tasks by name, and tasks of one's own."""

from pathlib import Path

from nos_optax.population import Task, Workload, image_task, load_digits, load_suite, paper_child
from nos_optax.population.own import call_own, import_own
from nos_optax.population.suite import SUITE, WATCH

IMAGES = ("digits", "cifar10")  # the paper's child, scored by its accuracy
KNOWN = (*SUITE, *WATCH, *IMAGES)
MINIBATCH_SIZE, EPOCHS = 32, 5  # of tasks that do not say
MOST_EXAMPLES = 2**30  # of a training: their order is drawn before it begins, and takes memory


def load_workload(
    given: "str | Task | Workload",
    minibatch_size: int | None = None,
    epochs: int | None = None,
    data_dir: Path | None = None,
) -> Workload:
    """Return a task, its minibatches and how long rivals train on it.

    Args:
        given: a name of the suite's or the watch tasks, `digits`, `cifar10`, or `module:name` of a
            `Task` or a `Workload`, or of a function that returns one; or such a task.
        minibatch_size: examples in a minibatch; the workload's own, else 32, where None.
        epochs: of a training; the workload's own number of steps, else 5 epochs, where None.
        data_dir: TensorFlow Datasets folder of `cifar10`.

    Raises:
        ValueError: there is no such task, or it has fewer examples than a minibatch.
        DatasetError: the data is missing.
    """
    found = _find(given, data_dir) if isinstance(given, str) else given
    match found:
        case Workload(task, size, horizon):
            pass
        case Task() as task:
            size, horizon, epochs = MINIBATCH_SIZE, 0, EPOCHS if epochs is None else epochs
        case _:
            raise ValueError(
                f"task {given!r} is a {type(found).__name__}; give a nos_optax.population.Task or "
                "Workload, or a function that returns one"
            )
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
    return Workload(task, size, steps)


def _find(name: str, data_dir: Path | None) -> object:
    if name in SUITE or name in WATCH:
        return load_suite([name])[0]
    if name == "digits":
        images = load_digits()
        return image_task(images, paper_child(images))
    if name == "cifar10":
        from nos_optax.population.cifar10 import load_cifar10

        images = load_cifar10(data_dir)
        return image_task(images, paper_child(images))
    found = import_own("task", name, KNOWN)
    return call_own("task", name, found) if callable(found) else found
