"""Niches: rules that go in nearly the same direction compete with each other for a few places.

Without them a population soon holds one good idea in a hundred decorations, as `sqrt(cd) * adam`
beside `adam * sqrt(ld + exp(v))`, and nothing that another idea could grow from.
"""

import numpy as np

from nos_optax.search.probes import Probes

ALIKE = 0.98  # cosine of directions in one niche


class Directions:
    """Where programs go on the probes (`Probes.directions`), of those of the last call known.

    Args:
        iterations: of each program.
    """

    def __init__(self, iterations: int):
        self._probes = Probes(iterations)
        self._known: dict[bytes, np.ndarray] = {}  # of the programs of the last call

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return the directions `float32[P, D]` of programs, `int32[P, 5 G]`."""
        rows = [row.tobytes() for row in tokens]
        new = [i for i, row in enumerate(rows) if row not in self._known]
        if new:
            found = self._probes.directions(tokens[new])
            self._known |= {rows[i]: x for i, x in zip(new, found, strict=True)}
        self._known = {row: self._known[row] for row in rows}
        return np.stack([self._known[row] for row in rows])


def cleared(x: np.ndarray, rewards: np.ndarray, capacity: int) -> np.ndarray:
    """Return the rows of the best programs of each niche, the best first.

    A niche is what goes in nearly the direction of its best program: clearing (Petrowski, 1996).

    Args:
        x: directions, `float32[P, D]`.
        rewards: `float32[P]`.
        capacity: places of a niche.
    """
    cosines = x @ x.T
    leaders, members, living = [], [], []
    for row in np.argsort(-rewards, kind="stable"):
        near = cosines[row, leaders]
        if len(near) and near.max() >= ALIKE:
            niche = near.argmax()
            members[niche] += 1
        else:
            niche = len(leaders)
            leaders.append(row)
            members.append(1)
        if members[niche] <= capacity:
            living.append(row)
    return np.array(living, int)
