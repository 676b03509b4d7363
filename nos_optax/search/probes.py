"""What a rule does to a few fixed gradients: tells equal rules, and hopeless ones, untrained.

The probes are two sequences of gradients beside the same weights. Their first columns span all
magnitudes, so that rules which agree there are equal: the fingerprint. The others are a plausible
problem, a mean gradient with noise, at the magnitudes that the digits' network has: the rejection.
"""

import functools
import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from nos_optax.grammar import apply_program, init_program_state, program_streams
from nos_optax.grammar.program import as_population, pad_programs
from nos_optax.grammar.vocabulary import UNARY

REASONS = ("not finite", "constant", "ignores the gradient", "points uphill")

CHUNK = 32  # programs in one call of the compiled function, shared out among the CPU's cores
RECENT = 128  # programs whose updates are kept, 72 kB each
STEPS = 7  # T of the decays too; a prime, so that no restart of rd(10) or rd(20) falls on a step
WIDE = 64  # parameters of the fingerprint
PAIRS = 128  # of parameters with opposite gradients, of the rejection
BEHAVIOUR = 1024  # updates that tell rules which do nearly the same
FEW = 64  # of them, which tell most rules apart
BITS = 16  # of each value's mantissa that the fingerprint keeps
DROPS = [token for token, word in enumerate(UNARY) if word.startswith("drop")]

RARE = 0.01  # share of the entries; one that is larger no network escapes
NEARLY = 1e-3  # relative difference of entries that count as equal
UPHILL = -3.0  # standard errors

_FLOAT32 = np.finfo(np.float32)


class Probed(NamedTuple):
    """What the probes tell of one program."""

    fingerprint: str  # hex digest: equal for rules whose updates agree on the probes
    rejection: str | None  # why training it would be hopeless; None if it may be worth training
    behaviour: bytes  # float32[BEHAVIOUR], some of its updates, their scale removed


class Probes:
    """Evaluates programs on the probes, always on a CPU and in float64.

    In float64 the rounding errors of equal rules stay far below what the fingerprint keeps.
    Results that float32, in which the children train, could not hold become zeros and infinities.

    Args:
        iterations: the length of the longest program.

    Example:
        >>> import numpy as np
        >>> from nos_optax.grammar import encode
        >>> from nos_optax.search.probes import Probes
        >>> probes = Probes(iterations=2)
        >>> rules = ("g * m * m", "m^2 * g", "-adam")
        >>> one, other, bad = probes(np.stack([encode(rule, 2).array for rule in rules]))
        >>> one.fingerprint == other.fingerprint, one.rejection, bad.rejection
        (True, None, 'points uphill')
    """

    def __init__(self, iterations: int):
        self.iterations = iterations

    def __call__(self, programs: np.typing.ArrayLike) -> list[Probed]:
        """Return what the probes tell of each program, whatever its neighbours.

        Args:
            programs: `int32[P, G, 5]`, or the controller's `int32[P, 5 G]`.

        Raises:
            ValueError: the population is empty, or holds what is no program of at most
                `iterations`.
        """
        programs = pad_programs(as_population(programs), self.iterations)
        return [
            probed
            for start in range(0, len(programs), CHUNK)
            for probed in _look(programs[start : start + CHUNK])
        ]

    def directions(self, programs: np.typing.ArrayLike) -> np.ndarray:
        """Return where each program goes, `float32[P, D]`: its updates, each step of size 1.

        So the size of its steps, and how it changes as a training goes on, have no part in it. A
        direction has length 1, or 0 where there are no finite updates.
        """
        return self._unit_vectors(programs, _unit)

    def courses(self, programs: np.typing.ArrayLike) -> np.ndarray:
        """Return the course of each program, `float32[P, D]`: all its updates as one vector.

        As `directions`, but how the steps' sizes change as a training goes on has a part in it: a
        rule and the same rule with a decay take different courses in one direction.
        """
        return self._unit_vectors(programs, lambda steps: steps)

    def _unit_vectors(self, programs, of_steps) -> np.ndarray:
        programs = pad_programs(as_population(programs), self.iterations)
        chunks = (programs[start : start + CHUNK] for start in range(0, len(programs), CHUNK))
        found = [of_steps(_steps(_updates_of(chunk)[1])) for chunk in chunks]
        return np.concatenate([_unit(x.reshape(len(x), -1)).astype(np.float32) for x in found])


