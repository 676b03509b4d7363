"""Evolution: the best of a random few has a child, and rules that are alike share few places."""

from typing import NamedTuple

import jax
import numpy as np

from nos_optax.grammar import SearchSpace
from nos_optax.search.strategies.niches import Directions, cleared
from nos_optax.search.strategies.strategy import KeyStream, check_answer
from nos_optax.search.strategies.trees import restructure

CHANGES = (0.6, 0.25, 0.15)  # shares of the others with one, two and three other tokens
CROSSED = 0.15  # share of the others that have iterations of two parents
MOST_TRIES = 10  # changes of a child that is there already
FOUNDERS = 32
ENOUGH = 8  # samples for each founder: where rewards are few, as of a coarse score, these must do


class EvolutionState(NamedTuple):
    """What evolution's next asks depend on; the programs that have lived longest come first."""

    keys: KeyStream
    tokens: np.ndarray  # int32[P, 5 G]
    rewards: np.ndarray  # float32[P], all different when they were told
    size: np.ndarray  # int32[], how many rows are programs: the last ones
    told: np.ndarray  # int32[], programs so far


class Evolution:
    """Evolution in niches: the best of a random few has a child, and the worst programs die.

    In the population one program stands for all that have the same reward: equal rewards are of
    one training, and all rules that fail have one, too. Of programs that go in nearly the same
    direction on the probes only the best few live (`niches`): otherwise one good idea in a hundred
    decorations would soon be the whole population.

    The first programs are uniform samples, until enough of them differ: nine of ten fail, and from
    the few others a search would go where chance had led these. From then on each program asked
    for is a child of the winner of its own tournament among the population of the last `tell`, or
    now and then another uniform sample, so that a search which stands still has somewhere to go.
    Half of the children have their parent's tree with a node or two changed (`trees`). Of the
    others some have iterations of a second winner, and all have one to three other tokens. In place
    of a child that equals a program of the population or an earlier child its parent has another.

    Args:
        space: what to search.
        key: PRNG key of all choices.
        population_size: how many different rewards may have children.
        tournament_size: how many of them, drawn with replacement, compete for each child.
        founders: how many programs live before they have children, or all there are after 8 times
            as many samples; 32, or the population if it is smaller, where None.
        immigrants: share of uniform samples among the programs asked for after that.
        niche_size: how many programs that go in nearly the same direction may live.
        restructured: share of the children whose tree is changed, and not single tokens.
        start: programs that it asks for first, `int32[N, 5 G]`; only samples where None.

    Raises:
        ValueError: a size is less than 1, the founders are more than the population, a share is
            outside [0, 1], or a program of the start is not in the space.

    References:
        Tournaments and children as in Real et al., `Regularized Evolution for Image Classifier
        Architecture Search <https://arxiv.org/abs/1802.01548>`_, 2019, algorithm 1; death by
        clearing, Petrowski, `A clearing procedure as a niching method for genetic algorithms
        <https://doi.org/10.1109/ICEC.1996.542703>`_, 1996.
    """

    def __init__(
        self,
        space: SearchSpace,
        key: jax.Array,
        population_size: int = 128,
        tournament_size: int = 16,
        founders: int | None = None,
        immigrants: float = 0.1,
        niche_size: int = 6,
        restructured: float = 0.5,
        start: np.ndarray | None = None,
    ):
        founders = min(FOUNDERS, population_size) if founders is None else founders
        sizes = population_size, tournament_size, founders, niche_size
        if min(sizes) < 1 or founders > population_size:
            raise ValueError(
                f"population_size={population_size}, tournament_size={tournament_size}, "
                f"founders={founders}, niche_size={niche_size}: give at least 1 of each, and no "
                "more founders than the population has."
            )
        for name, share in (("immigrants", immigrants), ("restructured", restructured)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {share}")
        self.space, self.tournament_size, self._asked = space, tournament_size, None
        self.founders, self.immigrants, self.niche_size = founders, immigrants, niche_size
        self.restructured = restructured
        self.start = np.zeros((0, len(space.num_choices)), np.int32) if start is None else start
        if not space.allows(self.start).all():
            raise ValueError("start must hold programs of the space")
        self._directions = Directions(space.iterations)
        self.state = EvolutionState(
            KeyStream.start(key),
            np.zeros((population_size, len(space.num_choices)), np.int32),
            np.zeros(population_size, np.float32),
            size=np.zeros([], np.int32),
            told=np.zeros([], np.int32),
        )

    def ask(self, count: int) -> np.ndarray:
        """Return children of the population, or uniform samples until it has its founders.

        What it starts from comes before all of these.
        """
        self.state = self.state._replace(keys=self.state.keys.next())
        keys, tokens, rewards, size, told = self.state
        self._asked = np.asarray(self.space.sample(keys.key(), count))
        if size >= self.founders or told >= ENOUGH * self.founders:
            rng = np.random.default_rng(np.asarray(jax.random.key_data(keys.key())))
            children = self._children(rng, tokens[-size:], rewards[-size:], self._asked)
            immigrants = rng.random(count) < self.immigrants
            self._asked = np.where(immigrants[:, None], self._asked, children)
        first = self.start[told : told + count]
        self._asked = np.concatenate([first, self._asked[len(first) :]])
        return self._asked

    def _children(self, rng, tokens, rewards, strays):
        """Return as many children as there are strays, `int32[B, 5 G]`."""
        first, second = (self._winners(rng, tokens, rewards, len(strays)) for _ in range(2))
        children = _cross(self.space, rng, first, second)
        changes = rng.choice(len(CHANGES), size=len(strays), p=CHANGES) + 1
        rows = np.flatnonzero(rng.random(len(strays)) < self.restructured)
        trees = restructure(self.space, rng, first[rows], second[rows])
        changed = (trees != first[rows]).any(axis=1)  # not all, where a space lacks what pads rules
        children[rows[changed]] = trees[changed]
        others = np.isin(range(len(strays)), rows[changed], invert=True)
        for number in range(len(CHANGES)):
            chosen = (changes > number) & others
            children[chosen] = _mutate(self.space, rng, children[chosen], strays[chosen])
        population = {row.tobytes() for row in tokens}
        for _ in range(MOST_TRIES):
            known = set(population)
            twins = np.array([_seen(known, row) for row in children])
            if not twins.any():
                break
            # From the parent again: from a twin, a small space would be left at random.
            children[twins] = _mutate(self.space, rng, first[twins], strays[twins])
        return children

    def _winners(self, rng, tokens, rewards, count):
        entrants = rng.integers(len(rewards), size=(count, self.tournament_size))
        winners = np.argmax(rewards[entrants], axis=1)
        return tokens[entrants[np.arange(count), winners]]

    def tell(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Take up programs, and let the worst of each niche, twins, and the worst of all die."""
        tokens, rewards = check_answer(self._asked, tokens, rewards)
        keys, old_tokens, old_rewards, size, told = self.state
        most, told = len(old_rewards), told + len(tokens)
        tokens = np.concatenate([old_tokens[most - size :], tokens])
        rewards = np.concatenate([old_rewards[most - size :], rewards])
        different = np.sort(np.unique(rewards, return_index=True)[1])
        tokens, rewards = tokens[different], rewards[different]
        living = np.sort(cleared(self._directions(tokens), rewards, self.niche_size)[:most])
        nobody = most - len(living)
        self.state = EvolutionState(
            keys,
            np.pad(tokens[living], ((nobody, 0), (0, 0))),
            np.pad(rewards[living], (nobody, 0)),
            np.asarray(len(living), np.int32),
            np.asarray(told, np.int32),
        )
        self._asked = None

    def revise(self, tokens: np.ndarray, rewards: np.ndarray) -> None:
        """Take up what the rewards of earlier programs are now, after more seeds."""
        now = {row.tobytes(): reward for row, reward in zip(tokens, rewards, strict=True)}
        old = zip(self.state.tokens, self.state.rewards, strict=True)
        revised = [now.get(np.asarray(row, np.int32).tobytes(), reward) for row, reward in old]
        self.state = self.state._replace(rewards=np.array(revised, np.float32))


def _cross(space, rng, first, second):
    """Return the first parents, some with the last iterations of the second, `int32[B, 5 G]`."""
    iterations = first.shape[1] // 5
    crossed = rng.random(len(first)) < CROSSED
    cuts = 5 * rng.integers(1, max(iterations, 2), size=len(first))
    tail = np.arange(first.shape[1]) >= cuts[:, None]
    mixed = np.where(tail & crossed[:, None], second, first)
    return np.where(space.allows(mixed)[:, None], mixed, first)


def _seen(known: set[bytes], row: np.ndarray) -> bool:
    """Return whether a program is known, and count it as known from here on."""
    there = row.tobytes() in known
    known.add(row.tobytes())
    return there


def _mutate(space, rng, parents, strays):
    """Change one token of each parent, within the space.

    The place is uniform among those where another token is allowed, and the token uniform among
    these. A parent that can change nowhere leaves its row to the stray. All are int32[B, 5 G].
    """
    batch, length = parents.shape
    rows, places = np.arange(batch), np.arange(length)
    words = np.arange(max(space.num_choices))
    neighbours = np.tile(parents[:, None, None], (1, length, len(words), 1))
    neighbours[:, places, :, places] = words
    allowed = space.allows(neighbours.reshape(-1, length)).reshape(batch, length, len(words))
    allowed &= words != parents[:, :, None]
    place = _choose(rng, allowed.any(axis=2))
    word = _choose(rng, allowed[rows, place])
    born = allowed[rows, place, word]
    return np.where(born[:, None], neighbours[rows, place, word], strays)


def _choose(rng, allowed):
    """Return the index of a uniformly chosen True of each row, int[B] of bool[B, K]."""
    return np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=1)
