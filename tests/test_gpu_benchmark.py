"""The GPU benchmark, tried on the CPU, and the arithmetic that it compares with."""

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pack_cifar10
import pytest
import run
import sections as image_sections
import suite_sections
import test_data
from child_step import by_xla, compile_gradient, on_paper
from peaks import PRECISIONS

from nos_optax.population import ConvNet
from nos_optax.population.cifar10 import load_cifar10, prepare_cifar10

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"

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
def test_every_section_on_images_has_findings(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py"), "--tiny", "--out", str(tmp_path)]
    command += ["--sections", *image_sections.SECTIONS]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    (path,) = tmp_path.iterdir()
    assert path.name == "gpu_cpu_tiny.json"
    content = json.loads(path.read_text())
    sections = content["sections"]
    assert list(sections) == list(image_sections.SECTIONS)
    for name, findings in sections.items():
        assert "failed" not in findings, f"{name}: {findings}"
        for key, number in numbers(findings):
            assert math.isfinite(number), f"{name}: {key} is {number}"
            assert number > 0 or key in MAY_BE_ZERO_OR_NEGATIVE, f"{name}: {key} is {number}"
    assert content["device"] == "cpu"
    assert [row["lanes"] for row in sections["lanes"]["rows"]] == [1]
    assert sections["lanes"]["best"] == 1
    surviving = sections["throughput"]["surviving"]
    assert 2 < surviving["trained"] <= surviving["candidates"] == len(content["survivors"])
    for name in ("by_xla", "measured_peaks", "against_measured_peaks"):
        assert sections["floor"][name]
    assert sections["precision"]["float32"]["rank_correlation"] == pytest.approx(1)
    assert "left out" in sections["precision"]["tf32"]
    assert "rank_correlation" in sections["precision"]["float32 with another seed"]
    assert {"g", "surviving", "step_without_a_rule"} < set(sections["interpreter"])
    assert {"left out", "eager"} & set(sections["pytorch"])


@pytest.mark.slow
def test_every_section_on_the_suite_has_findings(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py"), "--tiny", "--out", str(tmp_path)]
    command += ["--sections", *suite_sections.SECTIONS]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    sections = json.loads((tmp_path / "gpu_cpu_tiny.json").read_text())["sections"]
    assert list(sections) == list(suite_sections.SECTIONS)
    for name, findings in sections.items():
        assert "failed" not in findings, f"{name}: {findings}"
        assert {"headline", "left out"} & set(findings), name
        assert all(math.isfinite(number) for _, number in numbers(findings)), name
    assert max(sections["sanity"]["digits-mlp"].values()) < 1e-5
    assert not sections["sanity"]["the kernel works"]
    row = sections["suite_throughput"]["selects"]
    assert (
        0 < row["random"]["learned"] < row["learning"]["learned"] <= row["learning"]["candidates"]
    )
    profile = sections["suite_profile"]["digits-mlp"]
    assert set(profile["rule_share"]) == {"selects"}  # a number of that: times are noise here
    assert profile["on_paper"]["parameters"] == 2410
    assert sections["suite_precision"]["default"]["rank_correlation"]["all"] == pytest.approx(1)
    found = sections["search"]
    assert found["strategy"] == {"name": "Evolution", "seed": 0}
    assert found["search"]["samples"] == 16
    adam = [row for row in found["finals"] if row["name"] == "Adam"]
    assert len(adam[0]["rewards"]) == 2
    assert "tuned Adam" in found["headline"]


def test_searches_with_odd_seeds_are_the_controllers():
    names = [type(suite_sections._strategy(seed)).__name__ for seed in range(4)]
    assert names == ["Evolution", "PPO"] * 2


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
        return run.main()

    sections = {"before": before, "failing": failing, "after": after}
    monkeypatch.setattr(run, "SECTIONS", sections)
    assert start() == 1
    assert {name: row["x"] for name, row in content().items()} == {
        "before": 1,
        "failing": 2,
        "after": 3,
    }
    assert content()["failing"]["failed"] == "RuntimeError: the card caught fire"

    def mended(bench):
        yield "x", 4

    sections["failing"] = mended
    assert start("--sections", "failing") == 0
    assert {name: row["x"] for name, row in content().items()} == {
        "before": 1,
        "failing": 4,
        "after": 3,
    }
    assert "failed" not in content()["failing"]

    def seeded(bench):
        yield "x", bench.seed

    sections["seeded"] = seeded
    assert start("--sections", "absent", "seeded", "seeded:3") == 1
    assert content()["absent"]["failed"].startswith("LookupError: unknown section absent")
    assert content()["seeded"]["x"] == 0 and content()["seeded:3"]["x"] == 3


# What lease.sh runs in place of the suite's sections.
FAKES = """
import os, signal

def good(bench):
    yield "x", 1
    bench.runs.mkdir()
    (bench.runs / "history").write_text("rules")
    yield "headline", f"{bench.seconds_left > 0}"

def fails(bench):
    yield "x", 2
    raise RuntimeError("the card caught fire")

def dies(bench):
    yield "x", 3
    os.kill(os.getpid(), signal.SIGKILL)

SECTIONS = {"good": good, "fails": fails, "dies": dies}
"""


@pytest.mark.slow
def test_a_section_that_is_killed_or_late_takes_no_other_along(tmp_path):
    folder = tmp_path / "copy" / "benchmarks" / "gpu"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "suite_sections.py").write_text(FAKES)
    lease = subprocess.run(
        ["bash", str(folder / "lease.sh"), "--tiny", "--part", "1", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LEASE_SECTIONS": "dies 60\nlanes 1 cannot even begin\nfails+good 60 two in a process",
            "JAX_PLATFORMS": "cpu",
            "PYTHON": sys.executable,
            "TMPDIR": str(tmp_path),
        },
    )
    assert lease.returncode == 1, lease.stderr
    content = json.loads((tmp_path / "out" / "gpu_cpu_tiny.json").read_text())["sections"]
    assert {name: row["x"] for name, row in content.items()} == {"dies": 3, "fails": 2, "good": 1}
    assert "wall_seconds" not in content["dies"]
    table = [re.split("  +", row) for row in lease.stdout.splitlines()[-3:]]
    assert [(row[0], *row[2:]) for row in table] == [
        ("dies", "failed", "x: 3"),
        ("lanes", "out of time", ""),
        ("fails+good", "failed", "failed: RuntimeError: the card caught fire; True"),
    ]
    with tarfile.open(tmp_path / "out" / "gpu_part1_runs.tar.gz") as runs:
        assert "runs_part1/history" in runs.getnames()


def test_packed_images_are_those_of_the_prepared_folder(tmp_path):
    archive = test_data.write_archive(tmp_path / "archive.tar.gz", test_data.official_members())
    prepare_cifar10(archive, tmp_path / "tfds", **test_data.COUNTS)
    expected = load_cifar10(tmp_path / "tfds", validation_examples=50)
    packed, unpacked = tmp_path / "cifar10.xz", tmp_path / "cifar10.npz"
    pack_cifar10.pack(tmp_path / "tfds", packed)
    pack_cifar10.unpack(packed, unpacked, validation_examples=50)
    for found in pack_cifar10.load_packed(packed, 50), pack_cifar10.load_unpacked(unpacked):
        for field in dataclasses.fields(expected):
            value = getattr(expected, field.name)
            np.testing.assert_array_equal(getattr(found, field.name), value)


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
    # By hand: 4x4x1 images, 2 filters, 3 classes, one image. Layer 1 has 4 windows of 16 pixels and
    # a wide kernel of 8 columns, layer 2 one window of 16 pixels and 2 channels; the linear layer
    # has 1 row of 2 and 3 columns. Twice for multiply and add.
    step = on_paper(ConvNet((4, 4, 1), 3, filters=2), 1)
    layer1 = 16 * 4 * 16 + 2 * (16 * 16 * 8 + 16 * 8) + 3 * 64 * 9 * 2 + 2 * 4 * 16 * 8
    layer2 = 3 * 16 * 1 * 2 * 2
    transforms = 2 * (16 * 16 * 2 + 16 * 9 * 4 + 4 * 16 * 2)
    assert sum(step.products.values()) == 2 * (layer1 + layer2 + 3 * 2 * 3)
    assert step.product_flops == 2 * (layer1 + layer2 + 3 * 2 * 3 + transforms)


def test_lanes_share_what_depends_on_the_images_alone():
    one, four = (on_paper(ConvNet((8, 8, 3), 10), 20, lanes) for lanes in (1, 4))
    different = {name for name in one.products if one.products[name] != four.products[name]}
    assert different == {"layer 1, Gram matrix"}
    assert four.least_bytes < one.least_bytes and four.pass_bytes < one.pass_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_shape", "lanes"), [((8, 8, 3), 1), ((16, 16, 1), 3), ((10, 6, 2), 3)]
)
def test_arithmetic_on_paper_is_near_what_xla_counts(image_shape, lanes):
    net = ConvNet(image_shape, 10, filters=16)
    paper = on_paper(net, 20, lanes)
    compiled, _ = compile_gradient(net, 20, lanes)
    xla = by_xla(compiled, lanes)
    assert paper.flops / 1.1 < xla["flops"] < 1.1 * paper.flops
    # XLA fuses less than it might, and counts what every fusion reads and writes.
    assert paper.least_bytes < paper.pass_bytes < xla["bytes"] < 4 * paper.pass_bytes


