"""The pictures of what a search believed of its best rules: seeds, estimates and watch tasks."""

import math

import numpy as np
from matplotlib.figure import Figure

from nos_optax.search.reports.markup import counted
from nos_optax.search.reports.picture import Chart, legend, reward_label, score_label
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.seeds import Raced, first_leaders, named_rules, raced_rules
from nos_optax.search.reports.theme import LIGHT, SERIES
from nos_optax.search.standings import BOUND


def race_charts(run: Run) -> list[Chart]:
    """Return the pictures that a run has data for."""
    rules = raced_rules(run)
    made = [watch_chart(run)] if run.watched else []
    return [*made, seeds_chart(run, rules), race_chart(rules)] if rules else made


def watch_chart(run: Run) -> Chart:
    """Return the estimate of the best rule and its rewards on the watch tasks over trainings."""
    rows = run.watched
    trained = [row.trained for row in rows]
    rewards = np.array([row.rewards for row in rows], float)
    colours = [LIGHT[name] for name in SERIES if name != "blue"]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=LIGHT["rule"], lw=1)
        low, means = [row.low for row in rows], [row.reward for row in rows]
        axes.plot(trained, low, color=LIGHT["blue"], lw=1, ls=(0, (4, 2)), label="bound from below")
        axes.plot(trained, means, "o-", color=LIGHT["blue"], lw=2.4, ms=5, label="fitness")
        for number, name in enumerate(run.watch):
            colour, style = colours[number % len(colours)], "s^vD"[number % 4]
            axes.plot(trained, rewards[:, number], f"{style}-", color=colour, ms=4, label=name)
        axes.set(xlabel="rules trained", ylabel=reward_label(run.score, narrow))
        axes.margins(x=0.04)
        axes.locator_params(axis="x", nbins=5 if narrow else 9, integer=True)
        legend(axes, 2 if narrow else 5)

    caption = (
        "The rule that was best after 25, 50 and each 100 trainings. Blue: its fitness, which is "
        f"the estimate of its mean reward on the search's own tasks, and {BOUND:g} standard errors "
        "below it the bound by which rules are ranked. Other colours: its reward on each watch "
        "task. Nothing is selected by the watch tasks: where they part from the fitness, the "
        "search learns its own tasks by heart."
    )
    heights = 360, 340 + 18 * (len(run.watch) // 2)
    return Chart("watch", "Fitness and watch tasks", caption, heights, draw)


def seeds_chart(run: Run, rules: list[Raced]) -> Chart:
    """Return the reward of each seed in the search, and the estimate, of the finalists."""
    rows = named_rules(run, rules)[::-1]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        edge, above = LIGHT["paper"], 0.2  # the estimates are above the seeds, not behind them
        for y, (_, rule) in enumerate(rows):
            mean, error, count = rule.estimate
            first, *later = rule.rewards
            if math.isfinite(error):
                ends = mean - BOUND * error, mean + BOUND * error
                axes.plot(ends, (y + above,) * 2, color=LIGHT["blue"], lw=2)
            axes.plot(mean, y + above, "o", color=LIGHT["blue"], mec=edge, ms=9)
            axes.plot(later, [y - above] * len(later), "o", color=LIGHT["muted"], mec=edge, ms=5)
            axes.plot(first, y - above, "D", mfc="none", mec=LIGHT["orange"], ms=6)
            places = axes.get_yaxis_transform()  # across in parts of the axes
            axes.text(1.015, y, f"{count}", va="center", color=LIGHT["muted"], transform=places)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(score_label(run.score, narrow))
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5 if narrow else 9)
        axes.spines["left"].set_visible(False)

    compared = {result.name for result in run.found}
    of = "The finalists" if rows[0][0] in compared else "The best rules so far"
    caption = (
        f"{of} in the search: the reward of each seed (small dots), and how many seeds there are "
        "(on the right). Diamonds: the first seed, by which a rule came into the race. Large dots "
        f"and lines: the estimate of the mean, and {BOUND:g} standard errors of it. It lies nearer "
        "to what most rules have than the mean of the seeds does, because the best of many are "
        "the luckiest."
    )
    height = 70 + 34 * len(rows)
    return Chart("seeds", "Seeds in the search", caption, (height, height), draw)


def race_chart(rules: list[Raced]) -> Chart:
    """Return the first reward against the estimate, of the rules that led by the first reward."""
    leaders = first_leaders(rules)
    firsts = np.array([rule.rewards[0] for rule in leaders])
    means = np.array([rule.estimate.mean for rule in leaders])
    errors = np.array([rule.estimate.error for rule in leaders])
    best = {id(rule) for rule in rules[: len(leaders)]}
    among = np.array([id(rule) in best for rule in leaders])

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        axes.axline((firsts[0], firsts[0]), slope=1, color=LIGHT["faint"], lw=1, ls=(0, (4, 2)))
        for shown, colour, label in (
            (among, LIGHT["blue"], f"among the best {len(leaders)} now"),
            (~among, LIGHT["orange"], "no longer"),
        ):
            half = BOUND * np.nan_to_num(errors[shown])
            x, y = firsts[shown], means[shown]
            if len(x):
                axes.errorbar(x, y, half, fmt="o", color=colour, ms=5, elinewidth=1.4, label=label)
        axes.set(xlabel="first reward", ylabel="estimate now")
        axes.locator_params(nbins=5 if narrow else 8)
        legend(axes, 1 if narrow else 2)

    caption = (
        f"{counted(len(leaders), 'rule')} that led by their first reward, each a dot: that reward "
        f"against the estimate of its mean now, with {BOUND:g} standard errors. On the dashed "
        "line the two are equal; below it, the first seed was lucky. Without the race, the search "
        "would have believed the first rewards."
    )
    return Chart("race", "First reward and estimate", caption, (320, 340), draw)