def _steps(updates: np.ndarray) -> np.ndarray:
    """Return each program's updates on the plausible problem, `[P, steps, D]`.

    Not those of the first step, where averages are the gradient, and of the last, where decays are
    zero.
    """
    steps = np.nan_to_num(updates[:, 1:-1, :, WIDE:], posinf=0, neginf=0)
    return steps.reshape(*steps.shape[:2], -1)


def _unit(x: np.ndarray) -> np.ndarray:
    """Return vectors `[..., D]` over their lengths; those of length 0 as they are."""
    sizes = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(sizes > 0, sizes, 1)


def _wide(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return gradients `[STEPS, 2, WIDE]` and weights `[WIDE]` of all magnitudes."""
    shape = (STEPS, 2, WIDE)
    gradients = np.geomspace(1e-6, 1e1, WIDE) * rng.normal(size=shape)
    # Tiny beside large averages, averages that nearly cancel, zeros beside averages that are not,
    # and zeros alone: there g, rmsprop, adam and their signs differ.
    gradients[:, :, ::2] = (10 ** rng.uniform(-6, 1, shape) * rng.choice([-1, 1], shape))[:, :, ::2]
    gradients[1, :, 1::8] = -0.9 * gradients[0, :, 1::8] * (1 + np.geomspace(1e-6, 1e-2, WIDE // 8))
    gradients[2:][rng.random((STEPS - 2, 2, WIDE)) < 0.1] = 0
    gradients[:, :, ::12] = 0
    weights = rng.permutation(np.geomspace(1e-6, 1e2, WIDE)) * rng.choice([-1, 1], WIDE)
    weights[::16] = 0
    return gradients, weights


def _plausible(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gradients `[STEPS, 2, 2 PAIRS]`, weights `[2 PAIRS]` and mean gradients `[2, ...]`.

    The second half has the gradients of the first with the other sign: rules that are blind to the
    sign point neither uphill nor downhill, rather than either by chance.
    """
    # The median and the spread that the first gradients of the digits' network have.
    sizes = 0.015 * np.exp(0.7 * rng.normal(size=(2, PAIRS)))
    means = sizes * rng.choice([-1, 1], sizes.shape)
    gradients = means + sizes * rng.normal(size=(STEPS, 2, PAIRS))
    weights = 0.1 * rng.normal(size=PAIRS)
    weights[::8] = 0  # as biases begin
    return (
        np.concatenate([gradients, -gradients], axis=-1),
        np.tile(weights, 2),
        np.concatenate([means, -means], axis=-1),
    )


_rng = np.random.default_rng(0)
_wide_gradients, _wide_weights = _wide(_rng)
_plausible_gradients, _plausible_weights, _MEANS = _plausible(_rng)
_GRADIENTS = np.concatenate([_wide_gradients, _plausible_gradients], axis=-1)
_WEIGHTS = np.concatenate([_wide_weights, _plausible_weights])
_recent: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}  # by program, the oldest first
_SEEN = np.sort(_rng.choice(_GRADIENTS.size, BEHAVIOUR, replace=False))


def _all_updates(programs: np.ndarray, streams: np.ndarray) -> np.ndarray:
    """Return the updates `[P, STEPS, 2, D]` of at most CHUNK programs with these streams."""
    padded = (_padded(x, CHUNK) for x in (programs, streams))
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        updates = np.asarray(_map_updates()(*padded))[: len(programs)]
    sizes = abs(updates)
    updates = np.where(sizes > _FLOAT32.max, np.copysign(np.inf, updates), updates)
    return np.where(sizes < _FLOAT32.tiny, 0.0, updates)


def _padded(x: np.ndarray, length: int) -> np.ndarray:
    """Return an array whose last row is repeated up to a length."""
    return x[np.minimum(np.arange(length), len(x) - 1)]


@jax.jit
def _streams(programs: jax.Array) -> jax.Array:
    """Return the random streams `uint32[P, G, 2]` of programs, each a hash of what is dropped."""
    return jax.vmap(program_streams)(programs)


