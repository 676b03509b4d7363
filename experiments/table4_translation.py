"""Does PowerSign train a translation model better than Adam? GNMT on English-German.

Claim:    Google's neural machine translation system, trained by PowerSign in place of Adam, gets a
          better BLEU on WMT 2014 English-German (table 4). The paper's BLEU and perplexities are
          not at hand, so none stand here.
Method:   GNMT: 8 layers of the encoder, the first in both directions, attention, 8 layers of the
          decoder, 1,024 units, 32,000 shared subwords, minibatches of 128, gradients clipped to
          norm 5. Ours, for want of the paper's text: 200,000 steps, dropout 0.2, the schedule of
          the learning rate (linear cosine), the rates that are tried, byte-pair encoding, a loss
          that is the mean over the words of a minibatch, and sentences of at most 64 subwords.
          Both optimizers try three rates with one seed in a short training, with the schedule at
          its length; the rate with the lowest validation loss trains with fresh seeds, and only
          these are reported. Rates differ between the optimizers, as what they multiply does: by
          Adam it is about 1 in size, by PowerSign about the gradient. Equal seeds have equal
          weights and minibatches, so they are compared in pairs, with t intervals of 95 %.
          BLEU is sacreBLEU's on newstest2014, by beam search; perplexity is of the subwords of the
          validation set, without dropout. Sentences that are too long count in neither the
          training nor the perplexity; for BLEU they are cut.
          --scale small is another, much smaller problem: Multi30k, 29,000 captions of pictures,
          2 + 2 layers of 128 units, 4,000 subwords, a thousand steps of 32 pairs, which is little
          more than one pass; greedy decoding, test_2016_flickr. Where its rates lie was found by
          short trainings with the tuning seed, of five rates for each optimizer. Its weights start
          in +-0.3: in +-0.1, both had learnt little more than the frequencies after 200 steps.
Command:  python experiments/table4_translation.py --data-dir DIR
          python experiments/table4_translation.py --scale paper --data-dir TFDS_DIR
          python experiments/table4_translation.py --scale smoke    (generated; says nothing)
          python experiments/table4_translation.py --scale paper --check    (no data; no training
          but one step: size, shapes and memory of the full model)
          The same command goes on where an interrupted one stopped.
Time:     not yet run to its end at the small scale
Writes:   experiments/results/table4_translation_SCALE.json, .md (with translations) and .png
"""

import dataclasses
import functools
import itertools
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import EOS, PAD
from data.subwords import (
    Padded,
    Tokenizer,
    batches,
    bucket_pairs,
    pad_sources,
    to_text,
    train_subwords,
)
from data.translation import Corpus, Pairs, bleu, load_multi30k, load_wmt14
from harness.command_line import main
from harness.fit import FINISHED, fit
from harness.records import Records, write_results
from harness.statistics import difference, mean_and_error
from harness.tables import markdown
from models.gnmt import GNMT, beam_search, greedy_decode
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import nos_optax
from nos_optax.search.accelerator import select_devices

