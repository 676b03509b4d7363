"""The wheel and the source distribution: what they hold, and that they work on their own."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nos_optax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# jax brings these, and declares them.
BROUGHT_BY_JAX = {"jaxlib", "numpy"}
# What nos_optax itself is divided in; the rest of it is the searcher's.
CORE = ("__init__.py", "_arguments.py", "schedules.py", "transforms", "grammar")


# What is imported is declared.


def imported(path: Path) -> set[str]:
    """Return the first part of each module that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names - sys.stdlib_module_names - {"nos_optax"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


FOR_USERS = {
    extra: names_of(requirements)
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra not in ("dev", "docs")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_what_is_imported_is_declared(path):
    declared = names_of(PROJECT["dependencies"]) | BROUGHT_BY_JAX
    if path.relative_to(PACKAGE).parts[0] not in CORE:
        declared = declared.union(*FOR_USERS.values())
    distributions = importlib.metadata.packages_distributions()
    for module in imported(path):
        providers = {canonical(name) for name in distributions[module]}
        assert providers & declared, f"{module} comes from {providers}: declare it"


# What is built.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folders of two builds from a copy of the tree: all of it, and the wheel alone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a clone of the repository")
    folder = tmp_path_factory.mktemp("package")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    for kind, options in (("both", []), ("alone", ["--wheel"])):
        build(folder / "tree", folder / kind, *options)
    return folder


def build(tree: Path, out: Path, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options, tree],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(only(built / "both", "*.whl")) as archive:
        yield archive


@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_is_that_of_the_tree(built):
    of_source, of_tree = (only(built / kind, "*.whl") for kind in ("both", "alone"))
    assert of_source.name == of_tree.name
    assert of_source.read_bytes() == of_tree.read_bytes()


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built, wheel):
    version = PROJECT["version"]
    package, information = "nos_optax/", f"nos_optax-{version}.dist-info/"
    names = set(wheel.namelist())
    in_tree = {
        path.relative_to(built / "tree").as_posix()
        for path in (built / "tree" / package).rglob("*")
        if path.is_file()
    }
    assert {name for name in names if name.startswith(package)} == in_tree
    assert f"{package}py.typed" in names
    assert {name for name in names if not name.startswith(package)} == {
        f"{information}{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")
    }
    licence = wheel.read(f"{information}licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_the_source_distribution_can_be_developed(built):
    with tarfile.open(only(built / "both", "*.tar.gz")) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt"} <= names
    assert {"nos_optax/py.typed", "tests/test_package.py", "experiments/search.py"} <= names
    assert not [name for name in names if name.startswith((".ci", "runs", ".venv", "dist"))]


@pytest.mark.slow
def test_the_metadata_are_those_of_the_project(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Version"] == importlib.metadata.version("nos_optax")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# nos_optax")
    extras = {canonical(extra) for extra in metadata.get_all("Provides-Extra")}
    assert extras == set(PROJECT["optional-dependencies"])
    unconditional = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert names_of(unconditional) == {"jax", "optax"}


# What is installed where there is nothing else.


# Batches of a size that the documents' searches have too: what they compile is in the cache.
SEARCH = (
    "--task digits-mlp --watch --samples 4 --strategy random --finalists 1 --final-seeds 2 "
    "--out run"
).split()


TRAINING = """
import jax, jax.numpy as jnp, nos_optax, optax
print(nos_optax.__file__)
loss = lambda w: jnp.sum((w - 3.0) ** 2)
schedule = nos_optax.linear_cosine(init_value=0.5, decay_steps=200)
tx = optax.chain(nos_optax.powersign(), optax.scale_by_schedule(schedule))
params = jnp.zeros(4)
state = tx.init(params)
for _ in range(200):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
assert loss(params) < 1e-6, params
print("trained")
"""


def closure(requirements: list[str], extra: str = "") -> dict[str, importlib.metadata.Distribution]:
    """Return the distributions, as they are installed here, that requirements bring with them."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen = set()
    todo = [(Requirement(text), extra) for text in requirements]
    while todo:
        requirement, of_extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonical(requirement.name)
        distribution = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        found[name] = distribution
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in distribution.requires or ()]
    return found


def link(distribution: importlib.metadata.Distribution, target: Path) -> None:
    """Put a distribution's files, and their bytecode, into a folder, as links."""
    for file in distribution.files or ():
        source = Path(file.locate())
        if file.parts[0] == ".." or "__pycache__" in file.parts or not source.is_file():
            continue
        sources = [source]
        if source.suffix == ".py":
            sources.append(Path(importlib.util.cache_from_source(source)))
        for each in filter(Path.exists, sources):
            place = target / Path(file).parent / each.relative_to(source.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(each)


def empty_environment(folder: Path, wheel: Path, extra: str = "") -> Path:
    """Return the Python of a new environment: the wheel, what its metadata require, and pip."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (purelib,) = folder.glob("lib/python*/site-packages")
    (metadata,) = importlib.metadata.distributions(path=[wheel])
    for distribution in closure(metadata.requires, extra).values():
        link(distribution, purelib)
    python = folder / "bin" / "python"
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(command, check=True, cwd=folder)
    return python


IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


def modules(extra: str) -> list[str]:
    """Return the modules of the package, or, with no extra, those of its core."""
    paths = [path.relative_to(PACKAGE.parent) for path in sorted(PACKAGE.rglob("*.py"))]
    if not extra:
        paths = [path for path in paths if path.parts[1] in CORE]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "search"])
def test_what_the_metadata_require_is_enough(built, tmp_path, extra):
    """The source distribution needs no test of its own: its wheel is this one, byte for byte."""
    python = empty_environment(tmp_path / "venv", only(built / "both", "*.whl"), extra)

    def run(*arguments):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [python, "-I", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout.strip(), done.stderr

    code, said, errors = run("-c", TRAINING)
    assert code == 0, errors
    where, trained = said.splitlines()
    assert Path(where).is_relative_to(tmp_path / "venv") and trained == "trained"
    assert run("-c", IMPORTS, *modules(extra)) == (0, "", "")
    code, said, errors = run("-m", "nos_optax.search", *SEARCH)
    if extra:
        assert code == 0 and "4 candidates" in said, errors
        assert "--format" in run("-m", "nos_optax.search.export", "--help")[1]
        code, _, errors = run("-m", "nos_optax.search.export", "run")
        assert code == 0, errors
        assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 4
    else:
        assert code != 0 and "pip install 'nos_optax[search]'" in errors
