"""The controller's laws: the policy is the distribution it says it is, and PPO climbs it."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from liveness_checks import all_matter

from nos_optax.controller import PRESETS, PolicyConfig, PPOConfig, lstm_policy, ppo_controller
from nos_optax.controller.objectives import above_quantile, by_rank, max_at_k
from nos_optax.controller.ppo import REINFORCE_PRESETS
from nos_optax.grammar import SearchSpace

RULE_SIZES = (22, 22, 13, 13, 6, 23, 23, 13, 13, 6)  # two iterations of op1 op2 u1 u2 b


def distinct_neighbours(num_choices):
    """Forbid repeating the previous token."""

    def mask_fn(tokens, step):
        return (jnp.arange(max(num_choices)) != tokens[step - 1]) | (step == 0)

    return mask_fn


def make_policy(num_choices, hidden_size=16, mask=True, init_scale=0.08):
    config = PolicyConfig(num_choices, hidden_size, init_scale)
    return lstm_policy(config, distinct_neighbours(num_choices) if mask else None)


@functools.cache  # compiling an update takes seconds: tests share controllers
def make_controller(config, num_choices=(3, 4), hidden_size=16):
    return ppo_controller(make_policy(num_choices, hidden_size), config)


ONE_STEP = PPOConfig(1e-2, clip_ratio=0.2, entropy_coefficient=0.5, epochs=1, minibatch_size=16)


def all_sequences(num_choices):
    return np.array(list(itertools.product(*map(range, num_choices))), np.int32)


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# The policy.


@pytest.mark.parametrize("mask", [False, True])
def test_sampled_scores_equal_teacher_forced_scores(mask):
    policy = make_policy((4, 3, 5, 2), mask=mask, init_scale=1.0)
    params = policy.init(jax.random.key(0))
    samples = policy.sample(params, jax.random.key(1), batch_size=64)
    log_prob, entropy = policy.score(params, samples.tokens)
    assert samples.tokens.dtype == jnp.int32 and samples.tokens.shape == (64, 4)
    np.testing.assert_allclose(samples.log_prob, log_prob, atol=1e-5)
    np.testing.assert_allclose(samples.entropy, entropy, atol=1e-5)


def test_masks_are_never_violated():
    policy = make_policy(RULE_SIZES)
    samples = policy.sample(policy.init(jax.random.key(0)), jax.random.key(1), batch_size=4096)
    tokens = np.asarray(samples.tokens)
    assert (tokens[:, 1:] != tokens[:, :-1]).all()
    assert (tokens >= 0).all() and (tokens < RULE_SIZES).all()
    assert (tokens.max(axis=0) == np.array(RULE_SIZES) - 1).all()  # and every choice is reached
    assert_finite(samples)


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [2, 4])
def test_a_policy_under_the_mask_of_live_results(iterations):
    """Every program it writes matters throughout, at the probability that it says."""
    space = SearchSpace(iterations, live_results=True)
    policy = lstm_policy(PolicyConfig(space.num_choices, 8, init_scale=1.0), space.mask)
    params = policy.init(jax.random.key(0))
    tokens, log_prob, entropy = policy.sample(params, jax.random.key(1), batch_size=2048)
    assert space.allows(np.asarray(tokens)).all() and all_matter(tokens)
    assert len(np.unique(tokens, axis=0)) > 1000

    # Other programs of the same words have no probability, and do no harm.
    others = jax.random.randint(jax.random.key(2), tokens.shape, 0, jnp.array(space.num_choices))
    scores = policy.score(params, jnp.concatenate([tokens, others]))
    np.testing.assert_allclose(scores.log_prob[:2048], log_prob, atol=1e-4)
    np.testing.assert_allclose(scores.entropy[:2048], entropy, atol=1e-4)
    allowed = space.allows(np.asarray(others))
    assert not allowed.all()
    np.testing.assert_array_equal(np.isfinite(scores.log_prob[2048:]), allowed)
    assert not np.isnan(scores.log_prob).any()


@pytest.mark.slow
def test_gradients_are_finite_under_the_mask_of_live_results():
    space = SearchSpace(2, live_results=True)
    policy = lstm_policy(PolicyConfig(space.num_choices, 8), space.mask)
    params, tokens = policy.init(jax.random.key(0)), space.sample(jax.random.key(1), 8)
    grads = jax.grad(lambda p: sum(x.sum() for x in policy.score(p, tokens)))(params)
    assert_finite(grads)


def test_probabilities_under_the_mask_of_live_results_sum_to_one():
    space = SearchSpace(2, ("g", "m"), ("x", "exp"), ("+", "*", "left"), live_results=True)
    sizes = space.num_choices
    words = [
        [0, 3],
        [0, 3],
        [0, 2],
        [0, 2],
        [0, 2, 5],
        [0, 3, 22],
        [0, 3, 22],
        [0, 2],
        [0, 2],
        [2, 5],
    ]
    sequences = np.array(list(itertools.product(*words)), np.int32)
    policy = lstm_policy(PolicyConfig(sizes, 8, init_scale=1.0), space.mask)
    log_prob = policy.score(policy.init(jax.random.key(0)), sequences).log_prob
    assert np.isfinite(log_prob).sum() == space.size
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1.0, rtol=1e-4)


def test_probabilities_sum_to_one_and_match_frequencies():
    sizes = (3, 4)
    policy = make_policy(sizes, init_scale=1.0)
    params = policy.init(jax.random.key(0))
    sequences = all_sequences(sizes)
    probs = np.exp(policy.score(params, sequences).log_prob)
    assert (probs[sequences[:, 0] == sequences[:, 1]] == 0).all()
    np.testing.assert_allclose(probs.sum(), 1.0, rtol=1e-5)

    num_samples = 20_000
    tokens = policy.sample(params, jax.random.key(1), num_samples).tokens
    counts = np.bincount(tokens[:, 0] * sizes[1] + tokens[:, 1], minlength=len(probs))
    deviation = np.sqrt(probs * (1 - probs) / num_samples)
    assert (np.abs(counts / num_samples - probs) <= 4.5 * deviation).all()


def test_entropy_is_the_sum_of_exact_step_entropies():
    sizes = (3, 4, 2)
    policy = make_policy(sizes, init_scale=1.0)
    params = policy.init(jax.random.key(0))
    sequences = all_sequences(sizes)
    log_prob, entropy = map(np.asarray, policy.score(params, sequences))
    table = np.exp(log_prob).reshape(sizes)

    def step_entropy(joint):  # of p(next | this prefix)
        p = joint / joint.sum()
        return -np.sum(p[p > 0] * np.log(p[p > 0]))

    allowed = np.isfinite(log_prob)
    exact = [
        step_entropy(table.sum((1, 2))) + step_entropy(table[a].sum(1)) + step_entropy(table[a, b])
        for a, b, _ in sequences[allowed]
    ]
    assert (entropy >= 0).all()
    np.testing.assert_allclose(entropy[allowed], exact, atol=1e-5)


def test_uniform_logits_have_the_entropy_of_the_allowed_choices():
    sizes = (6, 5, 5)
    policy = make_policy(sizes)
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    log_prob, entropy = policy.score(params, jnp.array([[4, 0, 1]]))
    expected = math.log(6) + math.log(4) + math.log(4)
    np.testing.assert_allclose(entropy, [expected], rtol=1e-6)
    np.testing.assert_allclose(log_prob, [-expected], rtol=1e-6)


def test_gradients_are_finite_under_masks():
    # One choice allowed at every step but the first: as masked as it gets.
    policy = lstm_policy(
        PolicyConfig((4, 4, 3), hidden_size=8),
        lambda tokens, step: (step == 0) | (jnp.arange(4) == step),
    )
    params = policy.init(jax.random.key(0))
    tokens = policy.sample(params, jax.random.key(1), batch_size=8).tokens
    assert (tokens[:, 1:] == jnp.array([1, 2])).all()
    grads = jax.grad(lambda p: sum(x.sum() for x in policy.score(p, tokens)))(params)
    assert_finite(grads)


def test_a_row_does_not_influence_another():
    policy = make_policy((4, 3, 5), init_scale=1.0)
    params = policy.init(jax.random.key(0))
    tokens = policy.sample(params, jax.random.key(1), batch_size=8).tokens
    changed = tokens.at[1:].set(tokens[1:][::-1])
    before, after = policy.score(params, tokens), policy.score(params, changed)
    assert before.log_prob[0] == after.log_prob[0]


def test_scores_ignore_tokens_to_come():
    policy = make_policy((4, 3, 5), init_scale=1.0)
    params = policy.init(jax.random.key(0))

    def prefix_prob(prefix):
        rest = all_sequences((5,))
        tokens = np.concatenate([np.tile(prefix, (5, 1)), rest], axis=1)
        return np.exp(policy.score(params, tokens).log_prob).sum()

    total = sum(prefix_prob(prefix) for prefix in all_sequences((4, 3)))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_init_is_uniform_within_the_scale_and_has_the_papers_sizes():
    config = PolicyConfig(RULE_SIZES)
    params = lstm_policy(config).init(jax.random.key(0))
    weights = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    steps, most, hidden = len(RULE_SIZES), max(RULE_SIZES), 150
    lstm = 4 * (2 * hidden * hidden + hidden)
    heads = steps * (hidden + 1) * most
    assert weights.size == lstm + heads + steps * most * hidden
    assert np.abs(weights).max() <= 0.08
    np.testing.assert_allclose(weights.std(), 0.08 / math.sqrt(3), rtol=0.01)
    assert all(np.abs(leaf).max() > 0.07 for leaf in jax.tree.leaves(params))  # biases too


# PPO.


def first_update(controller, rewards_fn, batch_size=16, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    state = controller.init(keys[0])
    samples = controller.sample(state.params, keys[1], batch_size)
    rewards = rewards_fn(samples.tokens)
    new_state, metrics = controller.update(
        state, keys[2], samples.tokens, samples.log_prob, rewards
    )
    return state, samples, rewards, new_state, metrics


def prefer_zero(tokens):
    return (tokens[:, 0] == 0).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(("clip_ratio", "max_grad_norm"), [(0.2, None), (1e-4, 0.01)])
def test_one_step_equals_the_textbook(clip_ratio, max_grad_norm):
    """The first ratio is 1: the step is the policy gradient's, however narrow the clip."""
    config = dataclasses.replace(ONE_STEP, clip_ratio=clip_ratio, max_grad_norm=max_grad_norm)
    controller = make_controller(config)
    state, samples, rewards, new_state, metrics = first_update(controller, prefer_zero)
    assert metrics.clip_fraction == 0
    np.testing.assert_allclose(metrics.approx_kl, 0.0, atol=1e-6)

    advantages = (rewards - rewards.mean()) / rewards.std()

    def loss_fn(params):
        log_prob, entropy = controller.score(params, samples.tokens)
        ratio = jnp.exp(log_prob - samples.log_prob)
        return -jnp.mean(ratio * advantages + 0.5 * entropy)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    norm = optax.tree.norm(grads)
    if max_grad_norm:
        grads = jax.tree.map(lambda g: g * max_grad_norm / norm, grads)
    np.testing.assert_allclose(metrics.loss, loss, atol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-4)
    # Adam's first step hides the gradient's scale; its first moment doesn't.
    mu = optax.tree.get(new_state.opt_state, "mu")
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * g, atol=1e-6), mu, grads)


