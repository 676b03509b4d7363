"""Laws of every search strategy: in the space, decided by the key, resumable, and learning."""

import contextlib
import dataclasses
import inspect
import itertools
import sys
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from liveness_checks import all_matter

from nos_optax.grammar import Program, SearchSpace, decode, encode
from nos_optax.search import History, SearchConfig, make_strategy
from nos_optax.search.history import FILE
from nos_optax.search.strategies import (
    STRATEGIES,
    Evolution,
    RandomSearch,
    catalogue_programs,
    find_strategy,
)
from nos_optax.search.strategies.evolution import CROSSED, _cross
from nos_optax.search.strategies.niches import ALIKE, Directions, cleared
from nos_optax.search.strategies.trees import restructure

NAMES = tuple(STRATEGIES)
SMALL = SearchSpace(1, operands=("g", "m", "ld"), unary=("x", "exp", "sign"), binary=("+", "*"))
SPACES = {
    "small": SMALL,
    "whole": SearchSpace(1),
    "three iterations": SearchSpace(
        3, operands=("g", "adam"), unary=("x", "-x"), binary=("+", "/", "left")
    ),
    "live results": SearchSpace(
        3, operands=("g", "adam"), unary=("x", "-x"), binary=("+", "/", "left"), live_results=True
    ),
    "no neighbours": SearchSpace(1, operands=("g", "m"), unary=("x",), binary=("*",)),
    "one program": SearchSpace(
        1, operands=("g",), unary=("x",), binary=("*",), distinct_operands=False
    ),
}
CONTROLLERS = ("ppo", "reinforce")
BATCH = 32  # everywhere: a controller's every other batch size is compiled for seconds


def make(name, space=SMALL, seed=0):
    """As on the command line, but evolution has its founders after a batch or two."""
    if name == "evolution":
        return Evolution(space, jax.random.key(seed), 40, tournament_size=10, founders=4)
    return make_strategy(name, space, seed)


def reward(tokens):
    """A number for each program that all of its tokens decide."""
    return np.asarray(tokens @ np.arange(1, tokens.shape[1] + 1) % 7 / 7, np.float32)


def rounds(strategy, count=4):
    """Ask and tell; return all tokens, `[count, BATCH, L]`."""
    asked = []
    for _ in range(count):
        asked.append(strategy.ask(BATCH))
        strategy.tell(asked[-1], reward(asked[-1]))
    return np.stack(asked)


# The space.


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ["random", "evolution"])
def test_programs_are_in_the_space(name, space):
    tokens = rounds(make(name, space))
    assert tokens.dtype == np.int32 and tokens.shape == (4, BATCH, 5 * space.iterations)
    assert space.allows(np.concatenate(tokens)).all()


@pytest.mark.parametrize("space", ["whole", "three iterations", "live results", "no neighbours"])
def test_programs_of_an_untaught_controller_are_in_the_space(space):
    assert SPACES[space].allows(make("ppo", SPACES[space]).ask(BATCH)).all()


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_every_iteration_of_a_live_program_matters(name):
    """Evolution mutates within the space, so its children do too, and it has some."""
    space = SearchSpace(4, live_results=True)
    tokens = rounds(make(name, space), count=6)
    assert all_matter(tokens.reshape(-1, 20))
    assert len(np.unique(tokens.reshape(-1, 20), axis=0)) > 100


