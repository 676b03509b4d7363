"""Do PowerSign and AddSign train better than the common optimizers at a constant learning rate?

Claim:    on CIFAR-10 with a wide ResNet, without decay of the learning rate, some of PowerSign's
          and AddSign's forms are ahead of SGD, Momentum, Adam and RMSProp by a sizeable margin,
          especially with internal decays, those of the sign term: ld, cd, rd10, rd20 (section 6.2,
          table 1, figure 6). In the paper's figures, which stand beside ours, PowerSign and AddSign
          without decay are not ahead: best test 93.0 for both, as for SGD and Momentum.
Method:   the paper's network has 9 million parameters: WRN-40-4 (8,949,210). It tries seven
          learning rates on a logarithmic scale and tunes the weight decay for each common
          optimizer; its own rules have no weight decay and three rates around the best of its
          search; 5 runs. It does not state which rates and weight decays these are, nor the
          epochs (300 in table 6), the minibatch and the augmentation: the options show our choices,
          which are those of the wide residual networks' paper where it has one.
          --found-weight-decays gives PowerSign and AddSign the same grid. L2 is in the loss, of the
          kernels. The rate and the weight decay are chosen by the validation accuracy after the
          last epoch, with a seed that is not used again; a diverged run counts as chance. Momentum
          here is the moving average of gradients, as in the rules' grammar. Best: at the epoch of a
          run that is best on the validation images.
          A sign term that decays is itself a kind of decay of the rate: where the signs agree,
          PowerSign-cd multiplies by e at the beginning and by 1 at the end. So Momentum with a
          cosine decay of the learning rate stands beside them as a control. It is no row of the
          paper's table 1; its figures are those of table 2.
          Differences are of the final test accuracies, seed by seed, with t intervals of 95 %, not
          corrected for their number, and they do not cover the choice of the rate. Better or worse
          is what paired t-tests say by Holm's procedure at 5 % over all rows.
          `small` is another setting: WRN-10-1, 10,000 images of half the size without augmentation,
          18 epochs; all rules begin with the same three rates, half a decade apart, and go on
          beyond an end while their best one is that end; weight decay 0 or 5e-4 for the common
          optimizers.
Command:  python experiments/table1_constant_rate.py --data-dir DIR
          python experiments/table1_constant_rate.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table1_constant_rate.py --scale paper --check          (no data needed)
          python experiments/table1_constant_rate.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped, with more seeds too: the
          records are in --out.
Time:     small: about 130 trainings of 3,600 steps, each 2 to 5 minutes of one core, by the time of
          200 steps: 2 to 6 hours on 2 cores. paper: for accelerators, not run here.
Writes:   experiments/results/table1_constant_rate_SCALE.json, .md and .png
"""

import dataclasses
from collections.abc import Sequence

from harness import image_rivals
from harness.command_line import main
from harness.image_rivals import PAPER, SMALL, SMOKE, ImageConfig, More, named_rival, paper_figures
from harness.paper import TABLE_1, TABLE_2
from harness.rival_tables import Result
from harness.statistics import claims
from harness.tables import interval_text, text_table
from rich.console import Console

from nos_optax.compare.statistics import Difference, difference

BASELINE, CONTROL = "Momentum", "Momentum (cosine)"
RIVALS = tuple(map(named_rival, (*TABLE_1, CONTROL)))
FIGURE_6 = ("SGD", "Momentum", "Adam", "RMSProp", "PowerSign-ld", "AddSign-ld")
DRAWN = (*FIGURE_6, "PowerSign-cd", CONTROL)


@dataclasses.dataclass(frozen=True)
class Arguments(ImageConfig):
    """Compare optimizers at a constant learning rate, each with its best one."""

    experiment = "table1_constant_rate"


PRESETS = {config.scale: Arguments.like(config) for config in (SMALL, PAPER, SMOKE)}


def against_control(results: Sequence[Result]) -> dict[str, Difference]:
    """Return the final test accuracies of the rules whose sign term decays, less the control's."""
    final = {result.name: result.values["final_test"] for result in results}
    decayed = [name for name in final if name.partition("-")[2]]
    return {name: difference(final[name], final[CONTROL]) for name in decayed}


def more(results: Sequence[Result]) -> More:
    """Return what is said of sign terms that decay."""
    changes = against_control(results)
    rows = [(name, interval_text(change, 1)) for name, change in changes.items()]
    return More(
        "Sign terms that decay, against a learning rate that decays",
        text_table(("rival", f"final test - {CONTROL} [95 %]"), rows),
        f"Final test against {CONTROL}, {claims(changes)}",
        {"against_control": changes},
    )


def run(config: Arguments, console: Console) -> None:
    """Train all rivals, print the tables and write the results."""
    paper = paper_figures(TABLE_1 | {CONTROL: TABLE_2[CONTROL]})
    heading = "Constant learning rate, and the control"
    image_rivals.run(config, RIVALS, BASELINE, paper, heading, DRAWN, more, console)


if __name__ == "__main__":
    main(run, PRESETS)