@pytest.mark.slow
def test_reinforce_follows_the_score_function_estimator():
    """Every gradient is that of sum(A log pi) / B, the later ones too."""
    preset = REINFORCE_PRESETS["default"]
    config = dataclasses.replace(preset, entropy_coefficient=0.0, advantage_unit="reward")
    controller = make_controller(config)
    state, mu, baseline = controller.init(jax.random.key(0)), 0.0, None
    for i in range(3):
        sample_key, update_key = jax.random.split(jax.random.key(i + 1))
        tokens, log_prob, _ = controller.sample(state.params, sample_key, 16)
        rewards = np.asarray(prefer_zero(tokens)) + 0.1 * i
        baseline = rewards.mean() if baseline is None else baseline
        advantages = rewards - baseline
        baseline += (1 - config.baseline_decay) * (rewards.mean() - baseline)

        def objective(params, tokens=tokens, advantages=advantages):
            return jnp.sum(advantages * controller.score(params, tokens).log_prob) / 16

        grads = jax.grad(objective)(state.params)
        state, metrics = controller.update(state, update_key, tokens, log_prob, rewards)
        assert metrics.clip_fraction == 0
        np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(grads), rtol=1e-4)
        old, mu = mu, optax.tree.get(state.opt_state, "mu")  # descends: mu is of -objective
        old = jax.tree.map(jnp.zeros_like, mu) if i == 0 else old
        jax.tree.map(
            lambda m, o, g: np.testing.assert_allclose(m, 0.9 * o - 0.1 * g, atol=1e-6),
            *(mu, old, grads),
        )
    assert optax.tree.get(state.opt_state, "count") == 3  # one step for each batch


