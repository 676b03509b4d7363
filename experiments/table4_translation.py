"""Does PowerSign train a translation model better than Adam? GNMT on English-German.

Claim:    section 6.4 and Table 4: Google's neural machine translation system on WMT 2014
          English-German, trained by PowerSign in place of Adam and with no other change, has a
          training perplexity of 1.39 instead of 1.49 and a test BLEU of 25.0 instead of 24.5. On
          the validation set the gain is 0.7 BLEU, as a mean of 5 points near the peak. The other
          hyperparameters had been tuned for Adam.
Method:   GNMT, as its own paper has it: 8 layers of the encoder, the first in both directions,
          attention, 8 layers of the decoder, 1,024 units, 32,000 shared subwords, minibatches of
          128, gradients clipped to norm 5. The paper trains by twelve workers with 8 GPUs each and
          minibatches of 128, through a parameter server. We read that as 12 x 8 replicas of 128
          pairs which update together: an update averages the gradients of 96 minibatches, with no
          staleness. --replicas 12 reads it as one minibatch a worker, --replicas 1 as a server that
          takes each minibatch by itself.
          Not stated by the paper, which refers to GNMT's, and not taken from there, so ours and the
          same for both: 20,000 updates (about 50 passes),
          dropout 0.2, a cosine decay of the learning rate, byte-pair encoding, a loss that is the
          mean over the words of a minibatch, and sentences of at most 64 subwords.
          Only the learning rate is the optimizer's own, as what it multiplies is: by Adam it is
          about 1 in size, by PowerSign about the gradient. Both tune it by the same rule: three
          rates half a decade apart, each trained to the end with one seed, and one more beyond
          while the best is at an end. The rate with the lowest validation loss at the end trains
          with fresh seeds, and only these are reported. Equal seeds have equal weights and
          minibatches, so they are compared in pairs, with t intervals of 95 % that are not
          corrected for their number.
          Training perplexity is the mean of the last tenth of the training, with what is dropped
          out. Validation BLEU is measured at each look at the validation set; of it the 5 points in
          succession with the best mean are taken. BLEU is sacreBLEU's on newstest2013 and
          newstest2014, by beam search; validation perplexity is of the subwords, without dropout.
          Sentences that are too long count in neither perplexity; for BLEU they are cut.
          Nothing is concluded before both optimizers' models translate, which is taken to be a mean
          test BLEU of 15; until then the verdict is "too short to say".
          --scale small is another, much smaller problem: Multi30k, 29,000 captions of pictures,
          2 + 2 layers of 128 units (1.9M parameters), 4,000 subwords, 6,000 steps of 32 pairs, one
          replica, no dropout, which is 6.7 passes; greedy decoding, test_2016_flickr. It can show
          an order because captions are so regular that a model of this size translates them in a
          few passes; it cannot show a gain of 0.5 BLEU, which is less than its seeds differ by. The
          initial weights in +-0.3 were chosen after looking, because in +-0.1 both had learnt
          little more than the frequencies after 200 steps; no interval covers this choice.
Command:  python experiments/table4_translation.py --data-dir DIR
          python experiments/table4_translation.py --scale paper --data-dir TFDS_DIR
          python experiments/table4_translation.py --scale smoke    (generated; says nothing)
          python experiments/table4_translation.py --scale paper --check    (no data; no training
          but one step: size, shapes and memory of the full model)
          The same command goes on where an interrupted one stopped.
Time:     small: about 15 trainings of 6,000 steps, 3 to 4 hours on 2 cores, by a few steps' time.
          --seeds 5 adds to what is there, and trains nothing again. paper: for accelerators, and
          not run here.
Writes:   experiments/results/table4_translation_SCALE.json, .md (with translations) and .png
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax
from data.translation import Corpus, import_optional, load_multi30k, load_wmt14
from harness.command_line import main
from harness.study import SHARED, Study
from harness.tuning import HALF_DECADES, next_rates
from models.gnmt import GNMT
from rich.console import Console
from rich.progress import Progress
from translation.check import check_optimizer
from translation.measures import best_rate, differences, measure
from translation.tables import best_of, draw, make_table, samples, tuning_table, verdict
from translation.text import epoch_steps, generated, prepare
from translation.training import (
    BASELINE,
    OPTIMIZERS,
    TUNING_SEED,
    Job,
    Optimizer,
    Setup,
    Trainer,
    start,
)

from nos_optax.compare.records import Records
from nos_optax.search import select_devices


@dataclasses.dataclass(frozen=True)
class Arguments(Study):
    """Compare Adam and PowerSign on machine translation."""

    experiment = "table4_translation"
    at_least = (
        *((name, 1) for name in ("batch", "replicas", "steps", "evaluate_every", "seeds", "beam")),
        ("layers", 2),
    )
    may_grow = ("adam_rates", "powersign_rates", "adaptive", "seeds")

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
    replicas: int = 12 * 8
    """Minibatches whose gradients an update averages: the paper's workers times their GPUs."""
    max_grad_norm: float = 5.0
    """Longer gradients are shortened."""
    adam_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates that Adam tries first. The paper does not state any."""
    powersign_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Learning rates that PowerSign tries first; as many."""
    adaptive: bool = True
    """Where an optimizer's best rate is an end of those it has tried, try the next one beyond, half
    a decade away, until the best one lies inside."""
    steps: int = 20_000
    """Updates of every training."""
    evaluate_every: int = 500
    """Updates between looks at the validation set; there is one at the end too."""
    seeds: int = 3
    """Of the trainings that are reported."""
    beam: int = 4
    """Hypotheses of a translation; 1 is greedy."""
    check: bool = False
    """Train nothing: say what the model needs, and take one step if the memory suffices."""

    def __post_init__(self):
        super().__post_init__()
        if not self.lengths or list(self.lengths) != sorted({*self.lengths}):
            raise ValueError(f"--lengths must increase, got {self.lengths}")
        if len(self.adam_rates) != len(self.powersign_rates) or not self.adam_rates:
            raise ValueError(
                "both optimizers must try the same number of rates: got --adam-rates "
                f"{self.adam_rates} and --powersign-rates {self.powersign_rates}"
            )

    @property
    def rates(self) -> dict[str, tuple[float, ...]]:
        """What each optimizer tries."""
        return dict(zip(OPTIMIZERS, (self.adam_rates, self.powersign_rates), strict=True))