def test_live_results_is_a_setting_of_the_search():
    assert (
        SearchConfig(protocol="paper").space() == SearchSpace() and not SearchSpace().live_results
    )
    assert SearchConfig(protocol="paper", live_results=True).space() == SearchSpace(
        live_results=True
    )
    with pytest.raises(ValueError, match="--live-results is 'yes'; expected bool"):
        dataclasses.replace(SearchConfig(), live_results="yes")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_programs_of_a_controller_are_in_the_space(name):
    assert SMALL.allows(np.concatenate(rounds(make(name)))).all()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_allows_is_membership(space):
    """Against `in`, on uniform samples, on their neighbours and on nonsense."""
    rng = np.random.default_rng(0)
    inside = np.asarray(space.sample(jax.random.key(0), BATCH))[:10]
    neighbours = inside.copy()
    places = rng.integers(inside.shape[1], size=10)
    neighbours[np.arange(10), places] = rng.integers(0, np.array(space.num_choices)[places])
    outside = rng.integers(0, space.num_choices, inside.shape)
    tokens = np.concatenate([inside, neighbours, outside])
    assert space.allows(tokens).tolist() == [Program.from_array(row) in space for row in tokens]
    assert space.allows(inside).all()
    assert not space.allows(np.concatenate([inside - 100, inside + 100])).any()


# Randomness and resuming.


@pytest.mark.parametrize("name", NAMES)
def test_the_key_decides(name):
    first, again, other = (rounds(make(name, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any() and (first[-1] != other[-1]).any()
    assert all((a != b).any() for a, b in itertools.pairwise(first))


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_a_pytree_of_arrays_of_fixed_shapes(name):
    def shapes(state):
        for leaf in jax.tree.leaves(state):
            assert isinstance(leaf, jax.Array | np.ndarray) and leaf.size > 0
            assert leaf.dtype in (np.int32, np.uint32, np.float32)
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)

    strategy = make(name)
    fresh = shapes(strategy.state)
    for _ in range(3):
        rounds(strategy, 1)
        assert shapes(strategy.state) == fresh


def save_and_restore(state, template, folder):
    """Store a state in a history, and read it."""
    with contextlib.closing(History(folder / FILE)) as history:
        history.save_state(4, state)
        populations, restored = history.state(template, 4)
    assert populations == 4
    return restored


@pytest.mark.parametrize("told", [1, 3])  # evolution's population: not yet full, and full
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_strategy_goes_on_as_if_nothing_had_happened(name, told, tmp_path):
    unbroken, resumed = make(name), make(name, seed=5)
    rounds(unbroken, told)
    resumed.state = save_and_restore(unbroken.state, resumed.state, tmp_path)
    np.testing.assert_array_equal(rounds(resumed, 3), rounds(unbroken, 3))
    jax.tree.map(np.testing.assert_array_equal, resumed.state, unbroken.state)


def test_evolution_goes_on_where_programs_have_died_and_been_revised(tmp_path):
    def play(strategy, count):
        asked = []
        for _ in range(count):
            asked.append(strategy.ask(BATCH))
            living = strategy.state.tokens[-3:]
            strategy.revise(living, living.sum(axis=1).astype(np.float32) % 1.7)
            values = [zlib.crc32(row.tobytes()) / 2**32 for row in asked[-1]]  # all different
            strategy.tell(asked[-1], np.array(values, np.float32))
        return np.concatenate(asked)

    unbroken, resumed = (
        Evolution(SearchSpace(2), jax.random.key(i), 16, founders=4, niche_size=2) for i in range(2)
    )
    play(unbroken, 3)
    assert unbroken.state.size == 16, "more were told than may live"
    resumed.state = save_and_restore(unbroken.state, resumed.state, tmp_path)
    np.testing.assert_array_equal(play(resumed, 3), play(unbroken, 3))
    jax.tree.map(np.testing.assert_array_equal, resumed.state, unbroken.state)


def test_a_repeat_with_a_revised_reward_takes_no_second_place():
    """A search revises before it tells, so that a rule and its repeat have one reward."""
    space = SearchSpace(2, final_addition=True)
    strategy = Evolution(space, jax.random.key(0), 16, founders=4, niche_size=2)
    rows = np.stack([encode(text, 2).array.ravel() for text in ("adam", "ld * adam", "adam * 1")])
    strategy._asked = rows[:2]
    strategy.tell(rows[:2], np.array([0.5, 0.4]))
    strategy._asked = rows[2:]
    strategy.revise(rows[[0, 2]], np.array([0.51, 0.51], np.float32))
    strategy.tell(rows[2:], np.array([0.51]))
    np.testing.assert_array_equal(strategy.state.tokens[-strategy.state.size :], rows[:2])


@pytest.mark.parametrize("name", NAMES)
def test_an_ask_without_an_answer_is_forgotten(name):
    """A run that is killed between ask and tell goes on from the last tell."""
    strategy = make(name)
    rounds(strategy, 2)
    state = jax.tree.map(np.array, strategy.state)
    asked = strategy.ask(BATCH)
    strategy.state = state
    np.testing.assert_array_equal(strategy.ask(BATCH), asked)


# Answers.


def test_a_controller_learns_from_the_part_it_is_told():
    strategy = make("ppo")
    before = strategy.state.learner
    tokens = strategy.ask(BATCH + 5)[:BATCH]
    strategy.tell(tokens, reward(tokens))
    controller = strategy.controller
    log_prob = controller.score(before.params, tokens).log_prob
    key = jax.random.fold_in(strategy.state.keys.key(), 1)
    alone, _ = controller.update(before, key, tokens, log_prob, reward(tokens))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), strategy.state.learner, alone
    )