@pytest.mark.slow
@pytest.mark.parametrize(("minibatch_size", "batch_size"), [(5, 21), (64, 3)])
def test_minibatches_weigh_every_sequence_equally(minibatch_size, batch_size):
    """A whole epoch's metrics are means over the batch, however it is cut."""
    policy = make_policy((4, 3, 5), hidden_size=8, init_scale=1.0)
    config = PPOConfig(learning_rate=1e-20, epochs=1, minibatch_size=minibatch_size)
    _, samples, *_, metrics = first_update(
        ppo_controller(policy, config), lambda tokens: tokens[:, 0], batch_size
    )
    assert samples.entropy.std() > 0.05
    np.testing.assert_allclose(metrics.entropy, samples.entropy.mean(), rtol=1e-5)


@pytest.mark.slow
def test_later_ratios_are_clipped():
    config = PPOConfig(5e-2, clip_ratio=0.1, epochs=10, minibatch_size=16)
    *_, metrics = first_update(make_controller(config), prefer_zero)
    assert 0.3 < metrics.clip_fraction < 1
    assert metrics.approx_kl > 0


def test_one_step_moves_probability_toward_the_rewarded_sequence():
    controller = make_controller(ONE_STEP)
    _, samples, rewards, state, _ = first_update(controller, prefer_zero)
    change = controller.score(state.params, samples.tokens).log_prob - samples.log_prob
    assert change[rewards == 1].min() > 0 > change[rewards == 0].mean()


