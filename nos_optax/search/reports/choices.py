"""The picture of what a search chose: its tokens over time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from nos_optax.search.reports.picture import Chart
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.statistics import bin_edges, token_shares
from nos_optax.search.reports.theme import LIGHT

FIELDS = {"operand": "operands", "unary": "unary", "binary": "binary"}  # what may be chosen


def tokens_chart(run: Run) -> Chart:
    """Return how often each operand and function was chosen over the samples."""
    edges = bin_edges(len(run.candidates), 16)
    shares = token_shares(run.candidates, edges)
    never = np.zeros(len(edges) - 1)
    panels = {
        kind: dict.fromkeys(run.config.get(field, ()), never) | shares[kind]
        for kind, field in FIELDS.items()
    }

    def draw(figure: Figure, narrow: bool) -> None:
        rows = [len(words) for words in panels.values()]
        if narrow:
            places = figure.add_gridspec(3, 1, height_ratios=rows, hspace=0.1)
            axes = [figure.add_subplot(place) for place in places]
        else:
            places = figure.add_gridspec(2, 2, height_ratios=rows[1:], hspace=0.1)
            axes = [figure.add_subplot(p) for p in (places[:, 0], places[0, 1], places[1, 1])]
        for panel, (kind, words) in zip(axes, panels.items(), strict=True):
            _heat(panel, kind, words, edges)
        for panel in axes[-1:] if narrow else (axes[0], axes[-1]):
            panel.set_xlabel("candidates")
            panel.tick_params(bottom=True, labelbottom=True)

    caption = (
        "How often each word of the language was chosen, of all choices of its kind, from the "
        "first candidates (left) to the last (right): the stronger the colour, the more often. On "
        f"the right: the share among the last {edges[-1] - edges[-2]} candidates. Results of "
        "earlier iterations (r1, r2, ...), which a rule must take up, are not counted as operands."
    )
    total = sum(map(len, panels.values()))
    heights = 80 + 17 * max(len(panels["operand"]), total - len(panels["operand"]) + 3)
    return Chart(
        "choices", "Operands and functions over time", caption, (heights, 150 + 17 * total), draw
    )


def _heat(axes: Axes, kind: str, words: dict[str, np.ndarray], edges: np.ndarray) -> None:
    """Draw the shares of words, one a row, the most frequent on top."""
    most = max((share.max() for share in words.values()), default=0.0) or 1.0
    ordered = sorted(words, key=lambda word: words[word].sum())
    for y, word in enumerate(ordered):
        seen = np.flatnonzero(words[word])
        colours = [to_rgba(LIGHT["blue"], words[word][i] / most) for i in seen]
        left, width = edges[seen], np.diff(edges)[seen]
        axes.bar(left, 0.88, width, y - 0.44, align="edge", color=colours, clip_on=False)
        text = f"{words[word][-1]:.0%}"
        axes.text(edges[-1] * 1.02, y, text, va="center", size=10, color=LIGHT["muted"])
    axes.set_yticks(range(len(ordered)), ordered, size=10)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlim(0, edges[-1])
    axes.set_title(f"{kind}, strongest: {most:.0%}")
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