BASELINE, RIVAL = OPTIMIZERS = "Adam", "PowerSign"
TUNING_SEED = 0  # the fresh ones follow
SAMPLES = 8  # translations that are shown
LEFT_OUT = ("accelerator", "data_dir", "check", "out", "results")  # they decide no result


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare Adam and PowerSign on machine translation."""

    scale: Literal["paper", "small", "smoke"] = "small"
    """Sets all other numbers, unless they are given too."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train, one training on each device; auto takes the best that is present."""
    data: Literal["wmt14", "multi30k", "reversed"] = "wmt14"
    """The last one is generated: letters, and the same backwards."""
    data_dir: Path | None = None
    """Multi30k's folder (default: shared/data/multi30k beside the project), or that of TFDS."""
    vocabulary: int = 32_000
    """Subwords, of both languages together."""
    lengths: tuple[int, ...] = (16, 32, 64)
    """Subwords of sentences that are trained together; longer sentences are left out."""
    layers: int = 8
    """Of the encoder and of the decoder."""
    units: int = 1024
    """Of every layer."""
    dropout: float = 0.2
    """Share that is dropped."""
    init_scale: float = 0.04
    """Weights start uniform in +- this."""
    batch: int = 128
    """Sentence pairs of a minibatch."""
    max_grad_norm: float = 5.0
    """Longer gradients are shortened."""
    adam_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates that Adam tries."""
    powersign_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Learning rates that PowerSign tries; as many."""
    tuning_steps: int = 20_000
    """Steps to try a rate."""
    steps: int = 200_000
    """Steps of the trainings that are reported."""
    evaluate_every: int = 5000
    """Steps between looks at the validation set; there is one at the end too."""
    seeds: int = 3
    """Of the trainings that are reported."""
    beam: int = 4
    """Hypotheses of a translation; 1 is greedy."""
    check: bool = False
    """Train nothing: say what the model needs, and take one step if the memory suffices."""
    out: Path | None = None
    """Folder of the records and checkpoints (default: runs/table4_translation_SCALE)."""
    results: Path = Path(__file__).parent / "results"
    """Folder of the table and the picture."""

    def __post_init__(self):
        least = dict.fromkeys(
            ("batch", "tuning_steps", "steps", "evaluate_every", "seeds", "beam"), 1
        )
        for name, number in (least | {"layers": 2}).items():
            if getattr(self, name) < number:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least {number}, got {getattr(self, name)}")
        if not self.lengths or list(self.lengths) != sorted({*self.lengths}):
            raise ValueError(f"--lengths must increase, got {self.lengths}")
        if len(self.adam_rates) != len(self.powersign_rates) or not self.adam_rates:
            raise ValueError(
                "both optimizers must try the same number of rates: got --adam-rates "
                f"{self.adam_rates} and --powersign-rates {self.powersign_rates}"
            )

    @property
    def name(self) -> str:
        """Of all that is written."""
        return f"table4_translation_{self.scale}"

    @property
    def folder(self) -> Path:
        """Of the records."""
        return self.out or Path("runs") / self.name

    @property
    def rates(self) -> dict[str, tuple[float, ...]]:
        """What each optimizer tries."""
        return dict(zip(OPTIMIZERS, (self.adam_rates, self.powersign_rates), strict=True))

    def settings(self) -> dict[str, object]:
        """Return what decides the results."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in LEFT_OUT}


PRESETS = {
    "paper": Arguments(scale="paper"),
    "small": Arguments(
        data="multi30k",
        vocabulary=4000,
        lengths=(16, 24, 40),
        layers=2,
        units=128,
        dropout=0.0,
        init_scale=0.3,
        batch=32,
        adam_rates=(5e-3, 1.5e-2, 5e-2),
        powersign_rates=(0.3, 1.0, 3.0),
        tuning_steps=300,
        steps=1000,
        evaluate_every=100,
        seeds=2,
        beam=1,
    ),
    "smoke": Arguments(
        scale="smoke",
        data="reversed",
        vocabulary=300,
        lengths=(8,),
        layers=2,
        units=16,
        dropout=0.1,
        init_scale=0.1,
        batch=16,
        adam_rates=(1e-3, 1e-2),
        powersign_rates=(0.3, 1.0),
        tuning_steps=8,
        steps=24,
        evaluate_every=10,
        seeds=2,
        beam=2,
    ),
}


# The sentences.


class Text(NamedTuple):
    """What the model reads and writes.

    Attributes:
        tokenizer: of both languages.
        train: pairs, by length.
        validation: pairs, by length.
        test: sources, `int32[N, L]`, and what stands for them in both languages.
    """

    tokenizer: Tokenizer
    train: list[Padded]
    validation: list[Padded]
    test: np.ndarray
    test_pairs: Pairs


def read(arguments: Arguments) -> Corpus:
    """Return the sentences that were asked for."""
    if arguments.data == "wmt14":
        return load_wmt14(arguments.data_dir)
    if arguments.data == "multi30k":
        beside = Path(__file__).parents[2] / "shared" / "data" / "multi30k"
        return load_multi30k(arguments.data_dir or beside)
    rng = np.random.default_rng(0)
    return Corpus(*(backwards(rng, count) for count in (400, 40, 20)))


def backwards(rng: np.random.Generator, count: int) -> Pairs:
    """Return lines of three to six letters, and the same letters from the last to the first."""
    lines = [rng.choice(list("abcdefgh"), rng.integers(3, 7)) for _ in range(count)]
    return Pairs([" ".join(line) for line in lines], [" ".join(line[::-1]) for line in lines])


def prepare(arguments: Arguments) -> Text:
    """Read the sentences, and cut them into subwords.

    Raises:
        ValueError: the sentences are too few for a minibatch, or all too long.
    """
    corpus = read(arguments)
    texts = corpus.train.source + corpus.train.target
    tokenizer = train_subwords(texts, arguments.vocabulary, arguments.folder)
    train = bucket_pairs(tokenizer, corpus.train, arguments.lengths)
    if not epoch_steps(train, arguments.batch):
        raise ValueError(
            f"{len(corpus.train.source)} pairs fill no minibatch of {arguments.batch} within "
            f"--lengths {arguments.lengths}; choose a smaller --batch or longer --lengths"
        )
    validation = bucket_pairs(tokenizer, corpus.validation, arguments.lengths)
    test = pad_sources(tokenizer, corpus.test.source, arguments.lengths[-1])
    return Text(tokenizer, train, validation, test, corpus.test)


def epoch_steps(buckets: Sequence[Padded], batch: int) -> int:
    """Return the full minibatches of the pairs."""
    return sum(len(bucket.source) // batch for bucket in buckets)


# The training.


class Job(NamedTuple):
    """One training."""

    optimizer: str
    rate: float
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Of its checkpoints, and for the user."""
        return f"{self.optimizer}, rate {self.rate:g}, seed {self.seed}, {self.steps} steps"


