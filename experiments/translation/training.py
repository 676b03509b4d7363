"""Training a translation model, for `table4_translation.py`: minibatches, steps and jobs."""

import functools
import itertools
import math
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from data import EOS, PAD
from data.subwords import Padded, batches, to_text
from data.translation import bleu
from harness.fit import FINISHED, fit
from models.gnmt import GNMT, beam_search, greedy_decode
from rich.progress import Progress

import nos_optax
from nos_optax.compare.records import Records
from translation.text import Text, epoch_steps

BASELINE, RIVAL = OPTIMIZERS = "Adam", "PowerSign"
TUNING_SEED = 0  # the fresh ones follow
SAMPLES = 8  # translations that are shown
RECORD_EVERY = 100  # updates between entries of a curve


class Setup(NamedTuple):
    """What a training is, but for its model and its job."""

    batch: int  # sentence pairs of a minibatch
    replicas: int  # minibatches of an update
    max_grad_norm: float
    evaluate_every: int  # updates
    length: int  # of the longest sentences and of translations, in subwords
    beam: int  # hypotheses of a translation; 1 is greedy
    folder: Path  # checkpoints are in it


class Job(NamedTuple):
    """One training."""

    optimizer: str
    rate: float
    seed: int
    steps: int  # updates

    @property
    def name(self) -> str:
        """Of its checkpoints, and for the user."""
        return f"{self.optimizer}, rate {self.rate:g}, seed {self.seed}, {self.steps} steps"


class Batch(NamedTuple):
    """A minibatch, and all that makes its step differ from others: one program takes them all."""

    source: Any  # int32[B, L]
    target: Any  # int32[B, L + 1]
    rate: Any  # float32, of this update
    seed: Any  # int32
    number: Any  # int32, of the minibatch


class State(NamedTuple):
    """What a step changes."""

    params: Any
    optimizer: Any


class Optimizer(NamedTuple):
    """What updates the parameters; hashed, so that a program is compiled for each."""

    name: str  # of OPTIMIZERS
    max_grad_norm: float
    replicas: int = 1

    def transformation(self) -> Any:
        """Return the transformation, whose updates a step multiplies by its learning rate.

        The gradients of several replicas are averaged, then clipped, then applied, as if all had
        been one minibatch: until the last of them, the updates are 0.
        """
        tx = {"Adam": optax.adam(1.0), "PowerSign": nos_optax.powersign(1.0)}[self.name]
        tx = optax.chain(optax.clip_by_global_norm(self.max_grad_norm), tx)
        return optax.MultiSteps(tx, self.replicas) if self.replicas > 1 else tx


@functools.partial(jax.jit, static_argnums=(0, 1))
def start(model: GNMT, optimizer: Optimizer, key: jax.Array) -> State:
    """Return the state before the first minibatch."""
    source, target = np.full((1, 2), EOS), np.full((1, 3), EOS)
    params = model.init(key, source, target, train=False)["params"]
    return State(params, optimizer.transformation().init(params))


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


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def step(
    model: GNMT, optimizer: Optimizer, state: State, batch: Batch
) -> tuple[State, dict[str, jax.Array]]:
    """Take a minibatch's step; the loss is the mean over the target's tokens, in nats."""

    def loss(params):
        key = jax.random.fold_in(jax.random.key(batch.seed), batch.number)
        scores, tokens = total(model, params, batch.source, batch.target, key)
        return -scores / tokens

    value, gradients = jax.value_and_grad(loss)(state.params)
    updates, after = optimizer.transformation().update(gradients, state.optimizer, state.params)
    updates = optax.tree.scale(batch.rate, updates)
    return State(optax.apply_updates(state.params, updates), after), {"loss": value}


