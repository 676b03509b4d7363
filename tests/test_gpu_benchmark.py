"""The GPU benchmark, tried on the CPU, and the arithmetic that it compares with."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nos_optax.population import ConvNet

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))

import run  # noqa: E402
from child_step import by_xla, compile_gradient, on_paper  # noqa: E402

MAY_BE_ZERO_OR_NEGATIVE = {"share", "share_range", "rank_correlation", "mean_difference", "trained"}


def numbers(value, key=""):
    """Yield the key and the value of every number."""
    if isinstance(value, dict):
        for name, x in value.items():
            yield from numbers(x, name)
    elif isinstance(value, list):
        for x in value:
            yield from numbers(x, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


@pytest.mark.slow
def test_every_section_has_findings(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py"), "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    (path,) = tmp_path.iterdir()
    assert path.name == "gpu_cpu_tiny.json"
    content = json.loads(path.read_text())
    sections = content["sections"]
    assert list(sections) == list(run.SECTIONS)
    for name, findings in sections.items():
        assert "failed" not in findings, f"{name}: {findings}"
        for key, number in numbers(findings):
            assert math.isfinite(number), f"{name}: {key} is {number}"
            assert number > 0 or key in MAY_BE_ZERO_OR_NEGATIVE, f"{name}: {key} is {number}"
    assert content["device"] == "cpu"
    assert [row["lanes"] for row in sections["lanes"]["rows"]] == [1, 2]
    assert sections["lanes"]["best"] in (1, 2)
    surviving = sections["throughput"]["surviving"]
    assert 2 < surviving["trained"] <= surviving["candidates"] == len(content["survivors"])
    for name in ("by_xla", "measured_peaks", "against_measured_peaks"):
        assert sections["floor"][name]
    for name in ("float32", "default", "bf16"):
        assert "rank_correlation" in sections["precision"][name]
    assert sections["precision"]["float32"]["rank_correlation"] == pytest.approx(1)
    assert "left out" in sections["precision"]["tf32"]
    assert "rank_correlation" in sections["precision"]["float32 with another seed"]
    assert {"g", "surviving", "step_without_a_rule"} < set(sections["interpreter"])
    assert {"left out", "eager"} & set(sections["pytorch"])


def test_a_section_that_fails_is_recorded_and_the_rest_go_on(tmp_path, monkeypatch):
    def before(bench):
        yield "x", 1

    def failing(bench):
        yield "x", 2
        raise RuntimeError("the card caught fire")

    def after(bench):
        yield "x", 3

    def content():
        return json.loads((tmp_path / "gpu_cpu_tiny.json").read_text())["sections"]

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["run", "--tiny", "--out", str(tmp_path), *arguments])
        run.main()

    sections = {"before": before, "failing": failing, "after": after}
    monkeypatch.setattr(run, "SECTIONS", sections)
    start()
    assert {name: row["x"] for name, row in content().items()} == {
        "before": 1,
        "failing": 2,
        "after": 3,
    }
    assert content()["failing"]["failed"] == "RuntimeError: the card caught fire"

    def mended(bench):
        yield "x", 4

    sections["failing"] = mended
    start("--sections", "failing")
    assert {name: row["x"] for name, row in content().items()} == {
        "before": 1,
        "failing": 4,
        "after": 3,
    }
    assert "failed" not in content()["failing"]


def test_findings_are_written_before_a_section_ends(tmp_path, monkeypatch):
    def cut(bench):
        yield "x", 1
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "SECTIONS", {"cut": cut})
    monkeypatch.setattr(sys, "argv", ["run", "--tiny", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    content = json.loads((tmp_path / "gpu_cpu_tiny.json").read_text())
    assert content["sections"] == {"cut": {"x": 1}}


def test_without_an_accelerator_there_is_a_notice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--out", str(tmp_path)])
    run.main()
    assert "--tiny" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_products_on_paper_add_up():
    # By hand: 4x4x1 images, 2 filters, 3 classes, one image. The convolutions have 16 and 4 rows
    # of 9 and 18 numbers, and 2 columns; the linear layer has 1 row of 2 and 3 columns.
    # Twice for multiply and add; the first layer has no gradient of its images.
    assert on_paper(ConvNet((4, 4, 1), 3, filters=2), 1).product_flops == 2 * (
        2 * 16 * 9 * 2 + 3 * 4 * 18 * 2 + 3 * 2 * 3
    )


@pytest.mark.parametrize("image_shape", [(8, 8, 3), (16, 16, 1)])
def test_arithmetic_on_paper_is_near_what_xla_counts(image_shape):
    net = ConvNet(image_shape, 10, filters=16)
    paper = on_paper(net, 20)
    compiled, _ = compile_gradient(net, 20, lanes=2)
    xla = by_xla(compiled, lanes=2)
    # XLA may count work that is done twice to save memory, and does not count every exp alike.
    assert paper.flops / 1.25 < xla["flops"] < 2 * paper.flops
    assert paper.least_bytes < paper.direct_bytes < paper.patch_bytes
    assert xla["bytes"] > paper.least_bytes
