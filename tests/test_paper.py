"""The paper's figures in this repository, against tables that were typed a second time.

The tables below were read off the paper's text row by row, and not copied from the code that they
check. Bello, Zoph, Vasudevan and Le, "Neural Optimizer Search with Reinforcement Learning", 2017.
"""

import pytest
from harness import paper

from nos_optax import parse, rules

# Table 6: formula, final validation, final test, best validation, best test. The epsilon of the
# fifth row is the noise; that of the row with a division is the one that "/" adds.
TABLE_6 = """
g                                                | 92.0 91.8 92.9 91.9
m                                                | 92.7 92.1 93.1 92.3
adam                                             | 90.4 90.1 91.8 90.7
rmsprop                                          | 90.7 90.3 91.4 90.3
m * (1 + noise) * sigmoid(0.0001 * w)            | 90.6 90.6 93.1 92.2
sign(m) * sqrt(g)                                | 92.2 91.8 92.9 92.2
sign(g) * sign(m) * m                            | 91.2 91.0 92.4 91.3
sign(m) * sqrt(g)                                | 91.7 91.1 92.3 91.6
(1 + sign(g) * sign(m)) * sign(g)                | 91.3 90.4 91.9 91.1
(1 + sign(g) * sign(m)) * sign(m)                | 91.0 90.6 92.0 90.8
sign(g) * sqrt(m)                                | 90.7 90.6 91.5 90.6
sqrt(g) * m                                      | 92.0 90.9 93.6 93.1
sqrt(g) * g                                      | 92.6 91.9 93.2 92.3
(1 + sign(g) * sign(m)) * m                      | 91.8 91.3 92.6 91.8
(1 + sign(g) * sign(m)) * rmsprop                | 92.0 92.1 92.9 92.4
(1 + sign(g) * sign(m)) * adam                   | 91.2 91.2 92.2 91.9
(exp(sign(g) * sign(m)) + clip(g, 0.0001)) * g   | 92.5 92.4 93.8 93.1
clip(m, 0.0001) * exp(v)                         | 93.5 92.5 93.8 92.7
m * exp(v)                                       | 93.1 92.4 93.8 92.6
g * exp(sign(g) * sign(m))                       | 93.1 92.8 93.8 92.8
drop(g, 0.3) * exp(sign(g) * sign(m))            | 92.7 92.2 93.6 92.7
m * exp(g^2)                                     | 93.1 92.5 93.6 92.4
drop(m, 0.1) / exp(g^2)                          | 92.6 92.4 93.5 93.0
drop(g, 0.1) * exp(sign(g) * sign(m))            | 92.8 92.4 93.5 92.2
clip(rmsprop, 0.00001) + drop(m, 0.3)            | 90.8 90.8 91.4 90.9
adam * exp(sign(g) * sign(m))                    | 92.6 92.0 93.4 92.0
adam * exp(m)                                    | 92.9 92.8 93.3 92.7
g + drop(m, 0.3)                                 | 93.4 92.9 93.7 92.9
drop(m, 0.1) * exp(g^3)                          | 92.8 92.7 93.7 92.8
g - clip(g^2, 0.0001)                            | 93.4 92.8 93.7 92.8
exp(g) - exp(m)                                  | 93.2 92.5 93.5 93.1
drop(m, 0.3) * exp(0.001 * w)                    | 93.2 93.0 93.5 93.2
"""

# Tables 1 and 2: best test, final test.
TABLE_1 = """
SGD            | 93.0 92.3
Momentum       | 93.0 92.2
Adam           | 92.6 92.3
RMSProp        | 92.3 91.6
PowerSign      | 93.0 92.4
PowerSign-ld   | 93.6 93.4
PowerSign-cd   | 93.7 93.1
PowerSign-rd10 | 94.2 92.6
PowerSign-rd20 | 94.4 92.0
AddSign        | 93.0 92.6
AddSign-ld     | 93.5 92.0
AddSign-cd     | 93.6 92.4
AddSign-rd10   | 94.2 94.0
AddSign-rd20   | 94.4 94.3
"""

TABLE_2 = """
SGD (cosine)                     | 95.4 95.3
Momentum (cosine)                | 95.2 95.1
Adam (cosine)                    | 93.9 93.8
RMSProp (cosine)                 | 93.6 93.5
AddSign-ld (cosine)              | 95.4 95.3
AddSign-ld (linear cosine)       | 95.3 95.1
AddSign-ld (noisy linear cosine) | 95.5 95.4
AddSign-cd (cosine)              | 95.3 95.1
AddSign-cd (linear cosine)       | 95.3 95.2
AddSign-cd (noisy linear cosine) | 95.3 95.2
PowerSign (cosine)               | 95.4 95.3
PowerSign (linear cosine)        | 95.4 95.2
PowerSign-ld (cosine)            | 95.3 95.2
PowerSign-ld (linear cosine)     | 95.3 95.2
PowerSign-cd (cosine)            | 95.4 95.2
PowerSign-cd (linear cosine)     | 95.4 95.2
"""