@pytest.mark.parametrize("name", ["random", "evolution", "ppo"])
def test_part_of_an_answer_is_enough(name):
    strategy = make(name)
    for _ in range(3):
        tokens = strategy.ask(BATCH + 5)
        assert len(tokens) == BATCH + 5 and SMALL.allows(tokens).all()
        strategy.tell(tokens[:BATCH], reward(tokens[:BATCH]))


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_refused_and_change_nothing(name):
    strategy = make(name)
    with pytest.raises(ValueError, match="ask for programs first"):
        strategy.tell(np.zeros((1, 5), np.int32), np.zeros(1))
    tokens = strategy.ask(BATCH)
    foreign = tokens.copy()
    foreign[0, 2:4] = tokens[0, 2:4] + 1
    state, rewards = jax.tree.map(np.array, strategy.state), reward(tokens)
    for wrong, given, message in (
        (np.concatenate([tokens, tokens]), np.tile(rewards, 2), r"\(64, 5\).*first rows of.*\(32"),
        (foreign, rewards, "not the first rows of the last ask"),
        (tokens[1:], rewards[1:], "not the first rows of the last ask"),
        (tokens[:0], rewards[:0], "not the first rows of the last ask"),
        (tokens, rewards[1:], "one finite reward"),
        (tokens, rewards[:, None], "one finite reward"),
        (tokens, np.where(rewards == rewards[0], np.nan, rewards), "one finite reward"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy.tell(wrong, given)
    jax.tree.map(np.testing.assert_array_equal, strategy.state, state)
    strategy.tell(tokens, rewards)
    with pytest.raises(ValueError, match="ask for programs first"):
        strategy.tell(tokens, rewards)


# Learning.


def bandit(tokens):
    """Which fraction of a rule's tokens is the wanted one: 0.47 on average over the space."""
    return np.mean(tokens == Program.from_words("m ld sign exp *").array, axis=1)


@pytest.mark.parametrize("name", [*CONTROLLERS, "evolution"])
def test_learning_beats_chance(name):
    def last_quarter(strategy):
        rewards = []
        for _ in range(16):
            tokens = strategy.ask(BATCH)
            rewards.append(bandit(tokens))
            strategy.tell(tokens, rewards[-1])
        return np.mean(rewards[12:])

    for seed in range(3):
        learned = last_quarter(make_strategy(name, SMALL, seed))
        chance = last_quarter(make_strategy("random", SMALL, seed))
        assert learned > chance + 0.2, (learned, chance)


def test_the_paper_preset_is_another_learner():
    """An Adam step moves a weight by the learning rate, 1e-5 or 1e-2, at first; there are some."""

    def change(preset):
        strategy = make_strategy("ppo", SMALL, 0, preset)
        before = strategy.state.learner.params
        tokens = rounds(strategy, 1)[0]
        assert SMALL.allows(tokens).all()
        changes = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), before, strategy.state.learner.params
        )
        return max(jax.tree.leaves(changes))

    assert 0 < change("paper") < 1e-4 < 5e-3 < change("default")