PRESETS = {
    "small": Arguments(
        scale="small",
        data="multi30k",
        vocabulary=4000,
        lengths=(16, 24, 40),
        layers=2,
        units=128,
        dropout=0.0,
        init_scale=0.3,
        batch=32,
        replicas=1,
        adam_rates=(3e-3, 1e-2, 3e-2),
        powersign_rates=(0.3, 1.0, 3.0),
        steps=6000,
        evaluate_every=600,
        seeds=3,
        beam=1,
    ),
    "paper": Arguments(),
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
        replicas=2,
        adam_rates=(3e-3, 1e-2),
        powersign_rates=(0.3, 1.0),
        adaptive=False,
        steps=24,
        evaluate_every=10,
        seeds=2,
        beam=2,
    ),
}


def read(arguments: Arguments) -> Corpus:
    """Return the sentences that were asked for."""
    if arguments.data == "wmt14":
        return load_wmt14(arguments.data_dir)
    if arguments.data == "multi30k":
        return load_multi30k(arguments.data_dir or SHARED / "data" / "multi30k")
    return generated()


def make_model(arguments: Arguments, vocabulary: int) -> GNMT:
    """Return the network."""
    return GNMT(
        vocabulary, arguments.units, arguments.layers, arguments.dropout, arguments.init_scale
    )


def make_setup(arguments: Arguments) -> Setup:
    """Return what all trainings share."""
    a = arguments
    return Setup(
        a.batch, a.replicas, a.max_grad_norm, a.evaluate_every, a.lengths[-1], a.beam, a.folder
    )


