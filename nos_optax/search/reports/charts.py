"""The pictures of one run."""

import itertools
from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nos_optax.search.reports.choices import tokens_chart
from nos_optax.search.reports.picture import Chart, legend, reward_label, score_label
from nos_optax.search.reports.race_charts import race_charts
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.statistics import (
    bin_edges,
    in_decades,
    rate_counts,
    reward_array,
    running_quantiles,
    t_interval,
    window_of,
)
from nos_optax.search.reports.tasks import tasks_chart
from nos_optax.search.reports.theme import LIGHT, STATUS_COLOURS

MOST_RATES = 16  # bars
MOST_POINTS = 1200  # of a scatter plot: more are a cloud that takes seconds to open


def charts(run: Run) -> dict[str, Chart]:
    """Return the pictures that a run has data for, by name."""
    made = []
    if run.candidates:
        made += [rewards_chart(run), tokens_chart(run), outcomes_chart(run)]
    if any(c.origin == c.id for c in run.candidates):
        made.append(rates_chart(run))
    if run.results:
        made.append(scores_chart(run))
    if run.finals:
        made.append(tasks_chart(run.finals))
    made += race_charts(run)
    if run.seconds:
        made.append(time_chart(run))
    return {chart.name: chart for chart in made}


def rewards_chart(run: Run) -> Chart:
    """Return the reward over the samples, as the paper's figure 4."""
    rewards, chance = reward_array(run.candidates), run.chance
    samples = np.arange(1, len(rewards) + 1)
    trained = np.array([c.status == "trained" for c in run.candidates])
    step = -(-len(rewards) // MOST_POINTS)
    drawn = samples % step == 0
    window = window_of(len(rewards))

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        last, (low, median, high) = running_quantiles(rewards, (0.1, 0.5, 0.9))
        ink, blue, orange = LIGHT["muted"], LIGHT["blue"], LIGHT["orange"]
        for shown, marker, label in (
            (drawn & trained, ".", "trained"),
            (drawn & ~trained, "|", "not trained to the end"),
        ):
            axes.plot(
                samples[shown], rewards[shown], marker, color=ink, ms=4, alpha=0.6, label=label
            )
        axes.fill_between(last, low, high, color=blue, alpha=0.18, lw=0, label="10 to 90 %")
        axes.plot(last, median, color=blue, lw=2, label="median")
        best = np.maximum.accumulate(rewards)
        kept = np.flatnonzero(np.diff(best, prepend=np.nan) != 0)
        kept = np.append(kept, len(best) - 1)
        axes.step(
            samples[kept], best[kept], color=orange, lw=1.6, where="post", label="best so far"
        )
        if chance is not None:
            axes.axhline(chance, color=LIGHT["muted"], lw=1, ls=(0, (1, 2)), label="chance")
        axes.set(xlabel="candidates evaluated", ylabel=reward_label(run.score, narrow))
        _unit_limits(axes, rewards)
        legend(axes, 2 if narrow else 6)

    thinned = "" if step == 1 else f" One candidate in {step} is drawn as a dot."
    caption = (
        f"Every candidate's reward in the order of evaluation. Line and band: the median and the "
        f"10 % and 90 % quantiles of the last {window}.{thinned} The best so far is the maximum "
        "of many noisy rewards: it flatters."
    )
    return Chart("rewards", "Reward over the samples", caption, (360, 340), draw)


def scores_chart(run: Run) -> Chart:
    """Return the scores of the rules that were trained again, with intervals."""
    results, rows = run.results, run.results[::-1]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for y, result in enumerate(rows):
            colour = LIGHT["muted" if result.searched is None else "blue"]
            ends = t_interval(result.rewards)
            if ends is not None:
                axes.plot(ends, (y, y), color=colour, lw=2)
            edge = LIGHT["paper"]
            axes.plot(result.rewards, [y] * len(result.rewards), "o", color=colour, mec=edge, ms=5)
            axes.plot(result.mean, y, "o", color=colour, mec=edge, ms=10)
            if result.searched is not None:
                axes.plot(result.searched, y, "D", mfc="none", mec=LIGHT["orange"], ms=6)
        axes.set_yticks(range(len(rows)), [result.name for result in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(score_label(run.score, narrow))
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5 if narrow else 9)
        axes.spines["left"].set_visible(False)

    seeds = max(len(result.rewards) for result in results)
    searched = (
        "the estimate in the search, from several seeds, which is drawn towards what most rules "
        "have."
        if run.raced
        else "the reward in the search, by which a rule was picked from among many and which "
        "therefore flatters it."
    )
    caption = (
        f"Large dots: means over fresh seeds ({seeds} of each rule, small dots). Lines: their 95 % "
        "t intervals. Blue rules were found here, grey ones are standard optimizers. Diamonds: "
        f"{searched}"
    )
    height = 70 + 26 * len(rows)
    return Chart("scores", "Scores with fresh seeds", caption, (height, height), draw)


def outcomes_chart(run: Run) -> Chart:
    """Return what became of the candidates over the samples."""
    edges = bin_edges(len(run.candidates), 32)
    bins = [Counter(c.status for c in run.candidates[a:b]) for a, b in itertools.pairwise(edges)]
    width = np.diff(edges)
    seen = {c.status for c in run.candidates}
    statuses = [s for s in STATUS_COLOURS if s in seen] + sorted(seen - STATUS_COLOURS.keys())

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        bottom = np.zeros(len(bins))
        for status in statuses:
            height = np.array([count[status] for count in bins]) / width
            colour = LIGHT[STATUS_COLOURS.get(status, "purple")]
            left, shown = edges[:-1] + width / 2, width * 0.92
            axes.bar(left, height, shown, bottom, color=colour, label=status)
            bottom += height
        axes.set(xlabel="candidates", ylabel="share", ylim=(0, 1), xlim=(0, edges[-1]))
        axes.yaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        legend(axes, 3 if narrow else 5)

    caption = (
        "What became of the candidates, from the first to the last. Dead: no learning rate of the "
        "sweep left the level of a constant guess, so it was not trained. Diverged: the loss left "
        "the finite numbers. Stopped: below most others at a hurdle. Rejected: never trained, for "
        "the reasons in the table."
    )
    return Chart("outcomes", "Outcomes over the samples", caption, (260, 280), draw)


def rates_chart(run: Run) -> Chart:
    """Return the learning rates that the sweeps chose."""
    counts = rate_counts(run.candidates)
    if binned := len(counts) > MOST_RATES:  # on several tasks rates are no round numbers
        counts = in_decades(counts, MOST_RATES - 1)
    labels = ["none" if rate is None else f"{rate:.0e}".replace("e-0", "e-") for rate in counts]
    labels = [label.replace("e+00", "").replace("1e+01", "10") for label in labels]
    labels = [label.replace("e+0", "e") for label in labels]
    seen = set().union(*counts.values())
    statuses = [s for s in STATUS_COLOURS if s in seen] + sorted(seen - STATUS_COLOURS.keys())

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        bottom = np.zeros(len(counts))
        for status in statuses:
            height = np.array([by_status[status] for by_status in counts.values()])
            colour = LIGHT[STATUS_COLOURS.get(status, "purple")]
            axes.bar(range(len(counts)), height, 0.7, bottom=bottom, color=colour, label=status)
            bottom += height
        for x, total in enumerate(bottom):
            shown, size = f"{total:.0f}", 9 if narrow and binned else 12
            colour = LIGHT["muted"]
            axes.text(x, total, shown, ha="center", va="bottom", size=size, color=colour)
        axes.set_xticks(range(len(counts)), labels, rotation=90 if narrow and binned else 0)
        xlabel = "learning rate, from this to the next" if binned else "learning rate"
        axes.set(xlabel=xlabel, ylabel="trainings")
        axes.set_ylim(0, 1.12 * bottom.max())
        legend(axes, 3 if narrow else 5)

    caption = (
        "The learning rate that each training's sweep chose, and what became of it; repeats of an "
        "earlier rule are not counted. None: every rate diverged."
        f"{' Of several tasks it is the geometric mean.' if binned else ''}"
    )
    return Chart("learning_rates", "Learning rates", caption, (260, 280), draw)


def time_chart(run: Run) -> Chart:
    """Return the time of each stage."""
    stages = sorted(run.seconds.items(), key=lambda item: item[1])
    total = sum(run.seconds.values()) or 1.0
    longest = max(*run.seconds.values(), 1e-9)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.barh(range(len(stages)), [s for _, s in stages], 0.7, color=LIGHT["blue"])
        for y, (_, seconds) in enumerate(stages):
            text, right = f"{seconds:.1f} s, {seconds / total:.0%}", seconds + 0.015 * longest
            axes.text(right, y, text, va="center", size=11, color=LIGHT["muted"])
        axes.set_yticks(range(len(stages)), [stage for stage, _ in stages])
        axes.set_xlim(0, longest * (1.5 if narrow else 1.2))
        axes.set_xlabel("seconds")
        axes.spines["left"].set_visible(False)

    caption = "Seconds in each stage of the search, over all its starts."
    height = 60 + 26 * len(stages)
    return Chart("time", "Time", caption, (height, height), draw)


def _unit_limits(axes: Axes, rewards: np.ndarray) -> None:
    """Show the whole scale where rewards are parts of one, as accuracies are."""
    if rewards.min() >= 0 and rewards.max() <= 1:
        axes.set_ylim(0, 1.02)