# Evolution.


def test_evolution_begins_as_random_search_until_it_has_its_founders():
    strategies = (
        Evolution(SearchSpace(2), jax.random.key(0), founders=16),
        RandomSearch(SearchSpace(2), jax.random.key(0)),
    )

    def ask_both(rewards):
        evolved, uniform = asked = [strategy.ask(BATCH) for strategy in strategies]
        for strategy, tokens in zip(strategies, asked, strict=True):
            strategy.tell(tokens, rewards)
        return (evolved != uniform).any()

    failed = np.full(BATCH, -3.0)
    some = np.where(np.arange(BATCH) < 7, np.arange(BATCH), -3.0)
    assert not ask_both(failed) and not ask_both(some), "eight different rewards"
    assert not ask_both(some + np.where(some > -3, 0.5, 0))  # and now fifteen
    assert not ask_both(np.full(BATCH, 9.0)) and ask_both(failed)


@pytest.mark.parametrize("rewards", [1, 3])
def test_where_rewards_are_few_evolution_does_with_them(rewards):
    """The accuracy over a hundred examples has a hundred values, and good rules share ten."""
    space = SearchSpace(2)
    strategy = Evolution(space, jax.random.key(0), founders=16, immigrants=0)
    uniform = RandomSearch(space, jax.random.key(0))
    for batch in range(4):  # of 16 founders 8 times as many
        asked = strategy.ask(BATCH)
        np.testing.assert_array_equal(asked, uniform.ask(BATCH), err_msg=str(batch))
        strategy.tell(asked, np.arange(BATCH) % rewards)
    children = strategy.ask(BATCH)
    distances = (children[:, None] != strategy.state.tokens[-rewards:]).sum(axis=2)
    assert (distances.min(axis=1) <= 8).all()


def test_immigrants_are_uniform_samples_among_the_children():
    space = SearchSpace(3)
    strategy = Evolution(space, jax.random.key(0), founders=4, immigrants=0.25)
    strategy.tell(strategy.ask(8), np.arange(8))
    parents = strategy.state.tokens[-8:]
    with mock.patch.object(strategy, "_children", lambda rng, tokens, rewards, strays: parents):
        asked = np.concatenate([strategy.ask(8) for _ in range(160)])
    strangers = (asked[:, None] != parents).any(axis=2).all(axis=1)
    assert 0.2 < strangers.mean() < 0.3
    assert space.allows(asked).all()


def test_children_are_all_the_neighbours_of_the_best():
    """Where all compete, the one that was best of the population has every child."""
    strategy = Evolution(SMALL, jax.random.key(0), 8, 200, founders=8, immigrants=0, restructured=0)
    population = strategy.ask(8)
    strategy.tell(population, np.arange(8))
    everything = np.array(list(itertools.product(*map(range, SMALL.num_choices))), np.int32)
    space = everything[SMALL.allows(everything)]
    assert len(space) == SMALL.size
    neighbours = space[(space != population[-1]).sum(axis=1) == 1]
    children = np.concatenate([strategy.ask(8) for _ in range(250)])
    assert SMALL.allows(children).all()
    distance = (children != population[-1]).sum(axis=1)
    assert set(distance) <= {1, 2, 3}
    near, counts = np.unique(children[distance == 1], axis=0, return_counts=True)
    known = {row.tobytes() for row in population}
    new = np.array([row for row in neighbours if row.tobytes() not in known])
    assert {row.tobytes() for row in new} <= {row.tobytes() for row in near}
    assert counts.sum() > 0.5 * len(children), "most have one other token"


def test_children_are_new_where_the_space_has_room():
    strategy = Evolution(SearchSpace(2), jax.random.key(0), population_size=32)
    population = strategy.ask(32)
    strategy.tell(population, np.arange(32))
    children = [row.tobytes() for row in strategy.ask(32)]
    assert len(set(children)) == 32 and not set(children) & {row.tobytes() for row in population}


