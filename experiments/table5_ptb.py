"""Do the paper's rules train a language model well? An LSTM on Penn Treebank.

Claim:    section 6.5 and Table 5: on Penn Treebank, PowerSign (test perplexity 64.8) and AddSign
          (65.2) are much better than SGD (68.3), and worse than Adam (63.3); of validation 68.5,
          68.8, 71.7 and 65.7. The paper adds that the ranges of its hyperparameters were first
          tuned by hand for Adam, which may have harmed the other three.
Method:   the paper's: these four, all with a cosine decay of the learning rate; an LSTM of one
          layer and 10M parameters with variational dropout and tied weights, backpropagation
          through 35 words, minibatches of 64, gradients clipped to norm 5, 150,000 steps (rounded
          to whole passes over the text).
          The paper tuned weight decay, the dropout of embedding, state and output, the probability
          that the state is reset and the embedding's ratio with a black-box tuner, and states none
          of them: here each is a setting, with a usual value for the default, the same for all
          four. Only the learning rate is tuned, and for each rival by the same rule: three rates
          half a decade apart, and one more beyond while the best is at an end. Ours, too: the
          initial weights; a loss that is summed over the words of a row and averaged over the rows,
          which decides how often the clipping acts; five fresh seeds.
          The state of the network goes from minibatch to minibatch, and is reset where the text
          begins anew. Perplexity is that of single words, without dropout; the text is read as 20
          parts, each from a state of zero.
          Every rate is tried with one seed to the end; the one with the best validation perplexity
          at the end trains again with fresh seeds, and only these are reported. Perplexities are
          means with standard errors over the fresh seeds. Differences are of the logarithm of the
          test perplexity at the end, seed by seed, with t intervals of 95 % that are not corrected
          for their number; the order is told by Holm's procedure over the five pairs that the claim
          is about. A run that diverged counts as guessing blindly.
          --scale small is a smaller problem: the 2,000 most frequent words (all others become
          <unk>), the first 200,000 words of the training text and 40,000 of each other, 128 units
          (389,584 parameters) with less dropout, 8,000 steps of 16 x 20 words, which are 13 passes.
          Why it can show the order: the paper's perplexities differ by 2.4 % (Adam and PowerSign)
          to 7.9 % (Adam and SGD), and a seed changed a perplexity by about 0.5 % in shorter runs,
          so five pairs of seeds tell 1 % apart; PowerSign and AddSign, 0.6 % apart, are too close.
          All four have the same cosine decay to 0, without which the comparison is one of the
          decays. What it cannot show is the paper's regime of 360 passes, in which regularisation
          decides.
Command:  python experiments/table5_ptb.py --data-dir DIR
          python experiments/table5_ptb.py --scale paper --data-dir DIR
          python experiments/table5_ptb.py --scale paper --check   (takes one step, without data)
          python experiments/table5_ptb.py --scale smoke     (generated text; says nothing)
          DIR holds ptb.train.txt, ptb.valid.txt and ptb.test.txt. The same command goes on where
          an interrupted one stopped.
Time:     small: about 40 trainings of 8,000 steps, 1 to 2 hours on 2 cores, by a few steps' time.
          paper: for accelerators, and not run here: about 40 trainings of 150,000 steps, each step
          3 s on one core; --rivals chooses some of them. One training keeps 151 MiB, and a step
          takes less than 400 MiB more.
Writes:   experiments/results/table5_ptb_SCALE.json, .md and .png
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from data.ptb import Corpus, load_ptb
from harness import rival_tables
from harness.command_line import main
from harness.one_step import Sizes, one_step
from harness.paper import TABLE_5
from harness.rival_tables import Display, edge_note
from harness.statistics import claims
from harness.study import SHARED, Study
from harness.tables import interval_text, text_table
from harness.tuning import HALF_DECADES, Outcome, Rival, Settings, compare, make_loop
from models.ptb_lstm import WordLSTM
from ptb.task import BLOCK, generated, language_task
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import nos_optax
from nos_optax.compare.records import Records
from nos_optax.compare.statistics import Difference
from nos_optax.population import Task
from nos_optax.search import select_devices

RULES = {"Adam": "adam", "SGD": "sgd", "PowerSign": "powersign", "AddSign": "addsign"}
RIVALS = {
    name: Rival(name, str(nos_optax.rules[rule].rule), "cosine") for name, rule in RULES.items()
}
BASELINES = ("Adam", "SGD")  # the paper's optimizers are worse than the one, better than the other


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Compare optimizers on a language model of Penn Treebank."""

    experiment = "table5_ptb"
    at_least = (("seeds", 2),)
    not_empty = ("adam_rates", "sgd_rates", "sign_rates", "weight_decays")
    may_grow = (*not_empty, "rivals", "adaptive", "seeds")

    text: Literal["ptb", "generated"] = "ptb"
    """Penn Treebank, or a random text that needs no data."""
    data_dir: Path = SHARED / "data" / "ptb"
    """Folder of ptb.train.txt, ptb.valid.txt and ptb.test.txt."""
    vocabulary: int = 10_000
    """Words to tell apart; the rarer ones become <unk>."""
    train_words: int | None = None
    """Length of the training text, from its beginning (default: all)."""
    evaluation_words: int | None = None
    """Length of the validation and of the test text, from their beginning (default: all)."""
    units: int = 650
    """Of the LSTM."""
    batch: int = 64
    """Rows of a minibatch."""
    bptt: int = 35
    """Words in a row, a multiple of 5."""
    steps: int = 150_000
    """Of each training, rounded to whole passes over the text."""
    embedding_ratio: float = 1.0
    """Size of the embedding, as a share of the units. The paper tuned it with a black-box tuner and
    does not state it."""
    embedding_dropout: float = 0.35
    """Share of an embedded word's numbers that is dropped. Tuned and not stated, as above."""
    state_dropout: float = 0.2
    """Share of the state that is dropped between time steps. Tuned and not stated, as above."""
    output_dropout: float = 0.35
    """Share of the LSTM's outputs that is dropped. Tuned and not stated, as above."""
    state_reset: float = 0.01
    """Probability that a row begins a minibatch with a state of zero, as if the text began there.
    Tuned and not stated, as above."""
    weight_decays: tuple[float, ...] = (1e-4,)
    """L2 of all weights, in the loss of a row of words; each is tried with every rate. Tuned and
    not stated, as above."""
    init_scale: float = 0.05
    """Weights start uniform in +- this."""
    rivals: tuple[str, ...] = tuple(RIVALS)
    """What is compared: Adam, and others of SGD, PowerSign and AddSign."""
    adam_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates that Adam tries first. The paper does not state any."""
    sgd_rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Learning rates that SGD tries first."""
    sign_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Learning rates that PowerSign and AddSign try first."""
    adaptive: bool = True
    """Where the best rate of a rival is an end of those it has tried, try the next one beyond, half
    a decade away, until the best one lies inside."""
    seeds: int = 5
    """Fresh seeds for what is reported; at least 2."""
    check: bool = False
    """Only take one step of one training, and report its size, memory and time; no data is read."""

    def __post_init__(self):
        super().__post_init__()
        if self.bptt < 1 or self.bptt % BLOCK:
            raise ValueError(f"--bptt must be a multiple of {BLOCK}, got {self.bptt}")
        if not 0 <= self.state_reset < 1:
            raise ValueError(f"--state-reset must be from 0 to less than 1, got {self.state_reset}")
        unknown = [name for name in self.rivals if name not in RIVALS]
        if unknown or BASELINES[0] not in self.rivals:
            raise ValueError(
                f"--rivals must be {BASELINES[0]} and others of {' '.join(RIVALS)}; "
                f"got {' '.join(self.rivals)}"
            )

    def settings(self) -> dict[str, Settings]:
        """Return what is tried of each rival."""
        rates = {"Adam": self.adam_rates, "SGD": self.sgd_rates}
        beyond = HALF_DECADES if self.adaptive else ()
        return {
            name: Settings(rates.get(name, self.sign_rates), self.weight_decays, beyond)
            for name in self.rivals
        }


PRESETS = {
    "small": Arguments(
        scale="small",
        vocabulary=2000,
        train_words=200_000,
        evaluation_words=40_000,
        units=128,
        batch=16,
        bptt=20,
        steps=8000,
        embedding_dropout=0.2,
        state_dropout=0.1,
        output_dropout=0.2,
    ),
    "paper": Arguments(),
    "smoke": Arguments(
        scale="smoke",
        text="generated",
        vocabulary=12,
        train_words=1000,
        evaluation_words=300,
        units=8,
        batch=4,
        bptt=5,
        steps=98,
        adam_rates=(1e-2, 3e-2),
        sgd_rates=(1e-1, 3e-1),
        sign_rates=(1e-1, 3e-1),
        adaptive=False,
        seeds=2,
    ),
}


def read(arguments: Arguments) -> Corpus:
    """Return the text that was asked for."""
    if arguments.text == "generated":
        return generated(arguments.vocabulary, arguments.train_words, arguments.evaluation_words)
    corpus = load_ptb(arguments.data_dir, arguments.vocabulary)
    few = arguments.evaluation_words
    return corpus._replace(
        train=corpus.train[: arguments.train_words],
        validation=corpus.validation[:few],
        test=corpus.test[:few],
    )


def make_task(arguments: Arguments, corpus: Corpus) -> Task:
    """Return the task of the network that was asked for."""
    a = arguments
    model = WordLSTM(
        len(corpus.words),
        a.units,
        a.embedding_ratio,
        a.embedding_dropout,
        a.state_dropout,
        a.output_dropout,
        a.init_scale,
    )
    return language_task(model, corpus, a.batch, a.bptt, a.state_reset)


# What is shown.

LOG = Display("log perplexity", 0.0, np.negative, lower=True, digits=3)  # of the differences


def display(vocabulary: int) -> Display:
    """Return how scores are shown; a run that diverged counts as a blind guess."""
    chance = -math.log(vocabulary)
    return Display("perplexity", chance, lambda score: np.exp(-score), lower=True, digits=1)


def display_in_picture(vocabulary: int) -> Display:
    """Return the same for the picture, where diverging runs would leave no room for the others."""
    chance = -math.log(vocabulary)
    return dataclasses.replace(
        LOG,
        title=f"log perplexity, at most {-chance:.1f}",
        chance=chance,
        of=lambda score: -np.maximum(score, chance),
    )


Differences = dict[str, dict[str, Difference | None]]  # by baseline and rival


def log_differences(outcomes: Sequence[Outcome], vocabulary: int) -> Differences:
    """Return the differences of the log test perplexities at the end, by baseline and rival."""
    log = dataclasses.replace(LOG, chance=-math.log(vocabulary))
    names = [outcome.rival.name for outcome in outcomes]
    return {
        baseline: {
            result.name: result.difference
            for result in rival_tables.measure(outcomes, baseline, log)
        }
        for baseline in BASELINES
        if baseline in names
    }


def differences_table(differences: Differences) -> Table:
    """Return the table of the differences, and beside each the one of the paper."""
    columns = ["rival"]
    for baseline in differences:
        columns += [f"log final test - {baseline} [95 %]", "the paper's"]
    rows = []
    for name in differences[BASELINES[0]]:
        row = [name]
        for baseline, column in differences.items():
            paper = math.log(TABLE_5[name].test / TABLE_5[baseline].test)
            row += [interval_text(column[name], LOG.digits)]
            row += ["" if name == baseline else f"{paper:+.{LOG.digits}f}"]
        rows.append(row)
    return text_table(columns, rows)


def verdict(differences: Differences) -> str:
    """Say what of the paper's order was found, each pair once."""
    pairs: dict[str, Difference] = {}
    for baseline, column in differences.items():
        for name, interval in column.items():
            if interval and not (baseline == "SGD" and name == "Adam"):
                pairs[f"{name} than {baseline}"] = interval
    if not pairs:
        return "Adam alone: nothing to compare."
    return (
        f"Log perplexity of the test text, {claims(pairs, lower=True)} The intervals of 95 "
        "% are not corrected for their number and do not cover the choice of the rate. The paper: "
        "PowerSign and AddSign better than SGD, worse than Adam."
    )