def test_baseline_starts_at_the_batch_mean_and_then_moves_slowly():
    controller = make_controller(ONE_STEP)
    *_, state, _ = first_update(controller, lambda tokens: jnp.full(len(tokens), 0.3))
    np.testing.assert_allclose(state.baseline, 0.3, rtol=1e-6)
    samples = controller.sample(state.params, jax.random.key(5), 16)
    state, _ = controller.update(
        state, jax.random.key(6), samples.tokens, samples.log_prob, jnp.full(16, 0.8)
    )
    np.testing.assert_allclose(state.baseline, 0.95 * 0.3 + 0.05 * 0.8, rtol=1e-6)
    assert state.count == 2


@pytest.mark.slow
@pytest.mark.parametrize("reward", [0.0, 0.1])
def test_equal_rewards_change_little_and_give_no_nan(reward):
    controller = make_controller(PRESETS["default"])
    *_, samples, _, state, metrics = first_update(
        controller, lambda tokens: jnp.full(len(tokens), reward)
    )
    assert_finite((state, metrics))
    after = controller.score(state.params, samples.tokens)
    np.testing.assert_allclose(after.log_prob, samples.log_prob, atol=0.1)


@pytest.mark.slow
def test_the_scale_of_the_rewards_does_not_matter():
    """A search on CIFAR-10 with rewards from 0.1 to 0.3 learns as one from 0.1 to 0.9 does."""
    controller = make_controller(PRESETS["default"])

    def learn(rewards_of):
        state = controller.init(jax.random.key(0))
        for i in range(4):
            sample_key, update_key = jax.random.split(jax.random.key(i))
            tokens, log_prob, _ = controller.sample(state.params, sample_key, 16)
            rewards = rewards_of(prefer_zero(tokens) * (1 + 0.25 * i))
            state, _ = controller.update(state, update_key, tokens, log_prob, rewards)
        return state.params

    first, scaled = learn(lambda r: r), learn(lambda r: 0.125 * r - 4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), first, scaled)


@pytest.mark.slow
def test_deterministic_from_the_key():
    controller = make_controller(PRESETS["default"])
    runs = [first_update(controller, prefer_zero, seed=seed)[3] for seed in (0, 0, 1)]
    same = jax.tree.map(np.array_equal, runs[0], runs[1])
    assert jax.tree.all(same)
    assert not jax.tree.all(jax.tree.map(np.array_equal, runs[0].params, runs[2].params))


@pytest.mark.slow
def test_one_trace_each_for_sample_and_update():
    traces = 0

    def mask_fn(tokens, step):
        nonlocal traces
        traces += 1
        return jnp.ones(4, bool)

    policy = lstm_policy(PolicyConfig((3, 4), hidden_size=8), mask_fn)
    controller = ppo_controller(policy, PPOConfig(1e-2))
    state = first_update(controller, prefer_zero)[3]
    before = traces
    for seed in range(3):
        samples = controller.sample(state.params, jax.random.key(seed), 16)
        state, _ = controller.update(
            state, jax.random.key(seed), samples.tokens, samples.log_prob, samples.entropy
        )
    assert traces == before