def test_of_programs_with_one_reward_one_lives():
    """Programs of one training have one reward: they would soon be the whole population."""
    strategy = Evolution(SMALL, jax.random.key(0), population_size=64, niche_size=64)
    asked = strategy.ask(64)
    strategy.tell(asked, np.where(np.arange(64) < 60, 0.5, np.arange(64)))
    assert strategy.state.size == 5 and strategy.state.rewards[-5:].tolist() == [
        0.5,
        *range(60, 64),
    ]
    np.testing.assert_array_equal(strategy.state.tokens[-5:], asked[[0, *range(60, 64)]])
    again = strategy.ask(2)
    strategy.tell(again, [61, 7])
    assert strategy.state.rewards[-6:].tolist() == [0.5, *range(60, 64), 7]
    np.testing.assert_array_equal(strategy.state.tokens[-1], again[1])


def test_children_of_two_parents_have_iterations_of_both():
    space = SearchSpace(3)
    first, second = (np.asarray(space.sample(jax.random.key(i), 200)) for i in range(2))
    mixed = _cross(space, np.random.default_rng(0), first, second)
    assert space.allows(mixed).all()
    changed = (mixed != first).any(axis=1)
    assert 0.02 < changed.mean() < CROSSED + 0.1
    for child, a, b in zip(mixed[changed], first[changed], second[changed], strict=True):
        assert any((child == np.concatenate([a[:cut], b[cut:]])).all() for cut in (5, 10)), (
            "the first iterations of one, the last of the other"
        )


def test_evolution_takes_up_what_more_seeds_have_told():
    strategy = Evolution(SMALL, jax.random.key(0), 8, tournament_size=200, founders=8)
    population = strategy.ask(8)
    strategy.tell(population, np.arange(8))
    strategy.revise(population[:1], np.array([99.0], np.float32))
    assert strategy.state.rewards[0] == 99 and strategy.state.rewards[7] == 7
    strategy.revise(np.zeros((0, 5), np.int32), np.zeros(0, np.float32))
    winners = strategy._winners(
        np.random.default_rng(0), population, np.asarray(strategy.state.rewards), 50
    )
    assert (winners == population[0]).all()


def test_the_worst_die():
    strategy = Evolution(
        SMALL, jax.random.key(0), 8, tournament_size=4, founders=8, niche_size=BATCH
    )
    tokens = strategy.ask(8)
    strategy.tell(tokens, [9, *range(7)])
    assert strategy.state.rewards.tolist() == [9, *range(7)]
    strategy.tell(strategy.ask(8)[:1], [7])
    assert strategy.state.rewards.tolist() == [9, *range(1, 8)]
    np.testing.assert_array_equal(strategy.state.tokens[0], tokens[0])
    strategy.tell(strategy.ask(BATCH), np.arange(BATCH) + 0.5)
    best = [9, *(x + 0.5 for x in range(BATCH))]
    assert strategy.state.rewards.tolist() == [x for x in best if x > BATCH - 8]


FAMILIES = (
    ("adam", "ld * adam", "adam * sqrt(cd + exp(v))", "adam / 2", "adam / exp(ld)"),
    ("ld * (adam + rmsprop)", "adam + rmsprop"),
    ("sign(m)", "ld * clip(m, 1e-5)", "sign(adam)"),
    ("(1 + sign(g) * sign(m)) * adam",),
    ("g", "sqrt(cd) * g"),
    ("drop(adam, 0.3)", "drop(ld * adam, 0.3)"),
)


