"""What do 10,000 malformed rules, command lines and run folders do?

Claim:    each is a clear message or a correct run: never a traceback, a hang, or another history.
Method:   well-formed inputs are mutated at random, with a fixed seed. A rule is parsed, and if it
          is one, printed, encoded, hashed and written in every form, which must read back as the
          same rule, and some are run. A configuration is built; a command line goes through the
          main functions of experiments/search.py and evaluate.py, where nothing is trained. A run
          folder whose process was killed has bytes flipped, files cut, lost or replaced, and is
          then resumed with an engine that trains nothing (tests/fake_engine.py): it must come to
          the unbroken run's history. Allowed are ValueError (RuleError is one), OSError,
          ImportError, AcceleratorError and SystemExit, with a message of at most MOST_LINES lines.
Command:  python benchmarks/fuzz.py
Time:     about 10 minutes on one core.
Writes:   benchmarks/results/fuzz.json
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import evaluate as evaluate_command  # ty: ignore[import-not-found]
import jax
import jax.numpy as jnp
from fake_engine import FakeEngine  # ty: ignore[import-not-found]
from harness import command_line  # ty: ignore[import-not-found]

import nos_optax
from nos_optax.grammar import Program, RuleError, decode, encode, to_python
from nos_optax.grammar.program import tables
from nos_optax.search import AcceleratorError, Candidate, SearchConfig, loop, run_search
from nos_optax.search import command as search_command
from nos_optax.search.run_folder import check

ALLOWED = (ValueError, OSError, ImportError, AcceleratorError, SystemExit)
MOST_LINES = 4  # a message, a rule, a caret
MOST_SECONDS = 600  # far beyond what a case takes, also on a machine that is busy
SHARES = {"rule": 0.6, "configuration": 0.1, "command line": 0.2, "run folder": 0.1}


class Slow(Exception):
    """A case took longer than MOST_SECONDS."""


class Wrong(Exception):
    """A case ran, and came to a wrong result."""


def main() -> None:
    """Run all cases, print the bugs and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    report = fuzz(args.cases, args.seed)
    print(json.dumps(report, indent=2))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fuzz.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(f"{len(report['bugs'])} bugs" if report["bugs"] else 0)


def fuzz(cases: int, seed: int, shares: dict[str, float] = SHARES) -> dict:
    """Return how many cases of each kind ended how, and the bugs.

    Args:
        cases: how many.
        seed: of the mutations.
        shares: the part of each kind; they are independent of one another.
    """
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in shares}
    bugs = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        case_of: dict[str, Callable[[random.Random], None]] = {
            "rule": a_rule,
            "configuration": a_configuration,
            "command line": a_command_line,
        }
        if "run folder" in shares:
            case_of["run folder"] = RunFolders(Path(folder)).resume_damaged
        for kind, share in shares.items():
            for number in range(round(cases * share)):
                rng = random.Random(f"{seed} {kind} {number}")
                outcome, bug = judge(functools.partial(case_of[kind], rng))
                outcomes[kind][outcome] += 1
                if bug:
                    bugs.append({"kind": kind, "number": number, "bug": bug})
    return {
        "cases": sum(counter.total() for counter in outcomes.values()),
        "seed": seed,
        "outcomes": {kind: dict(counter.most_common()) for kind, counter in outcomes.items()},
        "bugs": bugs,
    }


