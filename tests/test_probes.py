"""Probes: equal rules share a fingerprint, and only hopeless rules are rejected."""

import jax
import numpy as np
import pytest

from nos_optax.grammar import SearchSpace, decode, encode, rules
from nos_optax.grammar.program import pad_programs
from nos_optax.search import probes
from nos_optax.search.probes import CHUNK, REASONS, RECENT, Probes, are_alike

ITERATIONS = 4
PROBES = Probes(ITERATIONS)


def probe(*texts):
    return PROBES(np.stack([encode(text, ITERATIONS).array for text in texts]))


def fingerprints(*texts):
    return [p.fingerprint for p in probe(*texts)]


def anew(programs):
    """Probe programs without what is known of them."""
    probes._recent.clear()
    return PROBES(programs)


def random_programs(count):
    return np.asarray(SearchSpace(2).sample(jax.random.key(0), count))


# Fingerprints


@pytest.mark.slow
@pytest.mark.parametrize(
    "texts",
    [
        ("g", "1 * g", "-(-g)", "log(exp(g))", "g + m - m"),
        ("g * m^2", "(g * m) * m", "m * (m * g)"),
        ("exp(g) * exp(m)", "exp(g + m)"),
        ("adam", "m / sqrt(v)"),
        ("sign(g)", "sign(rmsprop)", "sign(g^3)"),
        ("exp(sign(g) * sign(m)) * g", "g * exp(sign(m) * sign(g))"),
        ("drop(g * m, 0.5)", "drop(m * g, 0.5) * 1"),
        ("noise * g", "g * noise"),
        ("1 - 1", "g - g", "(m - m) * -g"),  # a zero's sign is no difference
        ("g^m", "-(-(g^m))", "g^m * sign(1 + v)"),  # nor is a nan's
    ],
)
def test_equal_rules_have_equal_fingerprints(texts):
    assert len(set(fingerprints(*texts))) == 1


def test_different_rules_have_different_fingerprints():
    texts = (
        *("g", "m", "v", "gamma", "g^2", "g^3", "sign(g)", "sign(m)", "adam", "rmsprop", "noise"),
        *("1", "2", "ld", "cd", "rd(10)", "rd(20)", "annealed_noise", "1e-4*w", "1e-3*w"),
        *("-g", "2 * g", "exp(g)", "log(g)", "sqrt(g)", "sigmoid(g)", "g * ld", "g + m"),
        *("drop(g, 0.1)", "drop(g, 0.3)", "drop(m, 0.3)", "drop(g * m, 0.3)"),
        *(f"clip({x}, {c})" for x in ("g", "m", "v") for c in (1e-5, 1e-4, 1e-3)),
        *(f"clip({x}, {c})" for x in ("adam", "rmsprop", "sign(m)") for c in (1e-5, 1e-4, 1e-3)),
        *("clip(0.01 * w, 1e-5)", "clip(0.1 * w, 1e-5)", "1e-4 * w - clip(g, 1e-5)"),
    )
    found = fingerprints(*texts)
    twins = {found.index(f) for f in found if found.count(f) > 1}
    assert not twins, [texts[i] for i in twins]


def test_equal_digests_have_equal_fingerprints():
    # All unary functions of the same operands, so that many programs compute one rule.
    space = SearchSpace(2, operands=("g", "m", "1", "noise"), binary=("*", "-", "/", "left"))
    programs = np.asarray(space.sample(jax.random.key(0), 600))
    digests = [decode(program).digest for program in programs]
    first = {}
    repeats = 0
    for digest, probed, program in zip(digests, PROBES(programs), programs, strict=True):
        repeats += digest in first
        assert first.setdefault(digest, probed.fingerprint) == probed.fingerprint, decode(program)
    assert repeats > 50


def test_a_fingerprint_does_not_depend_on_the_padding():
    programs = random_programs(20)
    padded = pad_programs(programs.reshape(-1, 2, 5), ITERATIONS)
    assert Probes(2)(programs) == PROBES(programs) == anew(padded)


def test_a_row_does_not_depend_on_its_neighbours():
    programs = random_programs(CHUNK + 5)
    together = anew(programs)
    assert anew(programs[::-1])[::-1] == together
    assert [anew(programs[i : i + 1])[0] for i in (0, 7, CHUNK, CHUNK + 4)] == [
        together[i] for i in (0, 7, CHUNK, CHUNK + 4)
    ]


def test_what_was_probed_lately_is_known_and_the_same():
    programs = random_programs(RECENT + 2 * CHUNK)
    first = PROBES(programs)
    assert len(probes._recent) <= RECENT
    mixed = np.concatenate([programs[-3:], programs[:3]])  # known ones beside forgotten ones
    assert PROBES(mixed) == first[-3:] + first[:3] == anew(mixed)
    np.testing.assert_array_equal(
        PROBES.directions(mixed), PROBES.directions(programs)[[-3, -2, -1, 0, 1, 2]]
    )