# Learning.


def learn(controller, reward_fn, num_seeds, num_updates, batch_size):
    """Return the first and last params, and the rewards [num_seeds, num_updates, batch_size]."""

    def step(state, key):
        sample_key, reward_key, update_key = jax.random.split(key, 3)
        samples = controller.sample(state.params, sample_key, batch_size)
        rewards = reward_fn(reward_key, samples.tokens)
        state, _ = controller.update(state, update_key, samples.tokens, samples.log_prob, rewards)
        return state, rewards

    @jax.jit
    @jax.vmap
    def run(key):
        init_key, key = jax.random.split(key)
        keys = jax.random.split(key, num_updates)
        first = controller.init(init_key)
        last, rewards = jax.lax.scan(step, first, keys)
        return first.params, last.params, rewards

    return run(jax.random.split(jax.random.key(0), num_seeds))


def bandit_reward(key, tokens):
    del key
    return jnp.mean(tokens == jnp.array([2, 0]), axis=1)


def expected_bandit_reward(controller, params, num_choices):
    sequences = all_sequences(num_choices)
    probs = jnp.exp(jax.vmap(controller.score, (0, None))(params, sequences).log_prob)
    return np.asarray(probs @ bandit_reward(None, sequences))


@pytest.mark.slow
def test_the_papers_preset_climbs_a_bandit():
    """A little: its rate of 1e-5 needs thousands of samples. The default one is tried below."""
    num_choices = (5, 4)
    controller = make_controller(PRESETS["paper"], num_choices)
    first, last, _ = learn(controller, bandit_reward, 4, num_updates=50, batch_size=32)
    before = expected_bandit_reward(controller, first, num_choices)
    after = expected_bandit_reward(controller, last, num_choices)
    assert (after > before + 5e-4).all(), (before, after)


def rule_reward(key, tokens):
    """Accuracy-like: a sixth of all sequences live, and those differ in three other tokens."""
    alive = (tokens[:, 5] < 8) & (tokens[:, 7] < 6)
    good = (tokens[:, 9] < 2).astype(float) + (tokens[:, 6] < 6) + (tokens[:, 0] < 5)
    noise = 0.02 * jax.random.normal(key, alive.shape)
    return jnp.where(alive, 0.5 + 0.15 * good, 0.1) + noise


