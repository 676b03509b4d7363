"""What the experiments share: statistics, tables, records and the command line."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pytest
from harness import command_line
from harness.statistics import decided, epochs_to_reach, mean_and_error, peak, t_interval
from harness.study import Study
from harness.tables import markdown, mean_text, text_table
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import stats

from nos_optax.compare.records import Records, write_results
from nos_optax.compare.statistics import difference, holm
from nos_optax.search import AcceleratorError

# Statistics.


def test_t_interval_by_hand():
    # mean 2, standard error 1/sqrt(3), t(2, 0.975) = 4.3027
    mean, low, high, p = t_interval([1.0, 2.0, 3.0])
    assert mean == 2 and p == pytest.approx(stats.ttest_1samp([1, 2, 3], 0).pvalue)
    assert [low, high] == pytest.approx([2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], rel=1e-5)
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2, 3**-0.5))


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=6)
    values = baseline + 0.3 + 0.01 * rng.normal(size=6)
    interval = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    mean, low, high, _ = difference(values.tolist(), baseline.tolist())
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert mean == pytest.approx(np.mean(values) - np.mean(baseline))
    assert high - low < 0.1  # though each of them varies by 1


def test_intervals_cover_the_mean_as_often_as_they_say():
    samples = np.random.default_rng(1).normal(2, 3, size=(2000, 5))
    ends = np.array([t_interval(row)[1:3] for row in samples])
    covered = np.mean((ends[:, 0] < 2) & (2 < ends[:, 1]))
    assert covered == pytest.approx(0.95, abs=0.02)


def test_statistics_of_single_precision_are_of_double():
    values = np.full(1000, 0.1, np.float32)
    assert mean_and_error(values)[0] == pytest.approx(float(values[0]), rel=1e-12)


def test_too_few_values_have_no_error():
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        mean_and_error([0.5])
    with pytest.raises(ValueError, match="at least 2; got 1 and 1"):
        t_interval([0.5])
    with pytest.raises(ValueError, match="same seeds of both"):
        difference([1.0, 2.0], [1.0])


def test_what_is_decided_survives_the_number_of_comparisons():
    one = {"a": difference([1.0, 2.0, 1.5, 1.0], [0.0] * 4)}
    assert decided(one) == {"a": "better"} and decided(one, lower=True) == {"a": "worse"}
    none = {str(i): difference([-1.0, 1.0, -1.0, 1.0], [0.0] * 4) for i in range(40)}
    assert set(decided(none | one).values()) == {"undecided"}


def test_holm_by_hand():
    # In order: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not be below the last.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_holm_is_closed_testing_with_bonferronis_correction():
    rng = np.random.default_rng(0)
    for p_values in rng.uniform(0, 0.3, (50, 5)) ** rng.uniform(0.5, 2, (50, 1)):
        subsets = [
            subset for size in range(1, 6) for subset in itertools.combinations(range(5), size)
        ]
        expected = [
            max(min(1, len(s) * p_values[list(s)].min()) for s in subsets if i in s)
            for i in range(5)
        ]
        assert holm(p_values.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("curve", "epochs"),
    [
        ([0.5, 0.9], 1.5),  # half of the way from 0.5 to 0.9
        ([0.7, 0.1], 1.0),
        ([0.9, 0.1], 0.75),  # from 0.1 at the start
        ([0.5, 0.6], np.inf),
        ([0.5, np.nan], np.inf),
    ],
)
def test_epochs_to_a_level(curve, epochs):
    assert epochs_to_reach(curve, 0.7, 0.1) == pytest.approx(epochs)


def test_a_level_below_the_start_takes_no_epoch():
    assert epochs_to_reach([0.5], 0.1, 0.1) == 0


def test_the_peak_of_a_parabola_in_the_logarithm():
    rates = (0.01, 0.03, 0.1, 0.3, 1.0)
    scores = {rate: -((np.log(rate) - np.log(0.13)) ** 2) for rate in rates}
    assert peak(scores) == pytest.approx(0.13)
    assert peak({0.3: 0.2, 0.01: 0.1}) == 0.3, "at an end it is the end"
    assert peak({0.01: 0.5, 0.1: 0.5, 1.0: 0.5}) == 0.01
    assert peak({0.5: 0.1, 0.05: 0.3, 0.005: 0.3}) in (0.05, 0.005)


# Tables.


def test_markdown():
    table = Table("a", "b")
    table.add_row("1", "x")
    table.add_row("2", "log|x|")
    expected = "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | log\\|x\\| |\n"
    assert markdown(table) == expected


def test_means_have_their_standard_error_unless_they_have_none():
    assert mean_text([1.0, 2.0, 3.0], 2) == "2.00 ± 0.58"
    assert mean_text([1.0], 1) == "1.0" and mean_text([1.0, np.inf], 1) == "1.0, inf"


# Records.

CONFIG = {"epochs": 3, "rates": (0.1, 1.0)}


def test_records_are_there_when_opened_again(tmp_path):
    path = tmp_path / "new" / "records.jsonl"
    key = {"rule": "g", "seed": np.int64(0)}
    values = {"loss": np.float32(0.5), "curve": jnp.arange(2), "at": Path("a"), "bad": float("nan")}
    first = Records(path, CONFIG)
    assert first.get(key) is None
    first.append(key, values)
    first.append({"rule": "m", "seed": 0}, {"loss": 2.0})
    second = Records(path, {"rates": [0.1, 1.0], "epochs": 3})
    for records in (first, second):
        found = records.get({"seed": 0, "rule": "g"})
        assert found is not None and np.isnan(found.pop("bad"))
        assert found == {"loss": 0.5, "curve": [0, 1], "at": "a"}
        assert records.get({"rule": "m", "seed": 0}) == {"loss": 2.0}
        assert records.get({"rule": "m", "seed": 1}) is None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"config": {"epochs": 3, "rates": [0.1, 1.0]}} and len(lines) == 3


def test_what_a_caller_does_with_a_record_is_not_stored(tmp_path):
    records, values = Records(tmp_path / "r", CONFIG), {"curve": [1]}
    records.append({"seed": 0}, values)
    values["curve"].append(2)
    assert records.get({"seed": 0}) == {"curve": [1]}


def test_a_record_is_written_once(tmp_path):
    records = Records(tmp_path / "r", CONFIG)
    records.append({"seed": 0}, {"loss": 1})
    with pytest.raises(ValueError, match=r'has a record of \{"seed": 0\}'):
        records.append({"seed": 0}, {"loss": 2})
    assert Records(tmp_path / "r", CONFIG).get({"seed": 0}) == {"loss": 1}


def test_records_know_the_seconds_of_all_starts(tmp_path, monkeypatch):
    clock = iter((10.0, 13.0, 14.5, 100.0, 102.0))
    stand_in = SimpleNamespace(perf_counter=clock.__next__)
    monkeypatch.setattr("nos_optax.compare.records.time", stand_in)
    records = Records(tmp_path / "r", CONFIG)
    records.append({"seed": 0}, {"loss": 0})
    records.append({"seed": 1}, {"loss": 1})
    assert records.seconds == 4.5
    again = Records(tmp_path / "r", CONFIG)
    assert again.seconds == 4.5
    again.append({"seed": 2}, {"loss": 2})
    assert again.seconds == 6.5


def test_one_process_measures_into_a_file(tmp_path):
    path = tmp_path / "r"
    records = Records(path, CONFIG)
    before = path.read_bytes()
    code = f"import sys; sys.path[:0] = {sys.path!r}; from pathlib import Path; "
    code += f"from nos_optax.compare.records import Records; Records(Path({str(path)!r}), {{}})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another process measures into {path}; wait for it" in other.stderr
    assert path.read_bytes() == before and records.get({}) is None


def test_a_file_cut_anywhere_keeps_its_whole_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("nos_optax.compare.records.time", SimpleNamespace(perf_counter=lambda: 0.0))
    path = tmp_path / "r"
    records = Records(path, CONFIG)
    for seed in range(3):
        records.append({"seed": seed}, {"loss": seed})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = max(0, whole[:length].count(b"\n") - 1)
        cut = Records(path, CONFIG)
        for seed in range(3):
            assert cut.get({"seed": seed}) == ({"loss": seed} if seed < kept else None)
        for seed in range(kept, 3):
            cut.append({"seed": seed}, {"loss": seed})
        assert path.read_bytes() == whole


def test_a_last_line_of_zeros_is_dropped(tmp_path):
    path = tmp_path / "r"
    Records(path, CONFIG).append({"seed": 0}, {"loss": 0})
    good = path.read_bytes()
    path.write_bytes(good + bytes(20) + b"\n")  # as after a power failure
    assert Records(path, CONFIG).get({"seed": 0}) == {"loss": 0}
    assert path.read_bytes() == good


def test_records_of_another_configuration_are_refused(tmp_path):
    path = tmp_path / "r"
    Records(path, CONFIG).append({"seed": 0}, {"loss": 0})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="epochs is 3 there and 4 here") as error:
        Records(path, {**CONFIG, "epochs": 4})
    assert str(path) in str(error.value) and "--out" in str(error.value)
    assert "rates" not in str(error.value)
    with pytest.raises(ValueError, match="lanes is null there and 2 here"):
        Records(path, {**CONFIG, "lanes": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ['{"a": 1}\n', "[1]\n", '{"a": 1}', "no\nJSON\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / "r").write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path / "r")):
        Records(tmp_path / "r", CONFIG)
    assert (tmp_path / "r").read_text() == text


def test_damage_before_the_last_line_is_an_error(tmp_path):
    path = tmp_path / "r"
    records = Records(path, CONFIG)
    for seed in range(2):
        records.append({"seed": seed}, {"loss": seed})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{torn\n" + lines[2])
    with pytest.raises(ValueError, match="damaged in line 2"):
        Records(path, CONFIG)


def test_results_are_strict_json_and_markdown(tmp_path):
    content = {"b": (np.float32(0.5), float("nan")), "a": {"c": float("inf")}}
    write_results(tmp_path / "new", "table.1", content, "text\n")
    text = (tmp_path / "new" / "table.1.json").read_text()

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"b": [0.5, None], "a": {"c": None}} and list(found) == ["b", "a"]
    assert (tmp_path / "new" / "table.1.md").read_text() == "text\n"


# The command line.


@dataclasses.dataclass(frozen=True)
class Config:
    """Do nothing."""

    scale: Literal["paper", "small", "smoke"] = "paper"
    epochs: int = 100
    seeds: int = 5

    def __post_init__(self):
        if self.seeds < 2:
            raise ValueError(f"--seeds must be at least 2, got {self.seeds}")


PRESETS = {"paper": Config(), "small": Config("small", epochs=3, seeds=3)}


def call(monkeypatch, run, *arguments, presets=PRESETS, **options):
    monkeypatch.setattr(sys, "argv", ["experiment.py", *arguments])
    monkeypatch.setattr(command_line, "enable_compilation_cache", lambda: None)
    command_line.main(run, presets, **options)


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], Config()),
        (["--scale", "small"], Config("small", 3, 3)),
        (["--seeds", "2", "--scale", "small"], Config("small", 3, 2)),
        # What is given holds, also where it is a default.
        (["--scale", "small", "--epochs", "100"], Config("small", 100, 3)),
    ],
)
def test_what_is_not_given_is_the_presets(monkeypatch, arguments, config):
    configs = []
    call(monkeypatch, lambda config, console: configs.append(config), *arguments)
    assert configs == [config]


def test_presets_may_have_any_key(monkeypatch):
    configs = []
    run = lambda config, console: configs.append(config)  # noqa: E731
    call(monkeypatch, run, "--seeds", "4", key=lambda config: "small")
    assert configs == [Config("small", 3, 4)]


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("no such rule"), "error: no such rule"),
        (FileNotFoundError("no data"), "error: no data"),
        (AcceleratorError("no tpu here"), "error: no tpu here"),
        (ImportError("pip install x"), "error: pip install x"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_users_mistake_is_one_message(monkeypatch, raised, message):
    def run(config, console):
        raise raised

    with pytest.raises(SystemExit) as exit_info:
        call(monkeypatch, run)
    assert exit_info.value.code == message


def test_a_programmers_mistake_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, lambda config, console: 1 / 0)


def test_what_keeps_records_says_that_it_goes_on(monkeypatch):
    def run(config, console):
        raise KeyboardInterrupt

    for folder, said in ((None, "interrupted"), (Path("x"), "the same command goes on from here")):
        kind = dataclasses.make_dataclass("Kept", [("scale", str, "small")], frozen=True)
        if folder:
            kind = dataclasses.make_dataclass(
                "Kept", [("out", Path, folder)], bases=(kind,), frozen=True
            )
        with pytest.raises(SystemExit) as exit_info:
            call(monkeypatch, run, presets={"small": kind()})
        assert str(exit_info.value.code).endswith(said)


# The study.


@dataclasses.dataclass(frozen=True)
class Little(Study):
    """A study of nothing."""

    experiment = "little"
    at_least = (("seeds", 2),)
    not_empty = ("rates",)
    may_grow = ("seeds",)

    seeds: int = 2
    rates: tuple[float, ...] = (0.1,)


def test_a_study_names_its_files_and_what_decides(tmp_path):
    study = Little(out=tmp_path / "x", accelerator="cpu")
    assert (study.name, study.folder) == ("little_paper", tmp_path / "x")
    assert Little(scale="smoke").folder == Path("runs/little_smoke")
    assert study.measured() == {"scale": "paper", "seeds": 2, "rates": (0.1,)}
    assert study.training() == Little(seeds=3).training() != Little(rates=(1.0,)).training()
    assert Little.like(study, seeds=5) == dataclasses.replace(study, seeds=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seeds": 1}, "--seeds must be at least 2, got 1"), ({"rates": ()}, "--rates is empty")],
)
def test_a_study_refuses_what_says_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        Little(**changes)


def test_what_is_published_is_printed_and_written(tmp_path, capsys):
    study, table = Little(results=tmp_path / "new"), text_table(("a", "b"), [("1", "2")])
    study.publish(Console(width=80), "[title]", {"Head": table}, ["A note."], {"seconds": 3.2})
    printed = capsys.readouterr().out
    assert "[title]" in printed and "Head" in printed and "3 s" in printed
    text = (tmp_path / "new" / "little_paper.md").read_text()
    assert text == "[title]\n\nHead:\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nA note.\n"
    written = json.loads((tmp_path / "new" / "little_paper.json").read_text())
    assert written["arguments"] == {"scale": "paper", "seeds": 2, "rates": [0.1]}


def test_a_preset_that_there_is_not(monkeypatch):
    with pytest.raises(SystemExit, match="no preset smoke; there are paper, small"):
        call(monkeypatch, None, "--scale", "smoke")


@pytest.mark.parametrize("arguments", [["--seeds", "1"], ["--sedes", "3"], ["--scale", "huge"]])
def test_what_is_wrong_is_named(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as exit_info:
        call(monkeypatch, None, *arguments)
    said = str(exit_info.value.code) + "".join(capsys.readouterr())
    assert exit_info.value.code and arguments[0] in said and "Traceback" not in said


def test_output_that_is_no_terminal_has_a_width_and_no_colours(monkeypatch, capsys):
    call(monkeypatch, lambda config, console: console.print(Text("x" * 150, style="red")))
    assert capsys.readouterr().out == "x" * 150 + "\n"
