"""The measured number of lanes: when it is measured, what is remembered, what it depends on."""

import dataclasses
import json
import math
import types

import jax
import pytest

from nos_optax.grammar import encode
from nos_optax.population import STATUSES, Protocol, load_digits
from nos_optax.population import lanes as lanes_module
from nos_optax.population.lanes import (
    best_lanes,
    child_step_seconds,
    choose_lanes,
    measure_lanes,
    short_trainer,
)

GPU = types.SimpleNamespace(platform="gpu", device_kind="Some GPU")
PROTOCOL = Protocol(batch_size=20, sweep_examples=200, epochs=1)


@pytest.fixture(scope="module")
def digits():
    return load_digits(train_examples=200, validation_examples=100)


@pytest.fixture
def clock(monkeypatch):
    """Install a clock that measures what it is told, and counts."""

    def install(seconds):
        def measure(dataset, protocol, iterations, device, lanes):
            calls.append(lanes)
            return seconds.get(lanes, math.inf)

        calls = []
        monkeypatch.setattr(lanes_module, "child_step_seconds", measure)
        return calls

    return install


def test_cpu_has_one_lane_and_measures_nothing(digits, tmp_path, clock):
    calls, store = clock({16: 1}), tmp_path / "lanes"
    assert choose_lanes(digits, PROTOCOL, 2, jax.devices(), store, 64) == 1
    assert not calls and not store.exists()


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [
        ({16: 8, 32: 4, 64: 3.9, 128: 1}, [16, 32, 64]),  # 64 gains too little to go on
        ({16: 8, 32: 4, 64: 2}, [16, 32, 64, 128]),  # 128 does not fit
        ({16: 8, 32: 9}, [16, 32]),
        ({n: 1 / n for n in lanes_module.SIZES}, list(lanes_module.SIZES)),
    ],
)
def test_measuring_stops_where_more_lanes_do_not_pay(digits, seconds, measured, clock):
    calls = clock(seconds)
    result = measure_lanes(digits, PROTOCOL, 2, GPU)
    assert calls == measured
    faster = measured if len(measured) == len(lanes_module.SIZES) else measured[:-1]
    assert result == {n: seconds[n] for n in faster}


def test_where_nothing_fits_nothing_is_remembered(digits, tmp_path, clock):
    clock({})
    store = tmp_path / "lanes"
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], store, 64) == 16
    assert not store.exists()


def test_a_measurement_is_made_once_and_stored(digits, tmp_path, clock):
    calls, store = clock({16: 8, 32: 1, 64: 1}), tmp_path / "cache" / "lanes"
    first = choose_lanes(digits, PROTOCOL, 2, [GPU], store, 64)
    again = choose_lanes(digits, PROTOCOL, 2, [GPU], store, 64)
    assert first == again == 32
    assert calls == [16, 32, 64]


@pytest.mark.parametrize("other", ["device", "batch size", "iterations", "images"])
def test_another_question_is_another_measurement(digits, tmp_path, other, clock):
    calls = clock({16: 1})
    choose_lanes(digits, PROTOCOL, 2, [GPU], tmp_path, 64)
    once = len(calls)
    device, protocol, iterations, dataset = GPU, PROTOCOL, 2, digits
    match other:
        case "device":
            device = types.SimpleNamespace(platform="gpu", device_kind="Other GPU")
        case "batch size":
            protocol = dataclasses.replace(PROTOCOL, batch_size=10)
        case "iterations":
            iterations = 3
        case "images":
            dataset = load_digits(train_examples=200, validation_examples=100, size=16)
    choose_lanes(dataset, protocol, iterations, [device], tmp_path, 64)
    assert len(calls) == 2 * once
    choose_lanes(digits, PROTOCOL, 2, [GPU], tmp_path, 64)
    assert len(calls) == 2 * once  # the first is still there


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '{"a": 1}', '{"16": {}}', "\x00\xff"])
def test_a_damaged_measurement_is_made_anew(digits, tmp_path, text, clock):
    clock({16: 1})
    choose_lanes(digits, PROTOCOL, 2, [GPU], tmp_path, 64)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], tmp_path, 64) == 16
    assert json.loads(file.read_text()) == {"16": 1}


def test_a_store_that_cannot_be_written_is_done_without(digits, tmp_path, clock):
    clock({16: 1})
    (tmp_path / "file").write_text("in the way")
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], tmp_path / "file" / "lanes", 64) == 16


def test_a_small_population_has_few_lanes(digits):
    # Full lanes cost the same everywhere: what differs is how many stay empty.
    protocol = dataclasses.replace(PROTOCOL, learning_rates=(0.1, 0.2, 0.3, 0.4))
    seconds = {16: 1.0, 32: 0.99, 512: 0.98}
    assert best_lanes(seconds, 200, protocol, share=8) == 16
    assert best_lanes(seconds, 200, protocol, share=1024) == 512


def test_devices_share_the_population(digits, tmp_path, clock):
    clock({16: 1.0, 32: 0.94, 64: 0.88})
    choose = lambda devices: choose_lanes(digits, PROTOCOL, 2, devices, tmp_path, 128)  # noqa: E731
    assert choose([GPU]) == 64
    assert choose([GPU] * 8) < 64


@pytest.mark.slow
def test_a_real_measurement_with_lanes_side_by_side(digits, monkeypatch):
    monkeypatch.setattr(lanes_module, "SIZES", (4,))
    assert 0 < measure_lanes(digits, PROTOCOL, 1, jax.devices()[0])[4] < 60


@pytest.mark.slow
def test_the_measured_children_all_take_the_same_steps(digits):
    # Whatever the protocol of the search: its hurdles would be later than the one epoch here.
    protocol = dataclasses.replace(PROTOCOL, epochs=5, hurdle_epochs=(2,))
    trainer = short_trainer(digits, protocol, 1, jax.devices()[0], lanes=1, steps=3)
    evaluation = trainer.evaluate([encode("g", 1).array])
    assert trainer.sweep_steps == 3
    assert [STATUSES[i] for i in evaluation.status] == ["dead"]
    assert (evaluation.sweep >= 0).all()  # not diverged, which would end them early


def test_lanes_that_do_not_fit_take_forever(digits, monkeypatch):
    class Halving:
        def __init__(self, *args, lanes, **kwargs):
            self.lanes = lanes

        def evaluate(self, programs):
            self.lanes //= 2

    monkeypatch.setattr(lanes_module, "PopulationTrainer", Halving)
    seconds = child_step_seconds(digits, PROTOCOL, 1, jax.devices()[0], 4)
    assert seconds == math.inf