# Table 3: top-1, top-5. Table 4: training perplexity, test BLEU. Table 5: validation and test
# perplexity.
TABLE_3 = """
RMSProp      | 73.5 91.5
PowerSign-cd | 73.9 91.9
AddSign-ld   | 73.8 91.6
"""

TABLE_4 = """
Adam      | 1.49 24.5
PowerSign | 1.39 25.0
"""

TABLE_5 = """
Adam      | 65.7 63.3
SGD       | 71.7 68.3
PowerSign | 68.5 64.8
AddSign   | 68.8 65.2
"""

# Section 5.1: the forms in its two lists, and the variants of its last paragraph.
SECTION_5_1 = (
    *("exp(sign(g) * sign(m)) * g", "exp(ld * sign(g) * sign(m)) * g"),
    *("exp(cd * sign(g) * sign(m)) * g", "2 ^ (sign(g) * sign(m)) * g"),
    *("(1 + sign(g) * sign(m)) * g", "(1 + ld * sign(g) * sign(m)) * g"),
    *("(1 + cd * sign(g) * sign(m)) * g", "(2 + sign(g) * sign(m)) * g"),
    *(f"exp(sign(g) * sign(m)) * {x}" for x in ("m", "adam", "rmsprop")),
    *(f"(1 + sign(g) * sign(m)) * {x}" for x in ("m", "adam", "rmsprop")),
)
RESTARTS = (
    *("exp(rd(10) * sign(g) * sign(m)) * g", "exp(rd(20) * sign(g) * sign(m)) * g"),
    *("(1 + rd(10) * sign(g) * sign(m)) * g", "(1 + rd(20) * sign(g) * sign(m)) * g"),
)

# Names that earlier versions had, which somebody's program may read.
OLD_NAMES = """
sgd momentum adam rmsprop powersign_plus_clip clip_momentum_exp_v momentum_exp_v powersign
drop3_powersign momentum_exp_g2 drop_momentum_over_exp_g2 drop1_powersign
clip_rmsprop_plus_drop_momentum adam_powersign adam_exp_momentum g_plus_drop_momentum
drop_momentum_exp_g3 g_minus_clip_g2 exp_g_minus_exp_momentum drop_momentum_exp_w
powersign_ld powersign_cd powersign_rd10 powersign_rd20
addsign addsign_ld addsign_cd addsign_rd10 addsign_rd20
""".split()


def rows(table):
    """Return the rows of a typed table: (name, (figure, ...))."""
    split = (line.split("|") for line in table.strip().splitlines())
    return [(name.strip(), tuple(map(float, figures.split()))) for name, figures in split]


def test_table_6_is_whole_and_in_order():
    typed = [(parse(text).canonical(), figures) for text, figures in rows(TABLE_6)]
    ours = [(row.rule.canonical(), row.accuracy) for row in rules.values() if row.accuracy]
    assert len(typed) == 32
    assert ours == typed
    assert all((row.section == "Table 6") == (row.accuracy is not None) for row in rules.values())


def test_the_columns_of_table_6_by_name():
    accuracy = rules["drop_momentum_exp_w"].accuracy
    assert (accuracy.final_validation, accuracy.final_test) == (93.2, 93.0)
    assert (accuracy.best_validation, accuracy.best_test) == (93.5, 93.2)


@pytest.mark.parametrize(
    ("ours", "typed"),
    [
        (paper.TABLE_1, TABLE_1),
        (paper.TABLE_2, TABLE_2),
        (paper.TABLE_3, TABLE_3),
        (paper.TABLE_4, TABLE_4),
        (paper.TABLE_5, TABLE_5),
    ],
    ids=["table 1", "table 2", "table 3", "table 4", "table 5"],
)
def test_the_tables_of_the_experiments(ours, typed):
    assert [*ours.items()] == rows(typed)


def test_the_columns_of_the_experiments_by_name():
    assert paper.TABLE_1["AddSign-rd20"]._asdict() == {"best": 94.4, "final": 94.3}
    assert paper.TABLE_3["RMSProp"]._asdict() == {"top_1": 73.5, "top_5": 91.5}
    assert paper.TABLE_4["Adam"]._asdict() == {"train_perplexity": 1.49, "test_bleu": 24.5}
    assert paper.TABLE_5["Adam"]._asdict() == {"validation": 65.7, "test": 63.3}


def test_every_form_of_section_5_1_and_of_table_1_is_there_once():
    in_table_6 = {parse(text).digest for text, _ in rows(TABLE_6)}
    for forms, section in ((SECTION_5_1, "section 5.1"), (RESTARTS, "Table 1")):
        expected = {parse(text).digest for text in forms} - in_table_6
        found = [row.rule.digest for row in rules.values() if row.section == section]
        assert set(found) == expected and len(found) == len(expected)


def test_no_name_is_gone():
    assert len(OLD_NAMES) == 29
    assert [name for name in OLD_NAMES if name not in rules] == []