def train(arguments: Arguments, console: Console) -> tuple[list[Outcome], dict[str, Any]]:
    """Tune and train all rivals; return what became of them, and on what."""
    devices = select_devices(arguments.accelerator)
    corpus = read(arguments)
    task = make_task(arguments, corpus)
    rivals = [RIVALS[name] for name in arguments.rivals]
    passes = task.num_examples(task.train) // arguments.batch
    epochs = max(1, round(arguments.steps / passes))
    loop = make_loop(task, arguments.batch, epochs, rivals, devices)
    common = arguments.training() | {"platform": devices[0].platform}
    records = Records(arguments.folder / "records.jsonl", common)
    with Progress(console=console) as progress:
        seeds = range(1, arguments.seeds + 1)
        outcomes = compare(loop, rivals, arguments.settings(), epochs, seeds, records, progress)
    return outcomes, {
        "parameters": task.num_params,
        "vocabulary": len(corpus.words),
        "train_words": len(corpus.train),
        "validation_words": len(corpus.validation),
        "test_words": len(corpus.test),
        "epochs": epochs,
        "steps": loop.loop.max_steps,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "seconds": records.seconds,
    }


def setting(arguments: Arguments, facts: Mapping[str, Any]) -> str:
    """Say what was trained on what."""
    text = "Penn Treebank" if arguments.text == "ptb" else "Generated text"
    return (
        f"{text} with {facts['vocabulary']:,} words; {facts['train_words']:,} of training, "
        f"{facts['validation_words']:,} of validation and {facts['test_words']:,} of test text; "
        f"{arguments.units} units, {facts['parameters']:,} parameters; {facts['epochs']} epochs, "
        f"{facts['steps']:,} steps of {arguments.batch} x {arguments.bptt} words, all with a "
        f"cosine decay; {arguments.seeds} fresh seeds. Perplexities, mean ± standard error over "
        "the seeds. The paper's are of 10,000 words and 10M parameters: only their order, and the "
        "logarithms of their ratios, can be compared."
    )


