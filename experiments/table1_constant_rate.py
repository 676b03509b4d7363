"""Do PowerSign and AddSign train better than the usual optimizers? At a constant learning rate.

Claim:    on CIFAR-10 with a wide residual network, without decay of the learning rate, PowerSign
          and AddSign, with and without decays of their sign term (ld, cd, rd10, rd20), are more
          accurate than SGD, Momentum, Adam and RMSProp (table 1 and figure 6).
          Of the figures, only those of the rules that are also in table 6 stand in this
          repository; they were transcribed from memory and not checked. The others are not at hand.
Method:   the paper's: WRN-40-4, 300 epochs, seven learning rates 1e-5 to 10 for every rule, 5 runs
          with the best. Our choices, for want of its text: batch 128; crops, mirror images and L2
          5e-4 of the kernels, as in the wide residual networks' paper; a rate is chosen by the
          validation accuracy after the last epoch, with a seed that is not used again; a diverged
          run counts as chance. Momentum here is the moving average of gradients, as in the rules'
          grammar. Best: at the epoch of a run that is best on the validation images. Differences
          are to Momentum, of the final test accuracies, seed by seed, with t intervals of 95 %.
          These are not corrected for their number, and none covers the choice of the rate: by one
          seed, in `small` by the mean of three. Better or worse is what paired t-tests say by
          Holm's procedure at 5 % over all rows. `small` is another setting, a tiny network that has
          just begun to learn: it shows how the rules begin, and says nothing about 300 epochs.
Command:  python experiments/table1_constant_rate.py --data-dir DIR
          python experiments/table1_constant_rate.py --data-dir DIR --scale paper   (accelerators)
          python experiments/table1_constant_rate.py --scale paper --check          (no data needed)
          python experiments/table1_constant_rate.py --scale smoke    (seconds; says nothing)
          The same command goes on where an interrupted one stopped: the records are in --out.
Time:     19 minutes on 2 cores beside other jobs.
Writes:   experiments/results/table1_constant_rate_SCALE.json, .md and .png
"""

import dataclasses
import functools

from harness.command_line import main
from harness.image_rivals import (
    PAPER,
    SMALL,
    SMOKE,
    ImageConfig,
    check,
    paper_accuracies,
    report,
    train,
)
from harness.rival_tables import draw_differences, edge_note, measure, results_table, verdict
from harness.tuning import Rival
from rich.console import Console

from nos_optax import rules

NAME = "table1_constant_rate"
BASELINE = "Momentum"
DECAYS = ("ld", "cd", "rd10", "rd20")
KEYS = {  # in `rules`
    "SGD": "sgd",
    "Momentum": "momentum",
    "Adam": "adam",
    "RMSProp": "rmsprop",
    "PowerSign": "powersign",
    **{f"PowerSign-{decay}": f"powersign_{decay}" for decay in DECAYS},
    "AddSign": "addsign",
    **{f"AddSign-{decay}": f"addsign_{decay}" for decay in DECAYS},
}
RIVALS = tuple(Rival(name, str(rules[key].rule)) for name, key in KEYS.items())
DRAWN = ("SGD", "Momentum", "Adam", "RMSProp", "PowerSign", "PowerSign-ld", "AddSign", "AddSign-ld")
PRESETS = {
    "small": dataclasses.replace(SMALL, seeds=8, tuning_seeds=3),
    "paper": PAPER,
    "smoke": SMOKE,
}


def run(config: ImageConfig, console: Console) -> None:
    """Train all rivals, print the table and write the results."""
    if config.check:
        check(config, console)
        return
    trained = train(config, NAME, RIVALS, console)
    results = measure(trained.outcomes, BASELINE, trained.display)
    table = results_table(
        results, BASELINE, trained.display, paper_accuracies(KEYS), "paper's table 6, final test"
    )
    tables = {"Constant learning rate": table}
    notes = [verdict(results, BASELINE, trained.display), edge_note(results, config.rates)]
    panel = functools.partial(
        draw_differences, results=results, baseline=BASELINE, display=trained.display
    )
    report(config, NAME, trained, results, tables, notes, DRAWN, console, panel)


if __name__ == "__main__":
    main(run, PRESETS)