def test_a_decay_changes_the_course_and_not_the_direction_and_a_factor_changes_neither():
    texts = ("adam", "2 * adam", "ld * adam", "sign(g)")
    programs = np.stack([encode(text, ITERATIONS).array for text in texts])
    for of, with_decay in ((PROBES.directions, 1.0), (PROBES.courses, 0.9)):
        cosines = (of(programs) @ of(programs).T)[0]
        assert cosines[1] == pytest.approx(1, abs=1e-5) and cosines[3] < 0.9
        assert cosines[2] == pytest.approx(with_decay, abs=1e-5 if with_decay == 1 else 0.06)


def test_the_precision_of_the_caller_is_left_alone():
    before = probe("adam", "noise")
    assert jax.numpy.ones(1).dtype == np.float32
    with jax.enable_x64(True):
        assert probe("adam", "noise") == before


# Rejections


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("m^noise", "not finite"),
        ("log(1e-4 * w)", "not finite"),  # biases begin at zero
        ("exp(exp(1 / v))", "not finite"),
        ("1 - 2", "constant"),
        ("ld * 2", "constant"),
        ("g - g", "constant"),
        ("sign(v)", "constant"),
        ("2 + clip(g, 1e-5)", "constant"),
        ("noise", "ignores the gradient"),
        ("1e-4*w", "ignores the gradient"),
        ("drop(2, 0.5)", "ignores the gradient"),
        ("-g", "points uphill"),
        ("-m", "points uphill"),
        ("-adam", "points uphill"),
        ("1 - sign(g)", "points uphill"),
        ("noise - sign(m)", "points uphill"),
    ],
)
def test_reasons(text, reason):
    assert reason in REASONS
    assert probe(text)[0].rejection == reason


@pytest.mark.parametrize("name", list(rules))
def test_no_rule_of_the_paper_is_rejected(name):
    assert probe(rules[name].rule)[0].rejection is None


@pytest.mark.parametrize(
    "text",
    [
        *("g", "m", "adam", "rmsprop", "sign(g)", "sign(m)", "g^3", "gamma"),
        *("clip(g, 1e-5)", "clip(m, 1e-4) * exp(v)", "drop(g, 0.5)", "drop(drop(g, 0.5), 0.5)"),
        *(
            "exp(sign(m))",
            "2 + sign(m)",
            "g + 0.1 * w",
            "g + noise",
            "cd * adam",
            "noise + clip(g, 1e-3)",
        ),
        "g - m",  # neither uphill nor downhill to first order
        *("v", "sqrt(g)", "drop(v, 0.5)"),  # blind to the sign; some of these learn a little
    ],
)
def test_rules_that_may_train_are_not_rejected(text):
    assert probe(text)[0].rejection is None


# Errors


def test_an_empty_population_is_refused():
    with pytest.raises(ValueError, match="the population is empty"):
        PROBES(np.zeros((0, 5), np.int32))


def test_programs_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="programs of 3 iterations do not fit in 2"):
        Probes(2)(np.zeros((2, 15), np.int32))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("adam", "2 * adam", True),  # rates are centred by the size of updates
        ("adam", "clip(exp(g^2), 1e-4) - -adam", True),
        ("adam", "adam + 1e-4 * w", True),
        ("g", "clip(m, 1e-5) + g", True),
        ("drop(g, 0.1)", "drop(g + clip(m, 1e-5), 0.1)", True),  # other draws, but as many
        ("drop(m, 0.3) * drop(g, 0.1)", "drop(2 * m, 0.3) * drop(g, 0.1)", True),
        ("drop(m, 0.3) * drop(m, 0.3)", "drop(m^2, 0.3)", True),  # written twice it is one draw
        ("drop(m, 0.3) * drop(g, 0.3)", "drop(m * g, 0.3)", False),
        ("drop(g, 0.1)", "drop(g, 0.3)", False),
        ("adam", "-adam", False),
        ("adam", "drop(adam, 0.1)", False),
        ("adam", "adam * (1 + sign(g) * sign(m))", False),
        ("adam", "adam * (1 + ld)", False),
        ("adam", "rmsprop", False),
        ("g", "m", False),
        ("sign(m)", "clip(m, 1e-3)", False),
    ],
)
def test_rules_that_do_nearly_the_same_are_alike(one, other, alike):
    found = Probes(3)(np.stack([encode(rule, 3).array for rule in (one, other)]))
    a, b = (np.frombuffer(probed.behaviour, np.float32) for probed in found)
    assert np.isfinite(a).all() and np.isfinite(b).all()
    assert are_alike(a, b[None], 0.02).tolist() == [alike]
    assert are_alike(b, np.stack([a, b]), 0.02).tolist() == [alike, True]
