"""The charts of one run: its candidates, what they chose, and where the time went."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nos_optax.search.reports.marks import Axis, Chart, Mark, Panel, Words, band, boxes, dots, line
from nos_optax.search.reports.race_charts import finals_charts, race_charts
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.statistics import (
    bin_edges,
    in_decades,
    rate_counts,
    reward_array,
    running_quantiles,
    token_shares,
    window_of,
)
from nos_optax.search.reports.theme import STATUS_COLOURS

MOST_RATES = 16  # bars
MOST_POINTS = 1200  # of a scatter plot: more are a cloud that takes seconds to open
FIELDS = {"operand": "operands", "unary": "unary", "binary": "binary"}  # what may be chosen
SHADES = 20


def charts(run: Run) -> dict[str, Chart]:
    """Return the charts that a run has data for, by name."""
    made = []
    if run.candidates:
        made += [rewards_chart(run), choices_chart(run), outcomes_chart(run)]
    if run.trained:
        made.append(rates_chart(run))
    made += [*finals_charts(run), *race_charts(run)]
    if run.seconds:
        made.append(time_chart(run))
    return {chart.name: chart for chart in made}


def rewards_chart(run: Run) -> Chart:
    """Return the reward over the samples, as the paper's figure 4."""
    rewards = reward_array(run.candidates)
    samples, step = np.arange(1, len(rewards) + 1), -(-len(rewards) // MOST_POINTS)
    trained = np.array([c.status == "trained" for c in run.candidates])
    drawn = samples % step == 0
    last, (low, median, high) = running_quantiles(rewards, (0.1, 0.5, 0.9))
    best = np.maximum.accumulate(rewards)
    kept = np.union1d(np.flatnonzero(np.diff(best, prepend=np.nan)), len(best) - 1)
    stairs = np.repeat(samples[kept], 2)[1:], np.repeat(best[kept], 2)[:-1]
    a, b = drawn & trained, drawn & ~trained
    stroke = {"shape": "|", "label": "not trained to the end"}
    marks = [
        dots(samples[a], rewards[a], "muted", 3, opacity=0.6, label="trained"),
        dots(samples[b], rewards[b], "muted", 4, opacity=0.6, **stroke),
        band(last, low, high, "blue", opacity=0.18, label="10 to 90 %"),
        line(last, median, "blue", 2, label="median"),
        line(*stairs, "orange", label="best so far"),
    ]
    if run.chance is not None:
        ends = samples[[0, -1]], [run.chance] * 2
        marks.append(line(*ends, "muted", 1, dash="1 2", label="chance"))
    unit = rewards.min() >= 0 and rewards.max() <= 1  # accuracies: show the whole scale
    panel = Panel(marks, y=Axis(limits=(0, 1.02) if unit else None, grid=True), height=260)
    says = {"window": window_of(len(rewards)), "step": step}
    return Chart("rewards", [panel], "candidates evaluated", f"reward: {run.score}", says=says)


def choices_chart(run: Run) -> Chart:
    """Return how often each operand and function was chosen over the samples."""
    edges = bin_edges(len(run.candidates), 16)
    shares, never = token_shares(run.candidates, edges), np.zeros(len(edges) - 1)
    panels = [
        _heat(kind, dict.fromkeys(run.config.get(field, ()), never) | shares[kind], edges)
        for kind, field in FIELDS.items()
    ]
    says = {"last": edges[-1] - edges[-2]}
    return Chart("choices", panels, "candidates", columns=3, says=says)


def _heat(kind: str, words: dict[str, np.ndarray], edges: np.ndarray) -> Panel:
    """Return the shares of words, one a row, the most frequent on top."""
    most = max((share.max() for share in words.values()), default=0.0) or 1.0
    names = sorted(words, key=lambda word: words[word].sum())
    shares = np.array([words[name] for name in names]).reshape(len(names), len(edges) - 1)
    shades = np.ceil(SHADES * shares / most)
    marks: list[Mark | Words] = []
    for shade in range(1, SHADES + 1):
        row, column = np.nonzero(shades == shade)
        left, right = edges[column], edges[column + 1]
        marks.append(boxes(left, right, row - 0.44, row + 0.44, "blue", opacity=shade / SHADES))
    for row, name in enumerate(names):
        marks.append(Words(edges[-1], row, f"{words[name][-1]:.0%}", move=(6, 4)))
    limits = (0.0, float(edges[-1]))
    title, height = f"{kind}, strongest: {most:.0%}", 17.0 * max(1, len(names))
    return Panel(marks, Axis(limits=limits), Axis(names), height, 44, title)


def outcomes_chart(run: Run) -> Chart:
    """Return what became of the candidates over the samples."""
    edges = bin_edges(len(run.candidates), 32)
    bins = [Counter(c.status for c in run.candidates[a:b]) for a, b in itertools.pairwise(edges)]
    gap = 0.04 * np.diff(edges)
    marks = _stacked(bins, edges[:-1] + gap, edges[1:] - gap, np.diff(edges))
    x, y = Axis(limits=(0, float(edges[-1]))), Axis(limits=(0, 1), kind="percent")
    panel = Panel(marks, x, y, 190)
    return Chart("outcomes", [panel], "candidates", "share")


def _stacked(
    counts: Sequence[Counter[str]], left: np.ndarray, right: np.ndarray, whole: np.ndarray
) -> list[Mark]:
    """Return bars of the statuses, one on another; of `whole` each."""
    seen = set().union(*counts)
    known = [status for status in STATUS_COLOURS if status in seen]
    bottom, marks = np.zeros(len(counts)), []
    for status in [*known, *sorted(seen.difference(known))]:
        top = bottom + np.array([count[status] for count in counts]) / whole
        colour = STATUS_COLOURS.get(status, "purple")
        marks.append(boxes(left, right, bottom, top, colour, label=status))
        bottom = top
    return marks


def rates_chart(run: Run) -> Chart:
    """Return the learning rates that the sweeps chose."""
    counts = rate_counts(run.candidates)
    if binned := len(counts) > MOST_RATES:  # on several tasks rates are no round numbers
        counts = in_decades(counts, MOST_RATES - 1)
    at, totals = np.arange(len(counts)), [count.total() for count in counts.values()]
    marks = _stacked(list(counts.values()), at - 0.35, at + 0.35, np.ones(len(counts)))
    above = [Words(i, total, f"{total:,}", "middle", (0, -4)) for i, total in enumerate(totals)]
    names = Axis(["none" if rate is None else _rate_label(rate) for rate in counts])
    panel = Panel([*marks, *above], names, Axis(limits=(0, 1.12 * max(totals)), kind="whole"), 190)
    x = "learning rate, from this to the next" if binned else "learning rate"
    return Chart("learning_rates", [panel], x, "trainings", says={"binned": binned})


def _rate_label(rate: float) -> str:
    """Return a rate as short as it can be: 1e-3, 3, 10."""
    mantissa, exponent = f"{rate:.0e}".split("e")
    power = int(exponent)
    return str(int(mantissa) * 10**power) if power in (0, 1) else f"{mantissa}e{power}"


def time_chart(run: Run) -> Chart:
    """Return the time of each stage."""
    stages = sorted(run.seconds.items(), key=lambda item: item[1])
    names, seconds = zip(*stages, strict=True)
    at, total = np.arange(len(stages)), sum(seconds) or 1.0
    said = [f"{s:,.1f} s, {s / total:.0%}" for s in seconds]
    beside = [Words(s, i, said[i], move=(6, 4)) for i, s in enumerate(seconds)]
    marks = [boxes(0, seconds, at - 0.35, at + 0.35, "blue"), *beside]
    x = Axis(limits=(0.0, max(*seconds, 1e-9)))
    panel = Panel(marks, x, Axis(names), 24.0 * len(stages), 110)
    return Chart("time", [panel], "seconds")