def minibatches(
    buckets: Sequence[Padded], job: Job, batch: int, replicas: int = 1, first: int = 0
) -> Iterator[Batch]:
    """Yield a training's minibatches from one on, without end."""
    decay = nos_optax.cyclical_cosine(job.rate, job.steps)
    rates = np.asarray(decay(jnp.arange(job.steps)), np.float32)
    length = epoch_steps(buckets, batch)

    def pairs() -> Iterator[Padded]:
        for epoch in itertools.count(first // length):
            of_epoch = batches(buckets, batch, seed=1000 * job.seed + epoch)
            yield from itertools.islice(of_epoch, first % length * (epoch == first // length), None)

    for number, (source, target) in enumerate(pairs(), first):
        rate = rates[min(number // replicas, job.steps - 1)]
        yield Batch(source, target, rate, np.int32(job.seed), np.int32(number))


class Trainer:
    """Trains jobs that are not in the records yet, side by side: each has a device to itself."""

    def __init__(
        self,
        model: GNMT,
        setup: Setup,
        text: Text,
        devices: Sequence[jax.Device],
        records: Records,
        progress: Progress,
    ):
        self.model, self.setup, self.text = model, setup, text
        self.records, self.progress = records, progress
        self.devices: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.workers = len(devices)
        self.recording, self.stopped = threading.Lock(), threading.Event()

    def train(self, jobs: Sequence[Job]) -> list[dict]:
        """Return what became of the jobs: curve, last validation loss, and, but for the tuning,
        BLEU and translations."""
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
            folder = self.setup.folder / "checkpoints" / job.name
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
        begun, setup = time.perf_counter(), self.setup
        which = self.model, Optimizer(job.optimizer, setup.max_grad_norm, setup.replicas)
        trained = fit(
            functools.partial(step, *which),
            jax.device_put(start(*which, jax.random.key(job.seed)), device),
            functools.partial(self._stream, job),
            job.steps * setup.replicas,
            folder,
            self.progress,
            functools.partial(self._evaluate, job),
            setup.evaluate_every * setup.replicas,
            RECORD_EVERY * setup.replicas,
        )
        finished = trained.status == FINISHED
        values = {
            "curve": [entry | {"step": entry["step"] // setup.replicas} for entry in trained.curve],
            "status": trained.status,
            "seconds": time.perf_counter() - begun,  # since the last start
            "validation": trained.curve[-1]["validation"] if finished else math.inf,
        }
        if job.seed == TUNING_SEED:
            return values
        # Who has diverged translates nothing.
        sources, (_, references) = self.text.test_sources, self.text.test_pairs
        texts = self._translate(trained.state.params, sources) if finished else [""] * len(sources)
        return values | {"bleu": bleu(texts, references), "translations": texts[:SAMPLES]}

    def _stream(self, job: Job, first: int) -> Iterator[Batch]:
        setup = self.setup
        stream = minibatches(self.text.train, job, setup.batch, setup.replicas, first)
        return itertools.takewhile(lambda _: not self.stopped.is_set(), stream)

    def _evaluate(self, job: Job, state: State) -> dict[str, float]:
        """Return the validation loss, and the BLEU but for the tuning, which has no use for it."""
        found = {"validation": self._validate(state.params)}
        if job.seed == TUNING_SEED:
            return found
        texts = self._translate(state.params, self.text.valid_sources)
        return found | {"validation_bleu": bleu(texts, self.text.valid_pairs.target)}

    def _validate(self, params: Any) -> float:
        """Return the validation loss per token, in nats."""
        sums = [
            total(self.model, params, *batch)
            for batch in batches(self.text.validation, self.setup.batch)
        ]
        scores, tokens = (float(sum(column)) for column in zip(*sums, strict=True))
        return -scores / tokens

    def _translate(self, params: Any, sources: np.ndarray) -> list[str]:
        """Return the translations of sentences, `int32[N, L]`."""
        length, rows = self.setup.length, self.setup.batch
        written = []
        for i in range(0, len(sources), rows):
            part = sources[i : i + rows]
            source = np.pad(part, ((0, rows - len(part)), (0, 0)), constant_values=PAD)
            if self.setup.beam == 1:
                tokens = greedy_decode(self.model, params, source, length)
            else:
                tokens = beam_search(self.model, params, source, length, self.setup.beam)
            written.append(np.asarray(tokens)[: len(part)])
        return to_text(self.text.tokenizer, np.concatenate(written))
