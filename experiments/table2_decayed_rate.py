"""Are PowerSign and AddSign as good as the common optimizers when the learning rate decays?

Claim:    on CIFAR-10 with a wide ResNet and a decay of the learning rate, PowerSign and AddSign are
          on par with SGD and ahead of Momentum, Adam and RMSProp (section 6.2, table 2, figure 7).
          The paper itself warns that the variance among its own rows may come from how good the
          rate is that was tried, and not from the optimizer. It also observed that they tend to
          converge faster than Momentum and SGD, which is not measured here, and linear cosine decay
          faster than cosine: for that, see decays.py.
Method:   as in table1_constant_rate.py, for the 16 rows of table 2, whose decay stands in
          parentheses; the paper's figures stand beside ours. Differences are to SGD with cosine
          decay. The second table has each of the paper's own rows less each common optimizer, and
          the mean of all of them, seed by seed; which of these four means is not 0 is told by
          Holm's procedure at 5 %. All are of final test accuracies, with t intervals of 95 % that
          are not corrected for their number and do not cover the choice of the rate. Undecided is
          not on par: how far apart they can be is what the interval says.
          The noise of noisy linear cosine falls with the number of steps, whatever their total, so
          a short training has much more of it than the paper's.
Command:  python experiments/table2_decayed_rate.py --data-dir DIR
          python experiments/table2_decayed_rate.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table2_decayed_rate.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped, with more seeds too: the
          records are in --out.
Time:     small: about 140 trainings of 3,600 steps, each 2 to 5 minutes of one core, by the time of
          200 steps: 2 to 6 hours on 2 cores. paper: for accelerators, not run here.
Writes:   experiments/results/table2_decayed_rate_SCALE.json, .md and .png
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from harness import image_rivals
from harness.command_line import main
from harness.image_rivals import PAPER, SMALL, SMOKE, ImageConfig, More, named_rival, paper_figures
from harness.paper import TABLE_2
from harness.rival_tables import Result
from harness.statistics import claims
from harness.tables import interval_text, text_table
from rich.console import Console

from nos_optax.compare.statistics import Difference, difference

COMMON = ("SGD (cosine)", "Momentum (cosine)", "Adam (cosine)", "RMSProp (cosine)")
BASELINE = COMMON[0]
RIVALS = tuple(map(named_rival, TABLE_2))
FIGURE_7 = (*COMMON, "PowerSign-cd (linear cosine)", "AddSign-ld (linear cosine)")
MEAN = "mean of these"


@dataclasses.dataclass(frozen=True)
class Arguments(ImageConfig):
    """Compare optimizers with learning rates that decay, each with its best one."""

    experiment = "table2_decayed_rate"


PRESETS = {config.scale: Arguments.like(config) for config in (SMALL, PAPER, SMOKE)}


def against_common(results: Sequence[Result]) -> dict[str, dict[str, Difference]]:
    """Return the final test accuracies of the paper's rules less each common optimizer's.

    Returns:
        By rule, its differences by common optimizer; the last row is of the mean of all rules,
        which is taken of each seed.
    """
    final = {result.name: result.values["final_test"] for result in results}
    found = {name: values for name, values in final.items() if name not in COMMON}
    found[MEAN] = np.mean(list(found.values()), axis=0).tolist()
    return {
        name: {common: difference(values, final[common]) for common in COMMON}
        for name, values in found.items()
    }


def more(results: Sequence[Result]) -> More:
    """Return what is said of the paper's rules against each common optimizer."""
    changes = against_common(results)
    return More(
        "Final test, the paper's rules less the common optimizers [95 %]",
        text_table(
            ("less", *COMMON),
            [(name, *(interval_text(c, 1) for c in row.values())) for name, row in changes.items()],
        ),
        f"The mean of the paper's rules against each of these, final test, {claims(changes[MEAN])}",
        {"against_common": changes},
    )


def run(config: Arguments, console: Console) -> None:
    """Train all rivals, print the tables and write the results."""
    paper, heading = paper_figures(TABLE_2), "Learning rates that decay"
    image_rivals.run(config, RIVALS, BASELINE, paper, heading, FIGURE_7, more, console)


if __name__ == "__main__":
    main(run, PRESETS)
