"""The direction of imports, the weight of `import nos_optax`, and documented public names."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nos_optax

ROOT = Path(nos_optax.__file__).parent

# Which parts of the package each part may import.
ALLOWED = {
    "_arguments": set(),
    "schedules": set(),
    "transforms": set(),
    "controller": set(),
    "grammar": {"schedules"},
    "population": {"schedules", "grammar"},
    "_command": {"population"},
    "compare": {"grammar", "population", "_command", ""},
    "search": {"grammar", "controller", "population", "compare", "_command"},
    "rule": {"grammar", "population", "search", "_command", ""},
    "report": {"search", "grammar", "population", "_command"},
}
PACKAGES = [
    "nos_optax",
    "nos_optax.transforms",
    "nos_optax.grammar",
    "nos_optax.controller",
    "nos_optax.population",
    "nos_optax.compare",
    "nos_optax.search",
    "nos_optax.search.reports",
    "nos_optax.rule",
]


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    relative = path.relative_to(ROOT)
    if relative == Path("__init__.py"):
        return
    part = relative.parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            # `from nos_optax import x` names the part in x.
            module = node.module or ""
            names = (
                [f"{module}.{a.name}" for a in node.names] if module == "nos_optax" else [module]
            )
        for name in names:
            if name.split(".")[0] != "nos_optax" or name == "nos_optax.__version__":
                continue
            allowed = ALLOWED[part] | {part, "_arguments"}
            assert part_of(name) in allowed, f"{relative} imports {name}"


def test_import_needs_jax_and_optax_only():
    code = (
        "import sys, nos_optax; "
        "heavy = 'flax', 'tensorflow_datasets', 'matplotlib', 'sklearn', 'rich', 'tyro'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def public_names():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name, value in vars(module).items():
            if not name.startswith("_") and not inspect.ismodule(value):
                yield package, name, value


@pytest.mark.parametrize(
    ("package", "name", "value"),
    [row for row in public_names() if inspect.isclass(row[2]) or inspect.isfunction(row[2])],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_public_names_are_documented(package, name, value):
    doc = inspect.getdoc(value)
    assert doc and doc.splitlines()[0].rstrip().endswith((".", ":")), f"{package}.{name}"
    assert not doc.startswith(f"{name}("), f"{package}.{name} has only a generated docstring"


def test_every_module_has_a_docstring():
    for info in pkgutil.walk_packages([str(ROOT)], "nos_optax."):
        assert importlib.import_module(info.name).__doc__, info.name