class Batch(NamedTuple):
    """A minibatch, and all that makes its step differ from others: one program takes them all."""

    source: Any  # int32[B, L]
    target: Any  # int32[B, L + 1]
    rate: Any  # float32, of this step
    seed: Any  # int32
    number: Any  # int32, of the step


class State(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any


def make_model(arguments: Arguments, vocabulary: int) -> GNMT:
    """Return the network."""
    return GNMT(
        vocabulary, arguments.units, arguments.layers, arguments.dropout, arguments.init_scale
    )


def make_optimizer(name: str, max_grad_norm: float) -> optax.GradientTransformation:
    """Return an optimizer whose updates a step multiplies by its learning rate."""
    optimizer = {"Adam": optax.adam(1.0), "PowerSign": nos_optax.powersign(1.0)}[name]
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start(model: GNMT, name: str, max_grad_norm: float, key: jax.Array) -> State:
    """Return an optimizer's state before the first step."""
    source, target = np.full((1, 2), EOS), np.full((1, 3), EOS)
    params = model.init(key, source, target, train=False)["params"]
    return State(params, make_optimizer(name, max_grad_norm).init(params))


@functools.partial(jax.jit, static_argnames="model")
def total(
    model: GNMT, params: Any, source: jax.Array, target: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the log-likelihood of all target tokens together, and their number.

    Args:
        model: the network.
        params: its parameters.
        source: `int32[B, L]`.
        target: `int32[B, L + 1]`.
        key: of what is dropped out; nothing without it.
    """
    train = key is not None
    rngs = {"dropout": key} if train else None
    scores: Any = model.apply({"params": params}, source, target, train=train, rngs=rngs)
    return scores.sum(), jnp.sum(target[:, 1:] != PAD)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def step(
    model: GNMT, name: str, max_grad_norm: float, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    """Take an optimizer's step; the loss is the mean over the target's tokens, in nats."""

    def loss(params):
        key = jax.random.fold_in(jax.random.key(batch.seed), batch.number)
        scores, tokens = total(model, params, batch.source, batch.target, key)
        return -scores / tokens

    value, gradients = jax.value_and_grad(loss)(state.params)
    optimizer = make_optimizer(name, max_grad_norm)
    updates, after = optimizer.update(gradients, state.optimizer, state.params)
    updates = optax.tree.scale(batch.rate, updates)
    return State(optax.apply_updates(state.params, updates), after), {"loss": value}


def minibatches(buckets: Sequence[Padded], job: Job, batch: int, first: int = 0) -> Iterator[Batch]:
    """Yield a training's minibatches from a step on, without end."""
    decay = nos_optax.linear_cosine(job.rate, job.steps)
    rates = np.asarray(decay(jnp.arange(job.steps)), np.float32)
    length = epoch_steps(buckets, batch)

    def pairs() -> Iterator[Padded]:
        for epoch in itertools.count(first // length):
            of_epoch = batches(buckets, batch, seed=1000 * job.seed + epoch)
            yield from itertools.islice(of_epoch, first % length * (epoch == first // length), None)

    for number, (source, target) in enumerate(pairs(), first):
        rate = rates[min(number, job.steps - 1)]
        yield Batch(source, target, rate, np.int32(job.seed), np.int32(number))


class Trainer:
    """Trains jobs that are not in the records yet, side by side: each has a device to itself."""

    def __init__(
        self,
        arguments: Arguments,
        text: Text,
        devices: Sequence[jax.Device],
        records: Records,
        progress: Progress,
    ):
        self.arguments, self.text = arguments, text
        self.records, self.progress = records, progress
        self.model = make_model(arguments, text.tokenizer.get_vocab_size())
        self.devices: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.workers = len(devices)
        self.recording, self.stopped = threading.Lock(), threading.Event()

    def train(self, jobs: Sequence[Job]) -> list[dict]:
        """Return what became of the jobs: curve, last validation loss, translations if asked."""
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                return list(pool.map(self._train_once, jobs))
            except BaseException:  # one has failed, or Ctrl-C: the others shall not go on for hours
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _train_once(self, job: Job) -> dict:
        stored = self.records.get(job._asdict())
        if stored is None:
            folder = self.arguments.folder / "checkpoints" / job.name
            device = self.devices.get()
            try:
                stored = self._train(job, folder, device)
            finally:
                self.devices.put(device)
            with self.recording:
                self.records.append(job._asdict(), stored)
            shutil.rmtree(folder, ignore_errors=True)
        return job._asdict() | stored

    def _train(self, job: Job, folder: Path, device: jax.Device) -> dict:
        begun = time.perf_counter()
        which = self.model, job.optimizer, self.arguments.max_grad_norm
        trained = fit(
            functools.partial(step, *which),
            jax.device_put(start(*which, jax.random.key(job.seed)), device),
            functools.partial(self._stream, job),
            job.steps,
            folder,
            self.progress,
            lambda state: {"validation": self._validate(state.params)},
            self.arguments.evaluate_every,
        )
        finished = trained.status == FINISHED
        values = {
            "curve": trained.curve,
            "status": trained.status,
            "seconds": time.perf_counter() - begun,  # since the last start
            "validation": trained.curve[-1]["validation"] if finished else math.inf,
        }
        if job.seed == TUNING_SEED:
            return values
        # Who has diverged translates nothing.
        texts = self._translate(trained.state.params) if finished else [""] * len(self.text.test)
        test = bleu(texts, self.text.test_pairs.target)
        return values | {"bleu": test, "translations": texts[:SAMPLES]}

    def _stream(self, job: Job, first: int) -> Iterator[Batch]:
        stream = minibatches(self.text.train, job, self.arguments.batch, first)
        return itertools.takewhile(lambda _: not self.stopped.is_set(), stream)

    def _validate(self, params: Any) -> float:
        """Return the validation loss per token, in nats."""
        sums = [
            total(self.model, params, *batch)
            for batch in batches(self.text.validation, self.arguments.batch)
        ]
        scores, tokens = (float(sum(column)) for column in zip(*sums, strict=True))
        return -scores / tokens

    def _translate(self, params: Any) -> list[str]:
        """Return the translations of the test sentences."""
        length, rows = self.arguments.lengths[-1], self.arguments.batch
        written = []
        for i in range(0, len(self.text.test), rows):
            part = self.text.test[i : i + rows]
            source = np.pad(part, ((0, rows - len(part)), (0, 0)), constant_values=PAD)
            if self.arguments.beam == 1:
                tokens = greedy_decode(self.model, params, source, length)
            else:
                tokens = beam_search(self.model, params, source, length, self.arguments.beam)
            written.append(np.asarray(tokens)[: len(part)])
        return to_text(self.text.tokenizer, np.concatenate(written))


def train_all(arguments: Arguments, trainer: Trainer) -> tuple[list[dict], list[dict]]:
    """Tune both optimizers, and train with the best rates; return both stages' trainings."""
    tuning = trainer.train(
        [
            Job(name, rate, TUNING_SEED, arguments.tuning_steps)
            for name, rates in arguments.rates.items()
            for rate in rates
        ]
    )
    best = {name: best_rate(tuning, name) for name in OPTIMIZERS}
    runs = trainer.train(
        [
            Job(name, best[name], TUNING_SEED + 1 + i, arguments.steps)
            for i in range(arguments.seeds)
            for name in OPTIMIZERS
        ]
    )
    return tuning, runs


def best_rate(tuning: Sequence[dict], name: str) -> float:
    """Return an optimizer's rate with the lowest validation loss; the lowest of equals."""
    own = [training for training in tuning if training["optimizer"] == name]
    return min(own, key=lambda training: (training["validation"], training["rate"]))["rate"]


# What is shown.


def measure(arguments: Arguments, runs: Sequence[dict]) -> dict[str, dict]:
    """Return the rows of the table, by optimizer."""
    rows = {}
    for name in OPTIMIZERS:
        own = [run for run in runs if run["optimizer"] == name]
        losses, scores = ([run[key] for run in own] for key in ("validation", "bleu"))
        rows[name] = {
            "rate": own[0]["rate"],
            "rate_at_an_end": len(arguments.rates[name]) > 1
            and own[0]["rate"] in (min(arguments.rates[name]), max(arguments.rates[name])),
            "n": len(own),
            "diverged": sum(run["status"] != FINISHED for run in own),
            "validation": losses,
            "perplexity": np.exp(losses).tolist(),
            "bleu": scores,
        }
    return rows


def differences(rows: dict[str, dict]) -> dict[str, tuple[float, float, float]]:
    """Return PowerSign's less Adam's, seed by seed; nothing where one seed or a divergence is."""
    if rows[RIVAL]["n"] < 2 or any(row["diverged"] for row in rows.values()):
        return {}
    return {
        key: difference(rows[RIVAL][key], rows[BASELINE][key]) for key in ("validation", "bleu")
    }


def make_table(rows: dict[str, dict]) -> Table:
    """Return the table of both optimizers."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for column in ("rate", "n", "validation perplexity", "test BLEU", "BLEU in the paper"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        cells = (spread(row[key]) for key in ("perplexity", "bleu"))
        table.add_row(name, f"{row['rate']:g}", str(row["n"]), *cells, "not at hand")
    return table


def spread(values: Sequence[float]) -> str:
    """Return mean and standard error; of one value itself."""
    if len(values) < 2 or not np.isfinite(values).all():
        return ", ".join(f"{value:.2f}" for value in values)
    return "{:.2f} ± {:.2f}".format(*mean_and_error(values))


def tuning_table(tuning: Sequence[dict]) -> Table:
    """Return the table of all rates."""
    table = Table(box=box.SIMPLE)
    table.add_column("optimizer")
    for column in ("rate", "steps", "validation perplexity"):
        table.add_column(column, justify="right")
    for row in tuning:
        perplexity = f"{np.exp(row['validation']):.2f}" if row["status"] == FINISHED else "diverged"
        table.add_row(row["optimizer"], f"{row['rate']:g}", str(row["steps"]), perplexity)
    return table


def verdict(rows: dict[str, dict]) -> str:
    """Say what the numbers say, and what the reader should doubt."""
    sentences = []
    for key, (mean, low, high) in differences(rows).items():
        what = {"bleu": "test BLEU", "validation": "validation loss"}[key]
        found = "undecided" if low <= 0 <= high else "more" if mean > 0 else "less"
        sentences.append(
            f"{RIVAL} less {BASELINE}, {what}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], {found}."
        )
    if not sentences:
        sentences.append("No interval: one seed alone, or a training diverged.")
    elif rows[RIVAL]["n"] < 5:
        sentences.append(f"With {rows[RIVAL]['n']} seeds these intervals are wide.")
    sentences += [
        f"{name}'s best rate, {row['rate']:g}, is at an end of those tried."
        for name, row in rows.items()
        if row["rate_at_an_end"]
    ]
    sentences += [
        f"{row['diverged']} of {row['n']} trainings by {name} diverged."
        for name, row in rows.items()
        if row["diverged"]
    ]
    return " ".join(sentences)


def samples(text: Text, runs: Sequence[dict]) -> str:
    """Return translations by the model with the lowest validation loss, as Markdown."""
    best = min(runs, key=lambda run: run["validation"])
    table = Table("source", "reference", "translation")
    shown = zip(text.test_pairs.source, text.test_pairs.target, best["translations"], strict=False)
    for sentences in shown:
        table.add_row(*sentences)
    return (
        f"The first test sentences, by the model with the lowest validation loss of all "
        f"({best['optimizer']}, seed {best['seed']}, BLEU {best['bleu']:.2f}):\n\n{markdown(table)}"
    )


def draw(arguments: Arguments, tuning: Sequence[dict], runs: Sequence[dict], path: Path) -> None:
    """Draw the validation loss over the steps: tuning by the rate, fresh seeds in black."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(OPTIMIZERS), sharey=True)
    for axes, name in zip(panels, OPTIMIZERS, strict=True):
        for run in (*tuning, *runs):
            points = [(e["step"], e["validation"]) for e in run["curve"] if "validation" in e]
            if run["optimizer"] != name or not points:
                continue
            if run["seed"] == TUNING_SEED:
                label = f"rate {run['rate']:g}"
                style = {"color": f"C{arguments.rates[name].index(run['rate'])}", "label": label}
            else:
                label = f"rate {run['rate']:g}, fresh seeds" if run["seed"] == 1 else None
                style = {"color": "k", "label": label}
            axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, **style)
        axes.set(title=name, xlabel="step")
        axes.legend(frameon=False)
    panels[0].set_ylabel("validation loss, nats per subword")
    figure.savefig(path, dpi=150)


# What the model needs.


def check(arguments: Arguments, console: Console) -> dict[str, dict[str, float]]:
    """Say how large the model is; take one step by each optimizer, if the memory suffices.

    Raises:
        ValueError: a step changes the shapes of the state, or makes a parameter nan or inf.
    """
    model = make_model(arguments, arguments.vocabulary)
    return {name: check_optimizer(arguments, model, name, console) for name in OPTIMIZERS}


def check_optimizer(
    arguments: Arguments, model: GNMT, name: str, console: Console
) -> dict[str, float]:
    """Return and print what a training by an optimizer needs, and what one step does."""
    which, key = (model, name, arguments.max_grad_norm), jax.random.key(0)
    state = jax.eval_shape(functools.partial(start, *which), key)
    batch, few = example(arguments, arguments.batch), example(arguments, 2)
    after, _ = jax.eval_shape(functools.partial(step, *which), state, batch)
    if jax.tree.map(jnp.shape, after) != jax.tree.map(jnp.shape, state):
        raise ValueError(f"a step by {name} changes the shapes of its state")
    facts = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "parameters_bytes": size(state.params),
        "optimizer_bytes": size(state.optimizer),
        "scratch_bytes": scratch(step.lower(*which, state, batch).compile()),
    }
    console.print(describe(name, facts, batch.source.shape))
    compiled = step.lower(*which, state, few).compile()
    needed, free = size(state) + scratch(compiled), free_memory()
    if free is not None and needed > free:
        console.print(f"no step: it needs {gigabytes(needed)}, and {gigabytes(free)} are free")
        return facts
    facts |= one_step(compiled, start(*which, key), few)
    console.print(
        f"one step on 2 pairs of this length: {facts['seconds']:.1f} s, loss {facts['loss']:.3f} "
        f"(of a blind guess, {math.log(model.vocabulary):.3f})"
    )
    return facts


def one_step(compiled: Callable, state: State, batch: Batch) -> dict[str, float]:
    """Return the loss of a step, and its seconds."""
    begun = time.perf_counter()
    state, metrics = jax.block_until_ready(compiled(state, batch))
    seconds = time.perf_counter() - begun
    if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)):
        raise ValueError("a step makes parameters that are not finite")
    return {"loss": float(metrics["loss"]), "seconds": seconds}


def example(arguments: Arguments, rows: int) -> Batch:
    """Return a minibatch of the longest sentences, at random."""
    length, rng = arguments.lengths[-1], np.random.default_rng(0)
    source, target = (
        rng.integers(EOS, arguments.vocabulary, (rows, width), np.int32)
        for width in (length, length + 1)
    )
    return Batch(source, target, np.float32(1e-3), np.int32(0), np.int32(0))


def describe(name: str, facts: dict[str, float], shape: tuple[int, int]) -> str:
    """Return what a training by an optimizer needs, as text."""
    parts = [facts[f"{part}_bytes"] for part in ("parameters", "optimizer", "scratch")]
    parameters, optimizer, rest = map(gigabytes, parts)
    return (
        f"{name}: {facts['parameters']:,} parameters, {parameters}; the optimizer's state "
        f"{optimizer}; gradients and activations of {shape[0]} x {shape[1]} tokens {rest}; "
        f"together {gigabytes(sum(parts))}"
    )


def scratch(compiled: jax.stages.Compiled) -> int:
    """Return the bytes that a program needs beside what it is given; 0 if XLA does not tell."""
    analysis = compiled.memory_analysis()
    return analysis.temp_size_in_bytes if analysis else 0


def size(tree: Any) -> int:
    """Return the bytes of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def gigabytes(number: float) -> str:
    """Return bytes as text."""
    return f"{number / 1e9:.2f} GB"


def free_memory() -> int | None:
    """Return the free bytes of the first device; None where it does not tell."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def run(arguments: Arguments, console: Console) -> None:
    """Train everything, print the tables and write the results."""
    begun = time.perf_counter()
    devices = select_devices(arguments.accelerator)
    if arguments.check:
        check(arguments, console)
        return
    text = prepare(arguments)
    records = Records(arguments.folder / "records.jsonl", arguments.settings())
    with Progress(console=console) as progress:
        trainer = Trainer(arguments, text, devices, records, progress)
        tuning, runs = train_all(arguments, trainer)

    rows, seconds = measure(arguments, runs), time.perf_counter() - begun
    begin = functools.partial(start, trainer.model, BASELINE, arguments.max_grad_norm)
    params = jax.eval_shape(begin, jax.random.key(0)).params
    facts = {
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "vocabulary": trainer.model.vocabulary,
        "train_pairs": sum(len(bucket.source) for bucket in text.train),
        "validation_pairs": sum(len(bucket.source) for bucket in text.validation),
        "test_pairs": len(text.test),
        "epochs": arguments.steps / epoch_steps(text.train, arguments.batch),
    }
    titles = (
        f"{arguments.data}: {facts['train_pairs']:,} pairs, {arguments.layers} + "
        f"{arguments.layers} layers of {arguments.units} units, {facts['parameters']:,} "
        f"parameters, {arguments.steps:,} steps ({facts['epochs']:.1f} epochs); mean ± standard "
        f"error over n seeds",
        f"The rates that were tried, after {arguments.tuning_steps:,} steps with one seed",
    )
    tables, doubts = (make_table(rows), tuning_table(tuning)), verdict(rows)
    console.print(titles[0], tables[0], doubts, titles[1], tables[1])
    content = {
        "arguments": arguments.settings(),
        **facts,
        "seconds": seconds,
        "optimizers": rows,
        "differences": differences(rows),
        "tuning": tuning,
        "runs": runs,
    }
    sections = [f"{a}\n\n{markdown(b)}" for a, b in zip(titles, tables, strict=True)]
    whole = "\n".join([sections[0], f"{doubts}\n", sections[1], samples(text, runs)])
    write_results(arguments.results, arguments.name, content, whole)
    draw(arguments, tuning, runs, arguments.results / f"{arguments.name}.png")


if __name__ == "__main__":
    main(run, PRESETS)
