"""The table of all candidates, which the page's script fills, sorts and filters."""

import json
import math

from nos_optax.search.reports.markup import text
from nos_optax.search.reports.read import Run

COLUMNS = ("id", "rule", "reward", "status", "rate", "family", "reason")
WIDTHS = ("4.2rem", "auto", "5.8rem", "6.4rem", "5.4rem", "5.6rem", "11.5rem")
NUMBERS = (0, 2, 4, 5)


def candidate_table(run: Run) -> str:
    """Return the empty table that the page's script fills."""
    if not run.candidates:
        return ""
    columns = "".join(f'<col style="width: {width}">' for width in WIDTHS)
    head = "".join(
        f'<th scope="col" {_attributes(i)}><button type="button">{name}</button></th>'
        for i, name in enumerate(COLUMNS)
    )
    statuses = "".join(
        f'<option value="{text(s)}">{text(s)}</option>'
        for s in sorted({c.status for c in run.candidates})
    )
    return (
        "<noscript><p>This table needs JavaScript; candidates.jsonl in the run folder holds the "
        "same rows.</p></noscript>"
        '<div id="candidate-table" hidden><p class="hint">Click a heading to sort. Family: the '
        'candidate whose training the reward is of.</p><div class="controls">'
        '<label>Find in rules and reasons<input type="search" autocomplete="off"></label>'
        f'<label>Status<select><option value="">all</option>{statuses}</select></label></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="All candidates"><table>'
        f"<colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead><tbody></tbody></table></div>"
        '<div class="pages"><button type="button">Previous</button>'
        '<button type="button">Next</button><span role="status"></span></div></div>'
    )


def _attributes(column: int) -> str:
    number = 'class="number" ' if column in NUMBERS else ""
    return number + ('aria-sort="ascending"' if column == 0 else "")


def candidate_data(run: Run) -> str:
    """Return the rows of the table, in the order of COLUMNS."""
    rows = [
        (
            c.id,
            c.rule,
            c.reward if math.isfinite(c.reward) else None,
            c.status,
            c.learning_rate,
            c.origin,
            c.reason,
        )
        for c in run.candidates
    ]
    content = json.dumps(rows, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="candidate-data">{content}</script>' if rows else ""