def test_rules_that_go_in_nearly_the_same_direction_are_of_one_niche():
    texts = [text for family in FAMILIES for text in family]
    x = Directions(4)(np.stack([encode(text, 4).array.ravel() for text in texts]))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    names = np.repeat(range(len(FAMILIES)), [len(family) for family in FAMILIES])
    np.testing.assert_array_equal((x @ x.T) >= ALIKE, names[:, None] == names)
    rewards = np.random.default_rng(0).permutation(len(texts)).astype(np.float32)
    for capacity in (1, 2, 9):
        living = cleared(x, rewards, capacity)
        np.testing.assert_array_equal(rewards[living], np.sort(rewards[living])[::-1])
        for family in range(len(FAMILIES)):
            best = np.sort(rewards[names == family])[::-1][:capacity]
            np.testing.assert_array_equal(rewards[living][names[living] == family], best)


def test_a_rule_that_does_nothing_on_the_probes_has_a_niche_of_its_own():
    x = Directions(1)(encode("adam", 1).array)
    nothing = np.zeros_like(x)
    living = cleared(np.concatenate([nothing, x, nothing]), np.arange(3.0), 1)
    assert living.tolist() == [2, 1, 0]


def test_a_good_rule_and_its_decorations_do_not_fill_the_population():
    space = SearchSpace(2, final_addition=True)
    strategy = Evolution(space, jax.random.key(0), 64, founders=4, immigrants=0, niche_size=3)
    adam = encode("adam", 2).array.ravel()
    directions = Directions(2)
    (towards,) = directions(adam[None])
    for _ in range(12):  # a reward that has one peak
        asked = strategy.ask(BATCH)
        noise = 1e-3 * np.random.default_rng(0).random(BATCH)
        strategy.tell(asked, directions(asked) @ towards + noise)
    living = directions(strategy.state.tokens[-strategy.state.size :])
    assert ((living @ living.T >= ALIKE).sum(axis=1) <= 2 * 3).all()
    assert strategy.state.size > 20


def test_trees_change_and_stay_in_the_space():
    space = SearchSpace(3, final_addition=True, live_results=True)
    parents = np.asarray(space.sample(jax.random.key(0), 200))
    others = np.asarray(space.sample(jax.random.key(1), 200))
    children = restructure(space, np.random.default_rng(0), parents, others)
    assert children.dtype == np.int32 and space.allows(children).all()
    assert (children != parents).any(axis=1).mean() > 0.9
    again = restructure(space, np.random.default_rng(0), parents, others)
    np.testing.assert_array_equal(children, again)


def test_trees_grow_shrink_are_wrapped_and_grafted():
    space = SearchSpace(3, ("g", "adam", "rmsprop", "ld"), ("x", "sqrt|x|"), ("+", "*", "left"))
    rng = np.random.default_rng(0)
    parent, other = (
        np.tile(encode(text, 3).array.ravel(), (2000, 1)) for text in ("ld * adam", "sqrt(g) * g")
    )
    texts = {str(decode(row)) for row in restructure(space, rng, parent, other)}
    assert texts >= {
        "ld * (adam + rmsprop)",  # what single tokens do not write
        "adam",
        "sqrt(ld) * adam",
        "sqrt(g) * adam",
        "ld * adam * rmsprop",
    }
    assert not any("exp" in text or "m " in text.replace("adam ", "") for text in texts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"population_size": 0}, "population_size=0, tournament_size=16"),
        ({"niche_size": 0}, "niche_size=0: give at least 1"),
        ({"tournament_size": 0}, "tournament_size=0"),
        ({"founders": 0}, "founders=0"),
        ({"population_size": 8, "founders": 9}, "population_size=8, .*founders=9"),
        ({"immigrants": 1.1}, "immigrants must be a share from 0 to 1, got 1.1"),
        ({"immigrants": float("nan")}, "immigrants must be a share"),
    ],
)
def test_evolution_needs_a_population(given, message):
    with pytest.raises(ValueError, match=message):
        Evolution(SMALL, jax.random.key(0), **given)


# Names.