def judge(case: Callable[[], object]) -> tuple[str, str | None]:
    """Return how a case ended, and what was wrong with that, if anything."""
    said = io.StringIO()
    old = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(MOST_SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case()
        outcome, message = "ran", ""
    except SystemExit as error:
        outcome, message = "SystemExit", error.code if isinstance(error.code, str) else ""
        if error.code != 0 and not message and not said.getvalue().strip():
            return outcome, f"it ended without a word, code {error.code}"
    except ALLOWED as error:
        outcome, message = type(error).__name__, str(error)
        if not message:
            return outcome, "no message"
    except Exception:
        return "BUG", traceback.format_exc()[-3000:]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    if len(message.splitlines()) > MOST_LINES:
        return outcome, f"a long message: {message[:1000]}"
    if "Traceback" in said.getvalue():
        return outcome, said.getvalue()[-3000:]
    return outcome, None


def too_slow(*_: object) -> None:
    raise Slow


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


# Text.

PIECES = (
    *"+-*/^(),.0123456789eE_ \t\n\x00gmvw",
    *("exp(", "log(", "sqrt(", "sign(", "sigmoid(", "clip(", "drop(", "gamma", "noise"),
    *("annealed_noise", "adam", "rmsprop", "ld", "cd", "rd(10)", "cd(0)", "rd(-1)", "g^2", "1e-5"),
    *("1e999", "nan", "inf", "--", "**", "//", "^^", "π", "٣", "²", "é", "\ud800", "🙂"),
    *("__import__('os')", "%s", "{}", "[/bold]", "\x1b[31m", "(" * 60, ")" * 60, "-" * 60),
    *("g+" * 300, "9" * 400, "exp(" * 49),
)


def mutated(text: str, rng: random.Random) -> str:
    """Return a text with one to four pieces exchanged, inserted, deleted, doubled or moved."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        words = [word for word in re.split(r"(\W)", text) if word] or [""]
        word = rng.randrange(len(words))
        i, j = sorted(rng.choices(range(len(text) + 1), k=2))
        text = rng.choice(
            [
                *("".join([*words[:word], rng.choice(PIECES), *words[word + 1 :]]) for _ in "123"),
                text[:i] + rng.choice(PIECES) + text[i:],
                text[:i] + text[i + 1 :],
                text[:i] + text[j:],
                text[:j] + text[i:],
                text[j:] + text[:i],
                f"({text})",
            ]
        )
    return text


# Rules.

RULES = tuple(str(entry.rule) for entry in nos_optax.rules.values())
NO_TEXT: tuple[Any, ...] = (None, 3, 0.5, b"g", [], ["g"], {}, object(), True, ("g", "m"))


def a_rule(rng: random.Random) -> None:
    """Read a mutated rule in one of its forms; if it is one, write it in all forms and back."""
    seed = nos_optax.parse(rng.choice(RULES))
    form = rng.choice(["infix", "infix", "infix", "JSON", "words", "tokens", "no text"])
    if form == "no text":
        nos_optax.from_rule(rng.choice(NO_TEXT))
        return
    if form == "infix":
        rule = nos_optax.parse(mutated(str(seed), rng))
    elif form == "JSON":
        rule = nos_optax.UpdateRule.from_json(mutated(seed.to_json(), rng))
    elif form == "words":
        words = [rng.choice(table) for k in range(rng.randint(1, 5)) for table in tables(k)]
        rule = decode(Program.from_words(mutated(" ".join(words), rng)))
    else:
        tokens = [rng.randint(-1, 22) for _ in range(rng.randint(0, 25))]
        rule = decode(Program.from_array(tokens))
    expect(nos_optax.parse(str(rule)) == rule, f"{rule} reads back as another rule")
    expect(nos_optax.UpdateRule.from_json(rule.to_json()) == rule, f"{rule}: JSON")
    expect(rule.canonical().digest == rule.digest, f"{rule}: digest")
    rule.latex()
    compile(to_python(rule), "rule", "exec")
    if rng.random() < 0.02:
        optimizer = nos_optax.from_rule(rule, 0.1, total_steps=10)
        params = jnp.ones(2)
        update, _ = optimizer.update(params, optimizer.init(params), params)
        expect(isinstance(update, jax.Array) and update.shape == (2,), f"{rule}: update")
    with contextlib.suppress(RuleError):  # most rules are too long for a program
        expect(decode(encode(rule)) == rule, f"{rule}: encode")


# Configurations and command lines.

NUMBERS = (-(10**30), -1, 0, 1, 2, 3, 5, 100, 999_999, 10**6, 10**12, 2**63, 10**30)
WORDS = (
    "",
    " ",
    "ppo",
    "random",
    "ppo:",
    ":x",
    "os:path",
    "a b:c",
    "nos_optax:nothing",
    "-",
    "None",
)
VALUES: dict[str, tuple] = {
    "strategy": (*WORDS, "evolution", "nos_optax.search.strategies:PPO", "json:JSONDecoder"),
    "ray_address": (*WORDS, "localhost:6379"),
    "out": (Path("a"), Path("/proc/nothing"), Path("/dev/null"), Path("x" * 300), Path("nul\0")),
    "data_dir": (Path("nowhere"), Path("/dev/null")),
    "accelerator": ("cpu", "gpu", "tpu"),
    "engine": ("local", "ray"),
    "preset": ("default", "paper"),
    "watch": (None, (), ("table",), ("digits-mlp",), ("nothing",)),
    "race": (None, 0, 1, -1, 16),
    "slack": (None, 0.0, -1.0, 2, 0.5, float("nan"), float("inf")),
    "task": ((), ("digits",), ("cifar10",), ("digits-mlp", "table")),
    "protocol": ("speed", "paper"),
    "operands": (("g", "m"), ("g",), (), ("g", "g"), ("q",)),
    "unary": (("x",), ("x", "exp"), (), ("sin",)),
    "binary": (("+",), ("*", "left"), (), ("%",)),
    **dict.fromkeys(("reuse", "reject", "resume"), (True, False)),
    **dict.fromkeys(("distinct_operands", "final_addition"), (True, False)),
    **dict.fromkeys(("reuse_results", "live_results"), (True, False)),
}
FIELDS = tuple(field.name for field in dataclasses.fields(SearchConfig))


def a_configuration(rng: random.Random) -> None:
    """Build a configuration of wild values, and what a search makes of it first."""
    names = rng.sample(FIELDS, rng.randint(1, 4))
    config = SearchConfig(**{name: rng.choice(VALUES.get(name, NUMBERS)) for name in names})
    check(config)
    expect(config.space().size > 0, "an empty space")
    if config.protocol == "paper":
        expect(config.max_epochs >= config.paper_protocol().epochs, "fewer epochs at the end")


def a_command_line(rng: random.Random) -> None:
    """Give a mutated command line to one of the commands, which train nothing here."""
    words = []
    for name in rng.sample(FIELDS, rng.randint(0, 4)):
        flag = "--" + name.replace("_", "-")
        if rng.random() < 0.1:
            flag = mutated(flag, rng)
        value = str(rng.choice(VALUES.get(name, (*NUMBERS, 0.5, "x"))))
        words += [flag, mutated(value, rng) if rng.random() < 0.2 else value]
    if rng.random() < 0.2 and words:
        words.remove(rng.choice(words))
    if rng.random() < 0.5:
        run(search_command, ["search.py", *words], run=lambda *_: None, prepare=lambda *_: None)
        return
    rules = [mutated(rng.choice(RULES), rng) for _ in range(rng.randint(0, 2))]
    few = [word for word in words if "seeds" not in word]
    run(evaluate_command, ["evaluate.py", *rules, *few], LocalEngine=no_engine)


def no_engine(*_: object) -> FakeEngine:
    engine = FakeEngine()
    engine.facts |= {"sweep_steps": 1, "train_steps": 1}
    return engine


def run(command: Any, words: list[str], **stubs: Callable) -> None:
    """Run a command's main function."""
    with contextlib.ExitStack() as stack:
        for name, stub in stubs.items():
            stack.enter_context(mock.patch.object(command, name, stub))
        for module in (search_command, command_line):
            stack.enter_context(mock.patch.object(module, "enable_compilation_cache"))
        stack.enter_context(mock.patch.object(sys, "argv", words))
        command.main()


# Run folders.


class RunFolders:
    """Folders as a killed process leaves them, and what each would have come to.

    Args:
        root: where they are kept.
    """

    def __init__(self, root: Path):
        self.root = root
        self.unbroken: dict[str, list[Candidate]] = {}
        for strategy in ("random", "evolution", "ppo"):
            path = root / strategy

            def copy(candidates: Sequence[Candidate], strategy=strategy, path=path) -> None:
                if len(candidates) in (8, 24, 40):  # the first is before any state
                    shutil.copytree(path, root / f"{strategy} {len(candidates)}")

            with mock.patch.object(loop, "A_WHILE", 0):
                config = self.config(strategy, path)
                self.unbroken[strategy] = run_search(config, copy, engine=FakeEngine()).candidates

    def config(self, strategy: str, path: Path) -> SearchConfig:
        """Return the configuration of all runs."""
        return SearchConfig(
            protocol="paper",
            samples=40,
            batch_size=8,
            iterations=1,
            strategy=strategy,
            finalists=0,
            final_seeds=1,
            out=path,
            resume=True,
        )

    def resume_damaged(self, rng: random.Random) -> None:
        """Damage a copy of a folder and resume it."""
        strategy = rng.choice(list(self.unbroken))
        path = self.root / "damaged"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.root / f"{strategy} {rng.choice((8, 24, 40))}", path)
        for _ in range(rng.randint(1, 3)):
            damage(path, rng)
        found = run_search(self.config(strategy, path), engine=FakeEngine()).candidates
        expect(found == self.unbroken[strategy], "another history")


