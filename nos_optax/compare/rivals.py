"""What is compared: update rules, and any other Optax optimizer, each as a function of its rate."""

import difflib
import inspect
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import nos_optax
from nos_optax.grammar import RuleError, UpdateRule, encode
from nos_optax.population import Task
from nos_optax.population.own import import_own

Factory = Callable[[Any], optax.GradientTransformation]
OPTAX = "optax."
KINDS = ("a rule", "a name of nos_optax.rules", "optax.NAME")


class Rival(NamedTuple):
    """A way to train.

    Attributes:
        name: what tables call it.
        what: what it is: a rule in infix form, or where the optimizer is found.
        optimizer: the rule; or a function from a learning rate to an Optax optimizer.
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
        rule = self.optimizer
        if not isinstance(rule, UpdateRule):
            return rule
        return lambda rate: nos_optax.from_rule(rule, rate, total_steps=total_steps)

    def key(self) -> str:
        """Return what tells its trainings from those of others, in records.

        Where the optimizer is a function of the user's own, that is its source too: trainings of an
        earlier version of it do not count.
        """
        if isinstance(self.optimizer, UpdateRule):
            return str(self.optimizer)
        try:
            source = inspect.getsource(self.optimizer)
        except (OSError, TypeError):
            source = ""
        return f"{self.what} {zlib.crc32(source.encode()):08x}"

    def check(self, task: Task) -> None:
        """Raise if the optimizer cannot take a step on the task's parameters.

        Raises:
            ValueError: with what went wrong there.
        """
        factory = self.factory(total_steps=1)

        def one_step(rate, key):
            params, _ = task.init(key)
            optimizer = optax.with_extra_args_support(factory(rate))
            return optimizer.update(params, optimizer.init(params), params, value=rate)

        try:
            jax.eval_shape(one_step, jax.numpy.float32(0.1), jax.random.key(0))
        except Exception as error:  # whatever somebody's optimizer raises
            raise ValueError(
                f"{self.name} cannot take a step on {task.name}: {type(error).__name__}: {error}"
            ) from error


def as_rival(given: "str | UpdateRule | Rival") -> Rival:
    """Return the rival that a user named.

    Args:
        given: the name of one of `nos_optax.rules`; a rule in infix form; `optax.NAME` of an
            optimizer whose other arguments have defaults, in a submodule too; `module:factory`, a
            function from a learning rate to an optimizer; or what these stand for.

    Raises:
        ValueError: it is none of these.

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
    if text in nos_optax.rules:
        rule = nos_optax.rules[text].rule
        return Rival(text, str(rule), rule)
    try:
        rule = nos_optax.parse(text)
    except RuleError as error:
        near = difflib.get_close_matches(text, nos_optax.rules)
        if not (near and text.isidentifier()):
            raise
        raise RuleError(f"{error}\nOr one of the paper's rules: {', '.join(near)}?") from None
    return Rival(text, str(rule), rule)


def _of_optax(text: str) -> Any:
    found: Any = optax
    for name in text.removeprefix(OPTAX).split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found))
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"rival {text!r}: {found.__name__} has no {name!r}{hint}")
        found = getattr(found, name)
    return found


def _checked(text: str, factory: Any) -> Factory:
    """Return what was named, if it is a function from a learning rate to an optimizer."""
    if not callable(factory):
        raise ValueError(
            f"rival {text!r} is a {type(factory).__name__}; give a function from a learning rate "
            "to an optimizer"
        )
    try:
        made = factory(0.1)
    except Exception as error:  # whatever somebody's function raises
        raise ValueError(
            f"rival {text!r}, called with a learning rate of 0.1 and nothing else, fails: {error}; "
            "give module:factory, a function that sets its other arguments"
        ) from error
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"rival {text!r} returns a {type(made).__name__} for a learning rate; give a function "
            "that returns an optax.GradientTransformation"
        )
    return factory
