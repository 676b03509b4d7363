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


class Clock:
    """Measures what it was told, and counts."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, []

    def __call__(self, dataset, protocol, iterations, devices, lanes):
        self.calls.append(lanes)
        return self.seconds.get(lanes, math.inf)


def test_cpu_has_one_lane_and_measures_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes_module, "child_step_seconds", None)
    store = tmp_path / "lanes.json"
    assert choose_lanes(digits, PROTOCOL, 2, jax.devices(), store) == 1
    assert not store.exists()


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [
        ({16: 8, 32: 4, 64: 3.9, 128: 1}, [16, 32, 64]),  # 64 gains too little to go on
        ({16: 8, 32: 4, 64: 2}, [16, 32, 64, 128]),  # 128 does not fit
        ({16: 8, 32: 9}, [16, 32]),
        ({n: 1 / n for n in lanes_module.SIZES}, list(lanes_module.SIZES)),
    ],
)
def test_measuring_stops_where_more_lanes_do_not_pay(digits, seconds, measured):
    clock = Clock(seconds)
    result = measure_lanes(digits, PROTOCOL, 2, [GPU], measure=clock)
    assert clock.calls == measured
    assert result == {n: seconds[n] for n in measured if n in seconds}


def test_where_nothing_fits_nothing_is_remembered(digits, tmp_path):
    store = tmp_path / "lanes.json"
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=Clock({})) == 16
    assert not store.exists()


def test_a_measurement_is_made_once_and_stored(digits, tmp_path):
    store = tmp_path / "cache" / "lanes.json"
    clock = Clock({16: 8, 32: 1, 64: 1})
    first = choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=clock)
    again = choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=clock)
    assert first == again == 32
    assert clock.calls == [16, 32, 64]
    assert list(store.parent.iterdir()) == [store]


@pytest.mark.parametrize("other", ["device", "batch size", "iterations", "images"])
def test_another_question_is_another_measurement(digits, tmp_path, other):
    store, clock = tmp_path / "lanes.json", Clock({16: 1})
    choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=clock)
    calls = len(clock.calls)
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
    choose_lanes(dataset, protocol, iterations, [device], store, measure=clock)
    assert len(clock.calls) == 2 * calls
    choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=clock)
    assert len(clock.calls) == 2 * calls  # the first is still there


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": {"x": 1}}', "\x00\xff"])
def test_a_damaged_store_is_measured_and_written_anew(digits, tmp_path, text):
    store = tmp_path / "lanes.json"
    store.write_text(text)
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=Clock({16: 1})) == 16
    assert [list(row) for row in json.loads(store.read_text()).values()] == [["16"]]


def test_a_store_that_cannot_be_written_is_done_without(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = tmp_path / "file" / "lanes.json"
    assert choose_lanes(digits, PROTOCOL, 2, [GPU], store, measure=Clock({16: 1})) == 16


def test_a_small_population_has_few_lanes(digits):
    # Full lanes cost the same everywhere: what differs is how many stay empty.
    protocol = dataclasses.replace(PROTOCOL, learning_rates=(0.1, 0.2, 0.3, 0.4))
    seconds = {16: 1.0, 32: 0.99, 512: 0.98}
    assert best_lanes(seconds, digits, protocol, share=8) == 16
    assert best_lanes(seconds, digits, protocol, share=1024) == 512


def test_devices_share_the_population(digits, tmp_path):
    clock = Clock({16: 1.0, 32: 0.94, 64: 0.93})
    choose = lambda devices: choose_lanes(  # noqa: E731
        digits, PROTOCOL, 2, devices, tmp_path / "x", population=128, measure=clock
    )
    assert choose([GPU]) == 64
    assert choose([GPU] * 8) < 64


@pytest.mark.slow
def test_a_real_measurement_with_lanes_side_by_side(digits, tmp_path):
    def measure(dataset, protocol, iterations, devices, lanes):
        if lanes > 16:
            return math.inf
        return child_step_seconds(dataset, protocol, iterations, devices, lanes)

    store = tmp_path / "lanes.json"
    assert choose_lanes(digits, PROTOCOL, 1, jax.devices(), store, measure=measure) == 16
    (row,) = json.loads(store.read_text()).values()
    assert 0 < row["16"] < 60


def test_the_measured_children_all_take_the_same_steps(digits):
    trainer = short_trainer(digits, PROTOCOL, 1, jax.devices()[:1], lanes=1, steps=3)
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
    seconds = child_step_seconds(digits, PROTOCOL, 1, jax.devices(), 4)
    assert seconds == math.inf