def products(precision):
    """Return the lines of a lowered gradient that multiply: transforms by constants, and others."""
    net = ConvNet((8, 8, 3), 10)
    with jax.default_matmul_precision(PRECISIONS[precision]):
        gradient = jax.jit(jax.grad(net.loss, has_aux=True))
        labels = jax.ShapeDtypeStruct((20,), jnp.int32)
        images = jax.ShapeDtypeStruct((20, 8, 8, 3), jnp.float32)
        traced = gradient.trace(*jax.eval_shape(net.init, jax.random.key(0)), images, labels)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()  # which needs no such card
    lines = [line for line in text.splitlines() if "dot_general" in line]
    # The transforms' matrices for windows, kernels and results.
    matrix = re.compile("tensor<(16x16|16x9|4x16)xf32>")
    return [x for x in lines if matrix.search(x)], [x for x in lines if not matrix.search(x)]


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_precision_holds_for_the_products_and_not_for_the_transforms(precision):
    transforms, others = products(precision)
    batched = [line for line in others if "batching_dims = [0] x [0]" in line]
    assert len(transforms) == 6 and len(batched) == 3  # forward and backward
    assert all("algorithm" not in line and line.count("HIGHEST") == 2 for line in transforms)
    assert all(f"lhs_precision_type = {precision}" in line for line in batched)


def test_float32_holds_for_all_products():
    transforms, others = products("float32")
    assert all(line.count("HIGHEST") == 2 for line in transforms + others)
