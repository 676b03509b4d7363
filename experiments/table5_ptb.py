"""Do the paper's rules train a language model well? An LSTM on Penn Treebank.

Claim:    the optimizers that were found on small ConvNets are tried on an LSTM language model of
          Penn Treebank's words (table 5). There the paper itself loses to Adam; its perplexities
          are not at hand, so none stand here.
Method:   the paper's sizes: about 10M parameters, of which we make one layer of 650 units (the
          model's file says why), variational dropout, tied weights, backpropagation through 35
          words, minibatches of 64, gradients clipped to norm 5, 150,000 steps (rounded to whole
          passes over the text). Ours, for want of its text: the rates of dropout and the initial
          weights; a loss that is summed over the words of a row and averaged over the rows, as is
          usual for this text and decides how often the clipping acts; seven learning rates from
          1e-5 to 10, the same for everyone; five fresh seeds.
          The state of the network goes from minibatch to minibatch, and is reset where the text
          begins anew. Perplexity is that of single words, without dropout; the text is read as 20
          parts, each from a state of zero.
          Every rival tries every rate with one seed to the end; the rate with the best validation
          perplexity at the end trains again with fresh seeds, and only these are reported.
          Perplexities are means with standard errors over the fresh seeds. Differences are of the
          logarithm of the test perplexity at the end, seed by seed, with t intervals of 95 % that
          are not corrected for their number; which rivals are better or worse is told by Holm's
          procedure. A run that diverged counts as guessing blindly.
          --scale small is another, much smaller problem: the 2,000 most frequent words (all others
          become <unk>, so its perplexities are not comparable with any from 10,000 words), the
          first 80,000 words of the training text, 20,000 of each other, 64 units, and five rates.
Command:  python experiments/table5_ptb.py --data-dir DIR
          python experiments/table5_ptb.py --scale paper --data-dir DIR
          python experiments/table5_ptb.py --scale paper --check   (takes one step, without data)
          python experiments/table5_ptb.py --scale smoke     (generated text; says nothing)
          DIR holds ptb.train.txt, ptb.valid.txt and ptb.test.txt. The same command goes on where
          an interrupted one stopped.
Time:     small: about 5 minutes on 2 cores (21 on a machine shared with ten other jobs).
          paper: for accelerators, and not run here: 10 rivals with 7 rates and 5 seeds are 120
          trainings of 150,000 steps, each step 3 s on one core;
          --rivals chooses some of them. One training keeps 151 MiB, and a step takes 174 MiB more.
Writes:   experiments/results/table5_ptb_SCALE.json, .md and .png
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from data.ptb import Corpus, batchify, load_ptb
from harness import rival_tables
from harness.command_line import main
from harness.records import Records, write_results
from harness.rival_tables import Display, edge_note, interval_text
from harness.tables import markdown
from harness.tuning import Outcome, Rival, compare
from models.ptb_lstm import Params, State, WordLSTM
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import nos_optax
from nos_optax.grammar import encode, program_streams
from nos_optax.population import Task, TrainingGrid
from nos_optax.population.training import Candidate, new_child, step
from nos_optax.search import select_devices

RULES = {
    "Adam": "adam",
    "SGD": "sgd",
    "Momentum": "momentum",
    "PowerSign": "powersign",
    "PowerSign-ld": "powersign_ld",
    "PowerSign-cd": "powersign_cd",
    "AddSign": "addsign",
    "AddSign-ld": "addsign_ld",
    "AddSign-cd": "addsign_cd",
}
RIVALS = {
    rival.name: rival
    for name, rule in RULES.items()
    for rival in (
        Rival(name, str(nos_optax.rules[rule].rule)),
        Rival(f"{name}+cosine", str(nos_optax.rules[rule].rule), "cosine"),
    )
}
BASELINES = ("Adam", "Adam+cosine")
MAX_GRAD_NORM = 5.0
BLOCK = 5  # words of a row whose scores of all words are in memory at once
CACHED = 2**20  # numbers: as many scores stay in a core's cache, so need no blocks
ROWS = 20  # parts of the validation and the test text
NOT_MEASURED = (
    "data_dir",
    "out",
    "results",
    "check",
    "capacity",
)  # they say nothing about the results


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare optimizers on a language model of Penn Treebank."""

    scale: Literal["paper", "small", "smoke"] = "paper"
    """Sets all other numbers, unless they are given too."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train; auto takes the best device that is present."""
    text: Literal["ptb", "generated"] = "ptb"
    """Penn Treebank, or a random text that needs no data."""
    data_dir: Path = Path(__file__).parents[2] / "shared" / "data" / "ptb"
    """Folder of ptb.train.txt, ptb.valid.txt and ptb.test.txt."""
    vocabulary: int = 10_000
    """Words to tell apart; the rarer ones become <unk>."""
    train_words: int | None = None
    """Length of the training text, from its beginning (default: all)."""
    evaluation_words: int | None = None
    """Length of the validation and of the test text, from their beginning (default: all)."""
    units: int = 650
    """Of the LSTM and the embedding."""
    batch: int = 64
    """Rows of a minibatch."""
    bptt: int = 35
    """Words in a row, a multiple of 5."""
    steps: int = 150_000
    """Of each training, rounded to whole passes over the text."""
    rivals: tuple[str, ...] = (
        *("Adam", "Adam+cosine", "SGD", "SGD+cosine"),
        *("PowerSign", "PowerSign+cosine", "PowerSign-cd"),
        *("AddSign", "AddSign+cosine", "AddSign-ld"),
    )
    """What is compared: Adam and others of Adam, SGD, Momentum, PowerSign, AddSign, the last two
    also with -ld or -cd; each also with +cosine."""
    rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Learning rates of every rival."""
    seeds: int = 5
    """Fresh seeds for what is reported; at least 2."""
    capacity: int = 10
    """Trainings at a time; all their weights are kept."""
    check: bool = False
    """Only take one step of one training, and report its size, memory and time; no data is read."""
    out: Path | None = None
    """Folder of the records (default: runs/table5_ptb_SCALE)."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the table and the picture."""

    def __post_init__(self):
        if self.bptt < 1 or self.bptt % BLOCK:
            raise ValueError(f"--bptt must be a multiple of {BLOCK}, got {self.bptt}")
        if self.seeds < 2:
            raise ValueError(f"--seeds must be at least 2, got {self.seeds}")
        if not self.rates:
            raise ValueError("--rates is empty: give at least one learning rate")
        unknown = [name for name in self.rivals if name not in RIVALS]
        if unknown or BASELINES[0] not in self.rivals:
            raise ValueError(
                f"--rivals must be {BASELINES[0]} and others of {'; '.join(RIVALS)}; "
                f"got {'; '.join(self.rivals)}"
            )

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"table5_ptb_{self.scale}"

    def measured(self) -> dict[str, object]:
        """Return what decides the results."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NOT_MEASURED}


PRESETS = {
    "small": Arguments(
        scale="small",
        vocabulary=2000,
        train_words=80_000,
        evaluation_words=20_000,
        units=64,
        batch=16,
        bptt=20,
        steps=1000,
        rates=(1e-3, 1e-2, 1e-1, 1.0, 10.0),
        seeds=3,
        capacity=50,
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
        rates=(1e-2, 1e-1),
        seeds=2,
        capacity=20,
    ),
}


# The text.


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


def generated(vocabulary: int, train_words: int | None, evaluation_words: int | None) -> Corpus:
    """Return a text in which three words, all equally likely, can follow each word."""
    rng = np.random.default_rng(0)
    followers = rng.integers(vocabulary, size=(vocabulary, 3))

    def stream(length: int) -> np.ndarray:
        words = [0]
        for choice in rng.integers(3, size=length - 1):
            words.append(followers[words[-1], choice])
        return np.array(words, np.int32)

    few = evaluation_words or 1000
    words = tuple(map(str, range(vocabulary)))
    return Corpus(stream(train_words or 10_000), stream(few), stream(few), words)


def minibatches(ids: np.ndarray, batch: int, bptt: int) -> tuple[np.ndarray, ...]:
    """Lay out a text so that `batch` rows in succession are a minibatch, and go on in the next.

    Returns:
        Inputs and targets `int32[S batch, bptt]`, and `bool[S batch]`: the text begins here.
    """
    inputs, targets = batchify(ids, batch, bptt)
    first = np.arange(len(inputs) * batch) < batch
    return inputs.reshape(-1, bptt), targets.reshape(-1, bptt), first


def long_rows(ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """Cut a text into a few long rows, of whole blocks: targets beyond a row's end are -1."""
    (inputs,), (targets,) = batchify(ids, ROWS, (len(ids) - 1) // ROWS)
    padding = (0, 0), (0, -inputs.shape[1] % BLOCK)
    targets = np.pad(targets, padding, constant_values=-1)
    return np.pad(inputs, padding), targets, np.ones(ROWS, bool)


# The task.


def score(
    model: WordLSTM,
    params: Params,
    carry: list[State],
    inputs: jax.Array,
    targets: jax.Array,
    key: jax.Array | None = None,
) -> tuple[jax.Array, list[State]]:
    """Return the model's `log_likelihoods`, block by block where `[B, T, V]` would be large.

    The gradient computes a block's probabilities of all words again. The key is the same in all
    blocks, and so are the masks.
    """
    if targets.size * model.vocabulary <= CACHED:
        return model.log_likelihoods(params, carry, inputs, targets, key)

    def block(carry, words):
        scores, carry = model.log_likelihoods(params, carry, *words, key)
        return carry, scores

    def cut(x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1, BLOCK).swapaxes(0, 1)

    step = jax.checkpoint(block, prevent_cse=False)
    carry, scores = jax.lax.scan(step, carry, (cut(inputs), cut(targets)))
    return scores.swapaxes(0, 1).reshape(inputs.shape), carry


def make_task(arguments: Arguments, corpus: Corpus) -> Task:
    """Return the task of the network that was asked for."""
    model = WordLSTM(len(corpus.words), arguments.units)
    return language_task(model, corpus, arguments.batch, arguments.bptt)


def language_task(model: WordLSTM, corpus: Corpus, batch: int, bptt: int) -> Task:
    """Return the task: predict the next word; the score is its mean log-likelihood in nats."""

    def init(key):
        return model.init(key), model.zero_carry(batch)

    def loss(params, carry, rows, key):
        inputs, targets, first = rows
        carry = jax.tree.map(lambda x: jnp.where(first[:, None], 0.0, x), carry)
        scores, carry = score(model, params, carry, inputs, targets, key)
        return -scores.sum(axis=1).mean(), carry

    def metric(params, carry, rows):
        inputs, targets, _ = rows
        scores, _ = score(model, params, model.zero_carry(len(inputs)), inputs, targets)
        return jnp.mean(scores, axis=1, where=targets >= 0)

    return Task(
        "words",
        init,
        loss,
        metric,
        train=minibatches(corpus.train, batch, bptt),
        validation=long_rows(corpus.validation),
        test=long_rows(corpus.test),
        chance=-math.log(model.vocabulary),
        perfect=0.0,
        shuffle=False,
        max_grad_norm=MAX_GRAD_NORM,
        evaluation_batch=ROWS,
    )


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


def log_differences(
    outcomes: Sequence[Outcome], vocabulary: int
) -> dict[str, dict[str, tuple[float, float, float] | None]]:
    """Return, by baseline and rival, the difference of the log test perplexities at the end."""
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


def differences_table(differences: Mapping[str, Mapping]) -> Table:
    """Return the table of the differences."""
    table = Table(box=box.SIMPLE)
    table.add_column("rival")
    for baseline in differences:
        table.add_column(f"log final test - {baseline} [95 %]", justify="right")
    for name in differences[BASELINES[0]]:
        cells = (interval_text(column[name], LOG.digits) for column in differences.values())
        table.add_row(name, *cells)
    return table


def train(arguments: Arguments, console: Console) -> tuple[list[Outcome], dict[str, Any]]:
    """Tune and train all rivals; return what became of them, and on what."""
    devices = select_devices(arguments.accelerator)
    corpus = read(arguments)
    task = make_task(arguments, corpus)
    rivals = [RIVALS[name] for name in arguments.rivals]
    grid = TrainingGrid(
        task,
        arguments.batch,
        arguments.capacity,
        iterations=max(len(encode(rival.rule).array) for rival in rivals),
        devices=devices,
    )
    epochs = max(1, round(arguments.steps / grid.epoch_steps))
    folder = arguments.out or Path("runs") / arguments.name
    measured = arguments.measured() | {"platform": devices[0].platform}
    records = Records(folder / "records.jsonl", measured)
    with Progress(console=console) as progress:
        seeds = range(1, arguments.seeds + 1)
        outcomes = compare(grid, rivals, arguments.rates, epochs, seeds, records, progress)
    return outcomes, {
        "parameters": task.num_params,
        "vocabulary": len(corpus.words),
        "train_words": len(corpus.train),
        "validation_words": len(corpus.validation),
        "test_words": len(corpus.test),
        "epochs": epochs,
        "steps": epochs * grid.epoch_steps,
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
        f"{facts['steps']:,} steps of {arguments.batch} x {arguments.bptt} words; "
        f"{len(arguments.rates)} learning rates, {arguments.seeds} fresh seeds. Perplexities, "
        "mean ± standard error over the seeds."
    )


def check(arguments: Arguments, console: Console) -> dict[str, float]:
    """Compile one step of one training, without data, and take it; print and return its sizes.

    Returns:
        Number of parameters, bytes of a training's arrays, bytes that a step needs at its peak
        beside them, seconds of compiling and of the step, and the loss per word before and after.
    """
    (device, *_) = select_devices(arguments.accelerator)
    words = arguments.batch * arguments.bptt + 1
    vocabulary = tuple(map(str, range(arguments.vocabulary)))
    text = np.arange(words, dtype=np.int32) % arguments.vocabulary
    task = make_task(arguments, Corpus(text, text, text, vocabulary))
    program = jnp.asarray(encode(RIVALS["Adam"].rule).array)
    key = jax.random.key(0)
    candidate = Candidate(program, program_streams(program), jnp.float32(1e-3))

    def one_step(child):
        return step(task, child, candidate, task.train, jnp.int32(2), key, key)

    with jax.default_device(device):
        child = jax.jit(functools.partial(new_child, task))(key)
        start = time.perf_counter()
        compiled = jax.jit(one_step, donate_argnums=0).lower(child).compile()
        compile_seconds = time.perf_counter() - start
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(child))
        child, before = compiled(child)
        start = time.perf_counter()
        child, after = jax.block_until_ready(compiled(child))
        step_seconds = time.perf_counter() - start
    memory: Any = compiled.memory_analysis()
    sizes = {
        "parameters": task.num_params,
        "training_bytes": size,
        "step_bytes": memory.temp_size_in_bytes,
        "compile_seconds": compile_seconds,
        "step_seconds": step_seconds,
        "loss_before": float(before) / arguments.bptt,
        "loss_after": float(after) / arguments.bptt,
    }
    console.print(
        f"{arguments.units} units, {arguments.batch} x {arguments.bptt} words on "
        f"{device.device_kind}: {sizes['parameters']:,} parameters; {size / 2**20:,.0f} MiB for "
        f"each of the {arguments.capacity} trainings at a time; "
        f"{sizes['step_bytes'] / 2**20:,.0f} MiB more for a step; compiled in "
        f"{compile_seconds:.0f} s, {step_seconds:.2g} s a step; the loss per word on the same "
        f"minibatch goes from {sizes['loss_before']:.3f} to {sizes['loss_after']:.3f}"
    )
    return sizes


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
    logs = [r._replace(difference=differences[baseline][r.name]) for r in results]
    tables = {
        "Perplexity": rival_tables.results_table(results, baseline, shown, paper={}),
        "Logarithm of the perplexity": differences_table(differences),
    }
    notes = [rival_tables.verdict(logs, baseline, LOG), edge_note(results, arguments.rates)]

    title = setting(arguments, facts)
    console.print(title)
    for name, table in tables.items():
        console.print(name, table)
    console.print("\n".join(notes))
    console.print(f"{facts['seconds']:.0f} s")
    content = {
        "arguments": arguments.measured(),
        **facts,
        "log_differences": differences,
        "rivals": rival_tables.content(results, outcomes),
    }
    sections = [f"{name}:\n\n{markdown(table)}" for name, table in tables.items()]
    text = "\n".join([f"{title}\n", *sections, *[f"{note}\n" for note in notes]])
    write_results(arguments.results, arguments.name, content, text)
    picture = arguments.results / f"{arguments.name}.png"
    rival_tables.draw(outcomes, display_in_picture(vocabulary), picture)


if __name__ == "__main__":
    main(run, PRESETS)