def _numbered(streams: np.ndarray, drops: np.ndarray) -> np.ndarray:
    """Return the streams `uint32[P, G, 2]`, those that are drawn from numbered as they come.

    By its hash, a rule that drops next to nothing more than another, as `drop(g + clip(m, 1e-5),
    0.1)` than `drop(g, 0.1)`, would draw otherwise, and not be seen to do the same.
    """
    numbered = np.zeros_like(streams)
    for row, names, drawn in zip(numbered, streams, drops, strict=True):
        order = {name: i for i, name in enumerate(dict.fromkeys(names[drawn]))}
        row[drawn] = [order[name] for name in names[drawn]]
    return numbered


@functools.cache
def _map_updates():
    """Return the function that maps CHUNK programs, an equal share on each of the CPU's devices."""
    devices = jax.local_devices(backend="cpu")
    devices = devices[: math.gcd(CHUNK, len(devices))]
    mesh = Mesh(np.array(devices), ("device",), axis_types=(AxisType.Auto,))
    share = PartitionSpec("device")
    # A map, not a vmap: the rule's switches are real branches and rows have no neighbours.
    mapped = jax.shard_map(
        lambda *rows: jax.lax.map(lambda row: _updates(*row), rows),
        mesh=mesh,
        in_specs=share,
        out_specs=share,
        check_vma=False,
    )
    return jax.jit(mapped)


def _updates(program: jax.Array, streams: jax.Array) -> jax.Array:
    """Return the updates `[STEPS, 2, D]` of one program; both sequences have the same draws."""
    weights, key = jnp.asarray(_WEIGHTS), jax.random.key(0)

    def step(state, g):
        update, state = jax.vmap(
            lambda state, g: apply_program(
                program, streams, state, g, weights, jnp.int32(STEPS), key
            )
        )(state, g)
        return state, update

    start = jax.vmap(init_program_state)(jnp.zeros(_GRADIENTS.shape[1:]))
    return jax.lax.scan(step, start, jnp.asarray(_GRADIENTS))[1]


def _look(programs: np.ndarray) -> Iterator[Probed]:
    """Return what is told of at most CHUNK programs."""
    updates, comparable = _updates_of(programs)
    wide, plausible = updates[..., :WIDE], updates[..., WIDE:]
    fingerprints, rejections = _fingerprints(wide), _rejections(plausible)
    behaviours = (row.tobytes() for row in _behaviours(comparable))
    return map(Probed, fingerprints, rejections, behaviours)


