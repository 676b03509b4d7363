"""The words of the search language: an index in a table is the controller's token.

The operands, the functions and the decay operands are those of Bello et al. (2017), section 4.1; of
the periods n of a decay, those that Table 1 has. One word is added: the sigmoid, which the section
does not list and a rule of Table 6 needs.

Every operand's name is itself a rule in infix form, so `g^2` the token and `g^2` the text are one
thing.
"""

OPERANDS: tuple[str, ...] = (
    "g",
    "g^2",
    "g^3",
    "m",
    "v",
    "gamma",
    "sign(g)",
    "sign(m)",
    "1",
    "2",
    "noise",
    "1e-4*w",
    "1e-3*w",
    "1e-2*w",
    "1e-1*w",
    "adam",
    "rmsprop",
    "ld",
    "cd",
    "rd(10)",
    "rd(20)",
    "annealed_noise",
)

# Token name -> (function, parameter); "x" is the identity.
UNARY_TOKENS: dict[str, tuple[str, float | None]] = {
    "x": ("identity", None),
    "-x": ("neg", None),
    "exp": ("exp", None),
    "log|x|": ("log", None),
    "sqrt|x|": ("sqrt", None),
    "clip(x,1e-5)": ("clip", 1e-5),
    "clip(x,1e-4)": ("clip", 1e-4),
    "clip(x,1e-3)": ("clip", 1e-3),
    "drop(x,0.1)": ("drop", 0.1),
    "drop(x,0.3)": ("drop", 0.3),
    "drop(x,0.5)": ("drop", 0.5),
    "sign": ("sign", None),
    "sigmoid": ("sigmoid", None),
}
UNARY: tuple[str, ...] = tuple(UNARY_TOKENS)

BINARY: tuple[str, ...] = ("+", "-", "*", "/", "^", "left")

# The leaves of an expression tree: every operand token is built from these and numbers.
LEAVES: tuple[str, ...] = (
    "g",
    "m",
    "v",
    "gamma",
    "w",
    "noise",
    "annealed_noise",
    "adam",
    "rmsprop",
    "ld",
    "cd",
    "rd",
)
FUNCTIONS: tuple[str, ...] = ("exp", "log", "sqrt", "sign", "sigmoid", "clip", "drop")

# What each leaf asks of the optimizer.
MOMENTS_OF: dict[str, frozenset[str]] = {
    "m": frozenset({"m"}),
    "v": frozenset({"v"}),
    "gamma": frozenset({"gamma"}),
    "adam": frozenset({"m", "v"}),
    "rmsprop": frozenset({"v"}),
}
DECAYS: frozenset[str] = frozenset({"ld", "cd", "rd"})
NOISES: frozenset[str] = frozenset({"noise", "annealed_noise"})