def check(arguments: Arguments, console: Console) -> Sizes:
    """Take a step of one training, without data; print and return its sizes."""
    (device, *_) = select_devices(arguments.accelerator)
    words = arguments.batch * arguments.bptt + 1
    vocabulary = tuple(map(str, range(arguments.vocabulary)))
    text = np.arange(words, dtype=np.int32) % arguments.vocabulary
    task = make_task(arguments, Corpus(text, text, text, vocabulary))
    where = f"{arguments.units} units, {arguments.batch} x {arguments.bptt} words"
    return one_step(task, RIVALS["Adam"].rule, 1e-3, device, where, console)


def run(arguments: Arguments, console: Console) -> None:
    """Train everything, print the tables and write the results."""
    if arguments.check:
        check(arguments, console)
        return
    outcomes, facts = train(arguments, console)
    vocabulary, (baseline, *_) = facts["vocabulary"], BASELINES
    shown = display(vocabulary)
    results = rival_tables.measure(outcomes, baseline, shown)
    differences = log_differences(outcomes, vocabulary)
    paper = {name: f"{row.validation:.1f}, {row.test:.1f}" for name, row in TABLE_5.items()}
    tables = {
        "Perplexity": rival_tables.results_table(
            results, baseline, shown, paper, "the paper's validation, test"
        ),
        "Logarithm of the perplexity": differences_table(differences),
    }
    content = {
        **facts,
        "log_differences": differences,
        "rivals": rival_tables.content(results, outcomes),
    }
    notes = [verdict(differences), edge_note(results)]
    arguments.publish(console, setting(arguments, facts), tables, notes, content)
    rival_tables.draw(outcomes, display_in_picture(vocabulary), arguments.picture)


if __name__ == "__main__":
    main(run, PRESETS)
