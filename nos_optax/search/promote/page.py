"""The funnel as a page, with a picture of who stopped where."""

import base64
from pathlib import Path

from nos_optax._files import write_figure, write_whole
from nos_optax.search.promote.results import PARTS, Promotion, rows
from nos_optax.search.reports.templates import render

THROUGH, STOPPED = "#0072b2", "#999999"


def write_page(promotion: Promotion, out: Path) -> None:
    """Write `promotion.svg` and `promotion.html`, which needs no other file."""
    draw(promotion, out / "promotion.svg")
    page = render(
        "promotion.html",
        promotion=promotion,
        rows=list(rows(promotion)),
        parts=PARTS,
        funnel=_inline(out / "promotion.svg"),
        test=_inline(out / "test" / "results.svg") if promotion.comparison else "",
    )
    write_whole(out / "promotion.html", page.encode())


def _inline(picture: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.read_bytes()).decode()


def draw(promotion: Promotion, path: Path) -> None:
    """Draw the mean of each rule over the heats, until it was stopped."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    names = ["search\n(lower bound)", *(name.replace(", ", "\n") for name, _ in promotion.heats)]
    found = {promoted.entrant.rule: promoted for promoted in promotion.promoted}
    for entrant in reversed(promotion.entrants):
        path_of = [entrant.low]
        for _, heat in promotion.heats:
            if entrant.rule in heat.rules:
                path_of.append(heat.means[heat.rules.index(entrant.rule)])
        through = found.get(entrant.rule)
        axes.plot(
            path_of,
            color=THROUGH if through else STOPPED,
            marker="o",
            markersize=4,
            linewidth=2 if through else 1,
            zorder=3 if through else 2,
        )
        if through:
            place = promotion.promoted.index(through)  # names of rules as good lie side by side
            axes.annotate(
                through.name,
                (len(path_of) - 1, path_of[-1]),
                (8 + 48 * place, 0),
                textcoords="offset points",
                va="center",
                annotation_clip=False,
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.2, len(names) - 0.6)
    axes.set_ylabel("doublings of tuned Adam's training")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(path, figure)
