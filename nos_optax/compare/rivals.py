"""What is compared: update rules, and any other Optax optimizer, each as a function of its rate."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nos_optax
from nos_optax.grammar import RuleError, UpdateRule, encode
from nos_optax.grammar.catalogue import named_rule
from nos_optax.population import Task
from nos_optax.population.loop import Factory, call_factory, make_optimizer, takes
from nos_optax.population.own import import_own
from nos_optax.population.task_check import jaxpr_digest

OPTAX = "optax."
KINDS = ("a rule", "a name of nos_optax.rules", "optax.NAME")


class Rival(NamedTuple):
    """A way to train.

    Attributes:
        name: what tables call it.
        what: what it is: a rule in infix form, or where the optimizer is found.
        optimizer: the rule; or a function from a learning rate to an Optax optimizer, which is
            given the training's `key` and its `total_steps` if it has arguments of these names.
    """

    name: str
    what: str
    optimizer: UpdateRule | Factory

    def program(self) -> np.ndarray | None:
        """Return the rule's tokens `int32[G, 5]`, with which all rules share a compiled program.

        None where it is no rule, or one that has no tokens, such as `2.5 * g`.
        """
        if isinstance(self.optimizer, UpdateRule):
            try:
                return encode(self.optimizer).array
            except RuleError:
                pass
        return None

    def factory(self, total_steps: int) -> Factory:
        """Return the function from a learning rate to the optimizer of a training so long."""
        optimizer = self.optimizer
        if isinstance(optimizer, UpdateRule):
            return lambda rate, key: nos_optax.from_rule(
                optimizer, rate, total_steps=total_steps, key=key
            )
        if takes(optimizer, "total_steps"):
            return functools.partial(optimizer, total_steps=total_steps)
        return optimizer

    def key(self, task: Task, total_steps: int) -> str:
        """Return what tells its trainings on a task from those of other optimizers, in records.

        Of an optimizer that is no rule, that is a hash of what a step of it computes: trainings of
        an earlier version, or with other constants, do not count.
        """
        if isinstance(self.optimizer, UpdateRule):
            return str(self.optimizer)
        step = self._one_step(task, total_steps)
        traced = jax.make_jaxpr(step)(jnp.float32(0.1), jax.random.key(0))
        return f"{self.what} {jaxpr_digest(traced)}"

    def _one_step(self, task: Task, total_steps: int) -> Callable:
        """Return a function that takes a first step on a task's parameters.

        It returns the parameters, the update, and the optimizer's state before and after.
        """
        factory = self.factory(total_steps)

        def one_step(rate, key):
            params, _ = task.init(key)
            optimizer = make_optimizer(factory, rate, key)
            before = optimizer.init(params)
            update, after = optimizer.update(params, before, params, value=rate)
            return params, update, before, after

        return one_step

    def check(self, task: Task) -> None:
        """Raise if the optimizer cannot take steps on the task's parameters.

        Raises:
            ValueError: with what went wrong there.
        """
        where = f"{self.name} cannot train {task.name}"
        try:
            params, update, before, after = jax.eval_shape(
                self._one_step(task, 1), jnp.float32(0.1), jax.random.key(0)
            )
        except (jax.errors.TracerBoolConversionError, jax.errors.ConcretizationTypeError) as error:
            raise ValueError(
                f"{where}: it looks at the value of its learning rate, which is data here; branch "
                "by jax.numpy.where, or give an optimizer for each branch"
            ) from error
        except Exception as error:  # whatever somebody's optimizer raises
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"{where}: {type(error).__name__}: {said}; an optimizer that needs more than "
                "gradients, parameters and the loss cannot be compared"
            ) from error
        if _types(update) != _types(params):
            raise ValueError(f"{where}: its updates are not of the shapes of the parameters")
        if _types(after) != _types(before):
            raise ValueError(
                f"{where}: its state has other shapes or types after a step than before"
            )


def _types(tree: Any) -> tuple:
    """Return a tree's structure and its arrays' shapes and types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype) for x in leaves]


def as_rival(given: "str | UpdateRule | Rival") -> Rival:
    """Return the rival that a user named.

    Args:
        given: the name of one of `nos_optax.rules`; a rule in infix form; `optax.NAME` of an
            optimizer whose other arguments have defaults, in a submodule too; `module:factory`, a
            function from a learning rate to an optimizer, which is given the training's key if it
            has an argument `key`, and its length if it has one `total_steps`; or what these stand
            for.

    Raises:
        ValueError: it is not one of these.

    Example:
        >>> as_rival("powersign").what, as_rival("optax.lion").name
        ('exp(sign(g) * sign(m)) * g', 'optax.lion')
    """
    match given:
        case Rival():
            return given
        case UpdateRule():
            return Rival(str(given), str(given), given)
        case str():
            return _named(given.strip())
        case _:
            raise ValueError(
                f"a rival is {', '.join(KINDS)} or module:factory, as text, or an UpdateRule or a "
                f"Rival; got {given!r}"
            )


def _named(text: str) -> Rival:
    if text.startswith(OPTAX):
        return Rival(text, text, _checked(text, _of_optax(text)))
    if ":" in text:
        return Rival(text, text, _checked(text, import_own("rival", text, KINDS)))
    rule = named_rule(text)
    return Rival(text, str(rule), rule)


def _of_optax(text: str) -> Any:
    found: Any = optax
    for name in text.removeprefix(OPTAX).split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found))
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"rival {text!r}: {found.__name__} has no {name!r}{hint}")
        found = getattr(found, name)
    if callable(found):
        first = next(iter(inspect.signature(found).parameters), "nothing")
        if first != "learning_rate":
            raise ValueError(
                f"rival {text!r} takes {first} first, where an optimizer takes its learning_rate; "
                "give module:factory, a function from a learning rate to an optimizer"
            )
        if "schedule_free" in text:
            raise ValueError(
                f"rival {text!r} is judged at other parameters than it trains, which is not "
                "offered here"
            )
    return found


def _checked(text: str, factory: Any) -> Factory:
    """Return what was named, if it is a function from a learning rate to an optimizer."""
    if not callable(factory):
        raise ValueError(
            f"rival {text!r} is a {type(factory).__name__}; give a function from a learning rate "
            "to an optimizer"
        )
    try:
        made = call_factory(Rival(text, text, factory).factory(100), 0.1, jax.random.key(0))
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(
            f"rival {text!r}, called with a learning rate of 0.1 and nothing else, fails: {error}; "
            "give module:factory, a function that sets its other arguments"
        ) from error
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"rival {text!r} returns a {type(made).__name__} for a learning rate; give a function "
            "that returns an optax.GradientTransformation (of MultiSteps, its "
            "gradient_transformation())"
        )
    return factory