def test_a_class_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_strategies.py").write_text(
        "class Greedy:\n"
        "    def __init__(self, space, key): self.space, self.state = space, {'key': key}\n"
        "    def ask(self, count): return self.space.sample(self.state['key'], count)\n"
        "    def tell(self, tokens, rewards): pass\n"
        "class Mute:\n"
        "    def ask(self, count): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = SearchConfig(strategy="my_strategies:Greedy")
    strategy = make_strategy(config.strategy, SMALL, seed=3)
    assert type(strategy).__name__ == "Greedy"
    np.testing.assert_array_equal(strategy.ask(4), SMALL.sample(jax.random.key(3), 4))
    for name, message in (
        ("my_strategies:Mute", "has no method tell"),
        ("my_strategies:Other", "'Other'"),
    ):
        with pytest.raises(ValueError, match=message):
            find_strategy(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("annealing", "one of ppo, reinforce, random, evolution, or module:name, got 'annealing'"),
        ("my/file.py:Greedy", "module:name, got 'my/file.py:Greedy'"),
        (":Greedy", "module:name, got ':Greedy'"),
        ("module:", "module:name, got 'module:'"),
        ("absent_module:Greedy", "'absent_module'; is its folder on PYTHONPATH"),
    ],
)
def test_unknown_strategies_get_the_names(name, message):
    with pytest.raises(ValueError, match=message):
        find_strategy(name)


def test_the_command_line_names_every_strategy(capsys, monkeypatch):
    tyro = pytest.importorskip("tyro")
    monkeypatch.setattr(sys, "argv", ["search.py", "--help"])
    with pytest.raises(SystemExit):
        tyro.cli(SearchConfig)
    flags = "".join(capsys.readouterr().out.split())
    assert "--strategy{" + ",".join(NAMES) + ",MODULE:CLASS}" in flags


@pytest.mark.parametrize("name", NAMES)
def test_names_make_what_a_user_could_make(name):
    strategy = find_strategy(name)(SMALL, jax.random.key(0), "default")
    assert {"ask", "tell"} <= {n for n, _ in inspect.getmembers(strategy, callable)}
    assert type(strategy).__doc__ and hasattr(strategy, "state")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "evolution", "ppo"])
def test_they_work_where_jax_counts_in_double_precision(name):
    with jax.enable_x64(True):
        asked = rounds(make(name), 2)
    assert asked.dtype == np.int32 and SMALL.allows(asked.reshape(-1, asked.shape[-1])).all()


@pytest.mark.parametrize("count", [4, 16, 64])
def test_evolution_asks_first_for_what_it_starts_from(count):
    space = SearchConfig().space()
    start = catalogue_programs(space)
    assert space.allows(start).all() and len(start) > 20
    strategy = make_strategy("evolution", space, 0, start="catalogue")
    asked = []
    while len(asked) < len(start) + count:
        tokens = strategy.ask(count)
        assert space.allows(tokens).all()
        strategy.tell(tokens, np.arange(count) + len(asked))
        asked += list(tokens)
    np.testing.assert_array_equal(asked[: len(start)], start)
    later = {row.tobytes() for row in asked[len(start) :]}
    assert not later <= {row.tobytes() for row in start}, "then it goes on"


def test_the_catalogue_of_a_small_space_is_what_it_can_write():
    words = {"operands": ("g", "m", "adam"), "unary": ("x", "sign"), "binary": ("*", "left")}
    space = SearchSpace(1, **words)  # g beside another operand is written with g^2
    names = {str(decode(Program.from_array(row))) for row in catalogue_programs(space)}
    assert names == {"m", "adam"}
    with pytest.raises(ValueError, match="no rule of the paper is in this space"):
        catalogue_programs(dataclasses.replace(space, operands=("ld", "cd")))


def test_only_evolution_starts_from_the_catalogue():
    with pytest.raises(ValueError, match="for --strategy evolution, got --strategy ppo"):
        SearchConfig(strategy="ppo", start="catalogue")
    with pytest.raises(ValueError, match="for --strategy evolution, got random"):
        make_strategy("random", SMALL, 0, start="catalogue")
    with pytest.raises(ValueError, match="programs of the space"):
        Evolution(SMALL, jax.random.key(0), start=np.full((1, len(SMALL.num_choices)), 10**6))
