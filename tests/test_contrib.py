"""The single files for optax.contrib: the same updates as ours, and Optax's own checks of them."""

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from contract_cases import PARAMS, gradients

import nos_optax

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "contrib"
OPTAX = Path(optax.__file__).parent
NAMES = ("powersign", "addsign")
README = (FOLDER / "README.md").read_text()

each_name = pytest.mark.parametrize("name", NAMES)


def load(name):
    spec = importlib.util.spec_from_file_location(f"contributed{name}", FOLDER / f"_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits(tree):
    """Return the structure, shapes, dtypes and bytes of a tree's leaves."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [(leaf.shape, leaf.dtype, leaf.tobytes()) for leaf in leaves]


def run(tx, params, steps):
    """Return the updates and the state's leaves after each jitted step."""
    update, state, seen = jax.jit(tx.update), tx.init(params), []
    for g in steps:
        updates, state = update(g, state, params)
        seen.append(bits((updates, state)))
    return seen


SCHEDULE = nos_optax.linear_cosine(1.0, 5)
KWARGS = [
    {},
    {"learning_rate": 0.1, "b1": 0.5},
    {"learning_rate": SCHEDULE, "sign_decay": SCHEDULE},
    {"mu_dtype": "bfloat16", "sign_decay": 0.3},
    {"weight_decay": 0.01, "mask": {"w": True, "b": False}},
]
OWN = {"powersign": {"base": 2.0}, "addsign": {"alpha": 2.0}}


@pytest.mark.slow
@each_name
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_updates_are_bitwise_ours(name, dtype):
    contributed, ours = getattr(load(name), name), getattr(nos_optax, name)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), dtype), PARAMS)
        steps = list(gradients(6, like=params))
        for kwargs in [*KWARGS, OWN[name]]:
            expected = run(ours(**kwargs), params, steps)
            assert run(contributed(**kwargs), params, steps) == expected, kwargs


@each_name
def test_odd_gradients_are_bitwise_ours(name):
    contributed, ours = getattr(load(name), name)(0.1), getattr(nos_optax, name)(0.1)
    odd = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, -0.0, 1e-45, -1e38, 1.0])
    params = {"w": jnp.zeros(8), "absent": None}
    state = contributed.init(params)
    assert bits(state) == bits(ours.init(params))
    # Reversed: a finite gradient meets the average of a NaN.
    for w in (odd, -odd[::-1], odd):
        g = {"w": w, "absent": None}
        expected = ours.update(g, state)
        updates, state = contributed.update(g, state)
        assert updates["absent"] is None
        assert bits((updates, state)) == bits(expected)


@each_name
def test_arguments_are_ours(name):
    def arguments(function):
        return {p.name: p.default for p in inspect.signature(function).parameters.values()}

    module = load(name)
    for function in (name, f"scale_by_{name}"):
        assert arguments(getattr(module, function)) == arguments(getattr(nos_optax, function))


@each_name
def test_complex_parameters_are_refused(name):
    with pytest.raises(ValueError, match="split_real_and_imaginary"):
        getattr(load(name), name)().init(jnp.zeros(2, jnp.complex64))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_licence_header_is_that_of_optax(path):
    """Optax checks it too; the first line names the holder, which is theirs to settle."""

    def header(file):
        return re.match(r"# Copyright 20\d\d .*\n((#.*\n)+)", file.read_text())[1]

    assert header(path) == header(OPTAX / "contrib" / "_acprop.py")
    assert max(map(len, path.read_text().splitlines())) <= 80


def lines_for(file, language="python"):
    """Return the lines that the README adds to a file."""
    return re.search(rf"`{re.escape(file)}`.*?```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_documented_names_exist():
    pages = README[README.index("`docs/api/contrib.rst`") :]
    names = re.findall(r"auto(?:function|class):: (\w+)", pages)
    listed = lines_for("docs/api/contrib.rst", "rst").split()
    exported = re.findall(r"import (\w+)", lines_for("optax/contrib/__init__.py"))
    assert set(listed) <= set(names) == set(exported)
    assert len(names) == 6
    modules = [load(name) for name in NAMES]
    assert all(any(hasattr(module, n) for module in modules) for n in names)


# Of the cases that are the same for every optimizer, ours.
ONLY_OURS = """
import re

def pytest_collection_modifyitems(items):
    def is_ours(item):
        arguments = getattr(getattr(item, "obj", None), "__x_params_repr__", "")
        return re.search("_(powersign|addsign)|opt_name='(powersign|addsign)'",
                         item.path.name + arguments)
    items[:] = filter(is_ours, items)
"""


def contribute(folder):
    """Return a copy of the installed Optax, changed as the README says."""
    copy = folder / "optax"
    shutil.copytree(OPTAX, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in FOLDER.glob("*.py"):
        shutil.copy(path, copy / "contrib")
    with (copy / "contrib" / "__init__.py").open("a") as file:
        file.write(lines_for("optax/contrib/__init__.py"))
    common = copy / "contrib" / "_common_test.py"
    text, start = common.read_text(), "_MAIN_OPTIMIZERS_UNDER_TEST = [\n"
    assert start in text
    added = start + lines_for("optax/contrib/_common_test.py")
    common.write_text(text.replace(start, added, 1))
    (folder / "conftest.py").write_text(ONLY_OURS)
    return copy / "contrib"


@pytest.mark.slow
def test_optaxs_own_checks_pass(tmp_path):
    if not (OPTAX / "contrib" / "_common_test.py").exists():
        pytest.skip("this Optax is installed without its tests")
    contrib = contribute(tmp_path)
    files = [contrib / "_common_test.py"]
    files += [contrib / f"_{name}{end}.py" for name in NAMES for end in ("", "_test")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--doctest-modules"]
        + [str(file) for file in files],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.findall(r"^optax/contrib/([^:\s]+)::(\S+) PASSED", done.stdout, re.MULTILINE)
    counts = {file.name: sum(name == file.name for name, _ in passed) for file in files}
    # Convergence on four functions and dtypes in _common_test.py, one doctest in each module.
    assert counts["_common_test.py"] >= 2 * 14
    assert all(counts[f"_{name}.py"] == 1 and counts[f"_{name}_test.py"] > 5 for name in NAMES)
    assert "SKIPPED" not in done.stdout