@pytest.mark.slow
def test_default_beats_random_within_512_samples():
    controller = make_controller(PRESETS["default"], RULE_SIZES, hidden_size=150)
    _, _, rewards = learn(controller, rule_reward, num_seeds=5, num_updates=16, batch_size=32)
    gains = rewards[:, -2:].mean(axis=(1, 2)) - rewards[:, :2].mean(axis=(1, 2))
    assert gains.min() > 0.2 and gains.mean() > 0.4, gains


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolicyConfig(()), "num_choices"),
        (lambda: PolicyConfig((3, 0)), "num_choices"),
        (lambda: PolicyConfig((3,), hidden_size=0), "hidden_size is 0, but must be"),
        (lambda: PolicyConfig((3,), init_scale=0), "init_scale is 0, but must be"),
        (lambda: PPOConfig(0.0), "learning_rate is 0.0, but must be"),
        (lambda: PPOConfig(1e-3, clip_ratio=-1.0), "clip_ratio is -1.0, but must be"),
        (
            lambda: PPOConfig(1e-3, entropy_coefficient=-1.0),
            "entropy_coefficient is -1.0, but must be",
        ),
        (lambda: PPOConfig(1e-3, baseline_decay=1.0), "baseline_decay is 1.0, but must be"),
        (lambda: PPOConfig(1e-3, epochs=0), "epochs is 0, but must be"),
        (lambda: PPOConfig(1e-3, minibatch_size=0), "minibatch_size is 0, but must be"),
        (lambda: PPOConfig(1e-3, max_grad_norm=0.0), "max_grad_norm is 0.0, but must be"),
        (lambda: PPOConfig(math.nan), "learning_rate is nan, but must be"),
    ],
)
def test_bad_configurations_say_what_to_give(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", ["a", True, None, [1]])
@pytest.mark.parametrize("name", ["learning_rate", "clip_ratio", "baseline_decay", "epochs"])
def test_what_is_no_number_is_named(name, value):
    with pytest.raises(TypeError, match=f"{name} is .*must be"):
        PPOConfig(**{"learning_rate": 1e-3, name: value})


def test_rewards_of_another_shape_are_refused():
    controller = make_controller(ONE_STEP)
    with pytest.raises(ValueError, match=r"\(16, 1\).*one row per sampled sequence"):
        first_update(controller, lambda tokens: jnp.ones([len(tokens), 1]))


# Objectives.


def exact_gradient(value, logits, rewards, k):
    """Return the gradient of the expectation of a function of k rewards, by enumeration."""

    def expectation(logits):
        probabilities = jax.nn.softmax(logits)
        total = 0.0
        for draw in itertools.product(range(len(rewards)), repeat=k):
            total += jnp.prod(probabilities[jnp.array(draw)]) * value(rewards[np.array(draw)])
        return total

    return jax.grad(expectation)(logits)


@pytest.mark.parametrize(("n", "k"), [(4, 2), (6, 3), (5, 5), (7, 2)])
def test_max_at_k_is_the_gradient_of_the_expected_maximum(n, k):
    """Against all draws of k, by the mean over many batches of n; rewards tie."""
    rewards = np.array([0.0, 1.0, 1.0, 3.0], np.float32)
    logits = jnp.array([0.5, 0.0, -0.3, -1.0])
    exact = exact_gradient(np.max, logits, rewards, k)

    def estimate(key):
        draws = jax.random.categorical(key, logits, shape=(n,))
        advantages = max_at_k(jnp.asarray(rewards)[draws], k)
        scores = jax.nn.one_hot(draws, len(rewards)) - jax.nn.softmax(logits)
        return advantages @ scores / n

    found = jax.vmap(estimate)(jax.random.split(jax.random.key(0), 200_000))
    error = found.std(axis=0) / np.sqrt(len(found))
    np.testing.assert_array_less(abs(found.mean(axis=0) - exact), 4 * error + 1e-6)
    assert abs(exact).max() > 20 * error.max(), "it could not fail"


def test_max_at_k_counts_subsets():
    rewards = np.random.default_rng(0).normal(size=7).astype(np.float32)
    for k in (2, 3, 7):
        added = np.zeros(7)
        subsets = list(itertools.combinations(range(7), k))
        for subset in subsets:
            second, best = sorted(subset, key=lambda i: rewards[i])[-2:]
            added[best] += (rewards[best] - rewards[second]) / len(subsets)
        np.testing.assert_allclose(max_at_k(jnp.asarray(rewards), k), 7 * added, atol=1e-5)
    with pytest.raises(ValueError, match="k=8"):
        max_at_k(jnp.asarray(rewards), 8)


def test_above_the_quantile_is_the_gradient_of_the_mean_of_the_best():
    """Of a great batch, in which the quantile is known: the mean of the best tenth rises."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=200_000).astype(np.float32)  # of N(mu, 1): d log p / d mu is the draw
    advantages = above_quantile(jnp.asarray(draws), 0.1)
    # The mean of the best tenth of N(mu, 1) is mu + 1.755, whose derivative is 1.
    assert float(jnp.mean(advantages * draws)) == pytest.approx(1, abs=0.02)
    assert (np.asarray(advantages) > 0).mean() == pytest.approx(0.1, abs=0.002)


def test_ranks_share_ties_and_forget_sizes():
    found = by_rank(jnp.array([5.0, -1.0, 5.0, 1000.0, -1.0]))
    np.testing.assert_allclose(found, [0.125, -0.375, 0.125, 0.5, -0.375], atol=1e-6)
    assert float(found.sum()) == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(by_rank(jnp.ones(4)), 0)


@pytest.mark.parametrize(
    ("objective", "least"),
    # Once the best tenth of a batch is one sequence, the quantile is its reward and nothing moves.
    [("max", 0.5), ("rank", 0.5), ("quantile", 0.09)],
)
def test_every_objective_moves_probability_toward_the_best(objective, least):
    config = dataclasses.replace(PRESETS["default"], objective=objective, entropy_coefficient=0.0)
    controller = ppo_controller(lstm_policy(PolicyConfig((20,), hidden_size=8)), config)
    state = controller.init(jax.random.key(0))
    for i in range(60):
        samples = controller.sample(state.params, jax.random.key(2 * i), batch_size=32)
        rewards = samples.tokens[:, 0].astype(float)
        state, _ = controller.update(
            state, jax.random.key(2 * i + 1), samples.tokens, samples.log_prob, rewards
        )
    best = controller.score(state.params, jnp.array([[19]])).log_prob
    assert float(jnp.exp(best[0])) > least, "1/20 at first"