def damage(folder: Path, rng: random.Random) -> None:
    """Damage a file of a folder, more likely one of the three that every run has."""
    first = [folder / name for name in ("config.json", "history.sqlite", "history.sqlite-wal")]
    places = [path for path in first if path.exists()] if rng.random() < 0.5 else []
    path = rng.choice(places or sorted(folder.rglob("*")) or [folder / "config.json"])
    kind = rng.choice(["flip", "flip", "flip", "cut", "append", "zero", "lose", "folder", "json"])
    if path.is_dir() or kind in ("lose", "folder"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.mkdir() if kind == "folder" else None
        return
    content = bytearray(path.read_bytes()) if path.exists() else bytearray(b"x")
    i, j = sorted(rng.choices(range(len(content) + 1), k=2))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 10, 1000)) if content else 0):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[i:]
    elif kind == "append":
        content += rng.randbytes(rng.randint(1, 5000))
    elif kind == "zero":
        content[i:j] = bytes(j - i)
    elif kind == "json" and path.name == "config.json":
        with contextlib.suppress(ValueError, KeyError, TypeError):
            values = json.loads(content)
            values["config"][rng.choice(FIELDS)] = rng.choice(
                [None, -1, 0, 10**30, 0.5, "x", [], [1], {}, True, "paper", "\ud800"]
            )
            content = bytearray(json.dumps(values).encode())
    path.write_bytes(content)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