def _updates_of(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the updates of at most CHUNK programs, twice.

    First with the draws that children have, then with those by which rules that drop entries can
    be compared (`_numbered`). Those of the last programs are known: a strategy looks at what the
    judge has just looked at.
    """
    keys = [row.tobytes() for row in programs]
    new = {key: i for i, key in enumerate(keys) if key not in _recent}
    if new:
        found = zip(*_simulate(programs[list(new.values())]), strict=True)
        _recent.update(zip(new, found, strict=True))
    updates, comparable = zip(*(_recent[key] for key in keys), strict=True)
    while len(_recent) > RECENT:
        del _recent[next(iter(_recent))]
    return np.stack(updates), np.stack(comparable)


def _simulate(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the updates of at most CHUNK programs on the probes, twice."""
    streams = np.asarray(_streams(_padded(programs, CHUNK)))[: len(programs)]
    updates = _all_updates(programs, streams)
    drops = np.isin(programs[..., 2:4], DROPS)
    random = drops.any(axis=(1, 2))
    if not random.any():
        return updates, updates
    comparable = updates.copy()
    numbered = _numbered(streams[random], drops[random])
    comparable[random] = _all_updates(programs[random], numbered)
    return updates, comparable


def _behaviours(updates: np.ndarray) -> np.ndarray:
    """Return some updates of each program, over their median size on the plausible problem.

    Rules that differ by a factor train alike where rates are centred by the size of updates.
    """
    sizes = np.abs(updates[..., WIDE:]).reshape(len(updates), -1)
    scale = np.median(np.where(np.isfinite(sizes), sizes, 0), axis=1)
    flat = updates.reshape(len(updates), -1)[:, _SEEN]
    with np.errstate(all="ignore"):
        return np.nan_to_num(
            flat / np.where(scale > 0, scale, 1)[:, None], posinf=0, neginf=0
        ).astype(np.float32)


def are_alike(behaviour: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which of some rules do nearly what another does, `bool[N]`.

    They do if all but a hundredth of their updates, up to one factor for all, differ by at most a
    part of their size, or of the median size: next to it, what is added to tiny ones is nothing.

    Args:
        behaviour: of the other, `float32[B]`.
        others: `float32[N, B]`.
        tolerance: the part.
    """
    return _differences(behaviour, others, tolerance) <= RARE * len(behaviour)


class Behaviours:
    """The behaviours of numbered rules, to find the first that does nearly what a new one does.

    Args:
        tolerance: as in `are_alike`; where it is 0 no rule does nearly what another does.
    """

    def __init__(self, tolerance: float):
        self._tolerance, self._numbers = tolerance, []
        self._rows = np.zeros((CHUNK, BEHAVIOUR), np.float32)

    def add(self, number: int, behaviour: bytes) -> None:
        """Add a rule's behaviour, as `Probed` has it."""
        if not self._tolerance:
            return
        count = len(self._numbers)
        if count == len(self._rows):  # twice the room, so that rows are seldom copied
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[count] = np.frombuffer(behaviour, np.float32)
        self._numbers.append(number)

    def first_alike(self, behaviour: bytes) -> int | None:
        """Return the number of the first rule that does nearly the same; None if none does."""
        if not self._tolerance:
            return None
        new, known = np.frombuffer(behaviour, np.float32), self._rows[: len(self._numbers)]
        # Most rules differ in more of a few updates than they may in all.
        few = _differences(new[:FEW], known[:, :FEW], self._tolerance)
        (near,) = np.nonzero(few <= RARE * BEHAVIOUR)
        (alike,) = np.nonzero(are_alike(new, known[near], self._tolerance))
        return self._numbers[near[alike[0]]] if len(alike) else None


def _differences(behaviour: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Return in how many updates each of some rules differs from another, `int[N]`."""
    sizes = np.maximum(np.maximum(np.abs(others), np.abs(behaviour)), 1.0)
    with np.errstate(invalid="ignore"):  # updates that float32 cannot hold are infinite, and equal
        return (np.abs(others - behaviour) > tolerance * sizes).sum(axis=1)


def _fingerprints(updates: np.ndarray) -> list[str]:
    """Return hashes of the leading bits of the values; all nans are one, and so are both zeros."""
    mantissa, exponent = np.frexp(updates)
    values = np.ldexp(np.round(mantissa * 2**BITS), exponent) + 0.0
    values[np.isnan(values)] = np.nan
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in values.astype("<f8")]


def _rejections(updates: np.ndarray) -> list[str | None]:
    """Return the first of REASONS that holds for each of the updates `[P, STEPS, 2, 2 PAIRS]`."""
    finite = np.isfinite(updates)
    updates = np.where(finite, updates, 0)
    middle = np.median(updates, axis=(2, 3), keepdims=True)
    held = (
        _share(~finite) > RARE,
        _share(_differ(updates, middle)) <= RARE,
        _share(_differ(updates[:, :, 0], updates[:, :, 1])) <= RARE,
        _descents(updates) < UPHILL,
    )
    return [
        next((reason for reason, holds in zip(REASONS, row, strict=True) if holds), None)
        for row in zip(*held, strict=True)
    ]


def _differ(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which entries are not nearly equal."""
    return np.abs(x - y) > NEARLY * np.maximum(np.abs(x), np.abs(y))


def _share(condition: np.ndarray) -> np.ndarray:
    """Return the share of each program's entries for which it holds, `[P]`."""
    return condition.reshape(len(condition), -1).mean(axis=1)


def _descents(updates: np.ndarray) -> np.ndarray:
    """Return the first-order decreases of the loss, `[P]`, in standard errors over the pairs."""
    decreases = (updates.sum(axis=1) * _MEANS).reshape(len(updates), 2, 2, PAIRS).sum(axis=2)
    decreases = decreases.reshape(len(updates), -1)
    error = np.sqrt(np.sum(decreases**2, axis=1))
    return np.divide(decreases.sum(axis=1), error, out=np.zeros(len(error)), where=error > 0)