def tune(arguments: Arguments, trainer: Trainer) -> list[dict]:
    """Try the rates of both optimizers to the end of a training, and others beyond them."""
    beyond = HALF_DECADES if arguments.adaptive else ()
    tuning, rates = [], {name: list(few) for name, few in arguments.rates.items()}
    while any(rates.values()):
        tuning += trainer.train(
            [
                Job(name, rate, TUNING_SEED, arguments.steps)
                for name, few in rates.items()
                for rate in few
            ]
        )
        tried = {name: [t["rate"] for t in tuning if t["optimizer"] == name] for name in rates}
        rates = {name: next_rates(tried[name], best_rate(tuning, name), beyond) for name in rates}
    return tuning


def train_all(arguments: Arguments, trainer: Trainer) -> tuple[list[dict], list[dict]]:
    """Tune both optimizers, and train with the best rates; return both stages' trainings."""
    tuning = tune(arguments, trainer)
    best = {name: best_rate(tuning, name) for name in OPTIMIZERS}
    runs = trainer.train(
        [
            Job(name, best[name], TUNING_SEED + 1 + i, arguments.steps)
            for i in range(arguments.seeds)
            for name in OPTIMIZERS
        ]
    )
    return tuning, runs


def run(arguments: Arguments, console: Console) -> None:
    """Train everything, print the tables and write the results."""
    devices = select_devices(arguments.accelerator)
    if arguments.check:
        check(arguments, console)
        return
    import_optional("sacrebleu", "experiments")  # needed when the first training is done
    text = prepare(
        read(arguments),
        arguments.vocabulary,
        arguments.lengths,
        arguments.batch,
        arguments.folder,
    )
    model = make_model(arguments, text.tokenizer.get_vocab_size())
    common = arguments.training() | {"platform": devices[0].platform}
    records = Records(arguments.folder / "records.jsonl", common)
    with Progress(console=console) as progress:
        trainer = Trainer(model, make_setup(arguments), text, devices, records, progress)
        tuning, runs = train_all(arguments, trainer)

    rows = measure(tuning, runs)
    begin = functools.partial(start, model, Optimizer(BASELINE, arguments.max_grad_norm))
    params = jax.eval_shape(begin, jax.random.key(0)).params
    facts = {
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "vocabulary": model.vocabulary,
        "train_pairs": sum(len(bucket.source) for bucket in text.train),
        "validation_pairs": sum(len(bucket.source) for bucket in text.validation),
        "test_pairs": len(text.test_sources),
        "epochs": arguments.steps * arguments.replicas / epoch_steps(text.train, arguments.batch),
    }
    title = (
        f"{arguments.data}: {facts['train_pairs']:,} pairs, {arguments.layers} + "
        f"{arguments.layers} layers of {arguments.units} units, {facts['parameters']:,} "
        f"parameters, {arguments.steps:,} steps of {arguments.replicas} x {arguments.batch} pairs "
        f"({facts['epochs']:.1f} epochs)"
    )
    doubts, best = verdict(rows), best_of(runs)
    tables = {
        "With fresh seeds, mean ± standard error (se)": make_table(rows),
        "The rates that were tried, after as many steps with one seed": tuning_table(tuning),
        f"The first test sentences, by the model with the lowest validation loss of all "
        f"({best['optimizer']}, seed {best['seed']}, BLEU {best['bleu']:.2f})": samples(text, best),
    }
    content = {
        **facts,
        "seconds": records.seconds,
        "optimizers": rows,
        "differences": differences(rows),
        "verdict": doubts,
        "tuning": tuning,
        "runs": runs,
    }
    arguments.publish(console, title, tables, [doubts], content)
    draw(tuning, runs, arguments.picture)


def check(arguments: Arguments, console: Console) -> dict[str, dict[str, float]]:
    """Say how large the model is; take one step by each optimizer, if the memory suffices.

    Raises:
        ValueError: a step changes the shapes of the state, or makes a parameter nan or inf.
    """
    model, setup = make_model(arguments, arguments.vocabulary), make_setup(arguments)
    return {name: check_optimizer(model, setup, name, console) for name in OPTIMIZERS}


if __name__ == "__main__":
    main(run, PRESETS)
