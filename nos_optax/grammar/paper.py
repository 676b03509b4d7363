"""The rules of Bello et al. (2017), "Neural Optimizer Search with Reinforcement Learning", as text.

All 32 rows of Table 6, the rules of section 5.1 that are not among them, and the restart decays of
Table 1, which section 5.1 does not list. A name describes its formula in the formula's own order:
`drop3_powersign` is `drop(g, 0.3) * exp(sign(g) * sign(m))`.

Table 6 has four accuracies for each rule; `nos_optax.grammar.Accuracy` says what they are.

Where the paper prints m without a hat, as in sign(m), it is read as the bias-corrected average
that the hat stands for elsewhere. The sign is the same for both.
"""

# Table 6, in its order: final validation, final test, best validation, best test.
TABLE_6: dict[str, tuple[str, tuple[float, float, float, float]]] = {
    "sgd": ("g", (92.0, 91.8, 92.9, 91.9)),
    "momentum": ("m", (92.7, 92.1, 93.1, 92.3)),
    "adam": ("adam", (90.4, 90.1, 91.8, 90.7)),
    "rmsprop": ("rmsprop", (90.7, 90.3, 91.4, 90.3)),
    # The paper prints (1 + epsilon). In its list of operands, epsilon is the noise N(0, 0.01). The
    # small number that is added to a divisor has the name delta there, and nothing is divided here.
    "momentum_noise_sigmoid_w": (
        "m * (1 + noise) * sigmoid(1e-4 * w)",
        (90.6, 90.6, 93.1, 92.2),
    ),
    # This formula has two rows, with figures that differ by 0.5 to 0.7. Both are kept: they show
    # by how much two runs of one rule differ in this table.
    "sign_momentum_sqrt_g": ("sign(m) * sqrt(g)", (92.2, 91.8, 92.9, 92.2)),
    "sign_agreement_momentum": ("sign(g) * sign(m) * m", (91.2, 91.0, 92.4, 91.3)),
    "sign_momentum_sqrt_g_again": ("sign(m) * sqrt(g)", (91.7, 91.1, 92.3, 91.6)),
    # These two differ only where g or m is exactly 0.
    "addsign_sign_g": ("(1 + sign(g) * sign(m)) * sign(g)", (91.3, 90.4, 91.9, 91.1)),
    "addsign_sign_momentum": ("(1 + sign(g) * sign(m)) * sign(m)", (91.0, 90.6, 92.0, 90.8)),
    "sign_g_sqrt_momentum": ("sign(g) * sqrt(m)", (90.7, 90.6, 91.5, 90.6)),
    "sqrt_g_momentum": ("sqrt(g) * m", (92.0, 90.9, 93.6, 93.1)),
    "sqrt_g_g": ("sqrt(g) * g", (92.6, 91.9, 93.2, 92.3)),
    "addsign_momentum": ("(1 + sign(g) * sign(m)) * m", (91.8, 91.3, 92.6, 91.8)),
    "addsign_rmsprop": ("(1 + sign(g) * sign(m)) * rmsprop", (92.0, 92.1, 92.9, 92.4)),
    "addsign_adam": ("(1 + sign(g) * sign(m)) * adam", (91.2, 91.2, 92.2, 91.9)),
    "powersign_plus_clip": (
        "(exp(sign(g) * sign(m)) + clip(g, 1e-4)) * g",
        (92.5, 92.4, 93.8, 93.1),
    ),
    "clip_momentum_exp_v": ("clip(m, 1e-4) * exp(v)", (93.5, 92.5, 93.8, 92.7)),
    "momentum_exp_v": ("m * exp(v)", (93.1, 92.4, 93.8, 92.6)),
    "powersign": ("exp(sign(g) * sign(m)) * g", (93.1, 92.8, 93.8, 92.8)),
    "drop3_powersign": ("drop(g, 0.3) * exp(sign(g) * sign(m))", (92.7, 92.2, 93.6, 92.7)),
    "momentum_exp_g2": ("m * exp(g^2)", (93.1, 92.5, 93.6, 92.4)),
    # The paper prints exp(g^2) + epsilon below the line. This epsilon is most likely the small
    # number that its divisions add to every divisor, called delta elsewhere. Our "/" adds it by
    # itself, so it is not written again.
    "drop_momentum_over_exp_g2": ("drop(m, 0.1) / exp(g^2)", (92.6, 92.4, 93.5, 93.0)),
    "drop1_powersign": ("drop(g, 0.1) * exp(sign(g) * sign(m))", (92.8, 92.4, 93.5, 92.2)),
    "clip_rmsprop_plus_drop_momentum": (
        "clip(rmsprop, 1e-5) + drop(m, 0.3)",
        (90.8, 90.8, 91.4, 90.9),
    ),
    "adam_powersign": ("adam * exp(sign(g) * sign(m))", (92.6, 92.0, 93.4, 92.0)),
    "adam_exp_momentum": ("adam * exp(m)", (92.9, 92.8, 93.3, 92.7)),
    "g_plus_drop_momentum": ("g + drop(m, 0.3)", (93.4, 92.9, 93.7, 92.9)),
    "drop_momentum_exp_g3": ("drop(m, 0.1) * exp(g^3)", (92.8, 92.7, 93.7, 92.8)),
    "g_minus_clip_g2": ("g - clip(g^2, 1e-4)", (93.4, 92.8, 93.7, 92.8)),
    # As printed. To first order it is g - m, and the sum of that over many steps is only 9 times
    # the last m, wherever the training has been: this rule hardly descends.
    "exp_g_minus_exp_momentum": ("exp(g) - exp(m)", (93.2, 92.5, 93.5, 93.1)),
    "drop_momentum_exp_w": ("drop(m, 0.3) * exp(1e-3 * w)", (93.2, 93.0, 93.5, 93.2)),
}

# Section 5.1 lists eight sampled rules of two families, and says that variants with m, Adam or
# RMSProp in place of g were sampled too and did less well. Those that Table 6 has are above: the
# first PowerSign, PowerSign of Adam, and all three variants of AddSign.
SECTION_5_1: dict[str, str] = {
    "powersign_ld": "exp(ld * sign(g) * sign(m)) * g",
    "powersign_cd": "exp(cd * sign(g) * sign(m)) * g",
    "powersign_base2": "2^(sign(g) * sign(m)) * g",
    "addsign": "(1 + sign(g) * sign(m)) * g",
    "addsign_ld": "(1 + ld * sign(g) * sign(m)) * g",
    "addsign_cd": "(1 + cd * sign(g) * sign(m)) * g",
    "addsign_alpha2": "(2 + sign(g) * sign(m)) * g",
    "momentum_powersign": "m * exp(sign(g) * sign(m))",
    "rmsprop_powersign": "rmsprop * exp(sign(g) * sign(m))",
}

# Section 5.1 allows restart decays for f(t) too; Table 1 has these four.
TABLE_1: dict[str, str] = {
    "powersign_rd10": "exp(rd(10) * sign(g) * sign(m)) * g",
    "powersign_rd20": "exp(rd(20) * sign(g) * sign(m)) * g",
    "addsign_rd10": "(1 + rd(10) * sign(g) * sign(m)) * g",
    "addsign_rd20": "(1 + rd(20) * sign(g) * sign(m)) * g",
}

NAMES = frozenset(TABLE_6) | frozenset(SECTION_5_1) | frozenset(TABLE_1)
