"""The direction of imports, the weight of `import nos_optax`, and documented public names."""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nos_optax

PACKAGE = Path(nos_optax.__file__).parent
ROOT = PACKAGE.parent

# Which parts of the package each part may import.
ALLOWED = {
    "_arguments": set(),
    "_files": {"_printable"},
    "_printable": set(),
    "_version": set(),
    "schedules": set(),
    "transforms": set(),
    "controller": set(),
    "grammar": {"schedules"},
    "population": {"schedules", "grammar"},
    "_command": {"population", "_printable"},
    "compare": {"grammar", "population", "_command", ""},
    "search": {"grammar", "controller", "population", "compare", "_command"},
    "explain": {"grammar", "population", "search", "_command", ""},
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
    "nos_optax.search.promote",
    "nos_optax.search.reports",
    "nos_optax.explain",
]


# Folders of ours, and which of the others each may import.
FOLDERS = {
    "nos_optax": set(),
    "experiments": {"nos_optax"},
    "benchmarks": {"nos_optax", "experiments", "tests"},
    "tests": {"nos_optax", "experiments", "benchmarks"},
}
# What may import the pages of runs; they read a run's folder and know of no search.
PAGES = "nos_optax.search.reports"
ABOVE_THE_PAGES = {
    *("nos_optax.search.loop", "nos_optax.search.api", "nos_optax.report"),
    "nos_optax.search.promote.entrants",
    "nos_optax.search.promote.page",
}


def modules(folder: Path) -> dict[str, Path]:
    """Return a folder's files by the names that they are imported by: a script's has no package."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        top = next(parent for parent in path.parents if not (parent / "__init__.py").exists())
        name = ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")
        assert name not in found, f"{path} and {found[name]} have one name"
        found[name] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a file imports, in functions too, if not for type checking: the likelier first."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            # `from package import x` names a module, or something in the package's own file.
            yield from ((f"{node.module}.{alias.name}", f"{node.module}") for alias in node.names)


def import_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which of the modules each imports.

    A package is imported where something in its own file is, not wherever a module of it is.
    """
    graph = {}
    for name, path in files.items():
        targets = (next(filter(files.__contains__, names), None) for names in imports(path))
        graph[name] = {target for target in targets if target}
    return graph


def check_no_circle(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"circle of imports: {' -> '.join(error.args[1][::-1])}") from None


FILES = {folder: modules(ROOT / folder) for folder in FOLDERS}
GRAPH = import_graph({name: path for files in FILES.values() for name, path in files.items()})


def test_no_circle_among_modules():
    assert len(GRAPH) == sum(map(len, FILES.values())), "modules of two folders have one name"
    check_no_circle(GRAPH)


@pytest.mark.parametrize(
    ("guard", "raised"),
    [
        ("if True", pytest.raises(AssertionError, match=r": (a -> b.c -> a|b.c -> a -> b.c)$")),
        ("def f()", pytest.raises(AssertionError, match=r": (a -> b.c -> a|b.c -> a -> b.c)$")),
        ("if TYPE_CHECKING", contextlib.nullcontext()),
    ],
)
def test_a_circle_is_named(tmp_path, guard, raised):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "__init__.py").write_text("from b.c import x")
    (tmp_path / "b" / "c.py").write_text(f"{guard}:\n    from a import y")
    (tmp_path / "a.py").write_text("from b import c")
    with raised:
        check_no_circle(import_graph(modules(tmp_path)))


def test_imports_go_one_way_between_folders():
    folder_of = {name: folder for folder, files in FILES.items() for name in files}
    for name, targets in GRAPH.items():
        allowed = FOLDERS[folder_of[name]] | {folder_of[name]}
        assert {folder_of[target] for target in targets} <= allowed, name


def test_imports_go_one_way_between_parts():
    def part_of(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    for name in FILES["nos_optax"].keys() - {"nos_optax"}:
        allowed = ALLOWED[part_of(name)] | {part_of(name), "_arguments", "_files", "_version"}
        wrong = {target for target in GRAPH[name] if part_of(target) not in allowed}
        assert not wrong, f"{name} imports {', '.join(wrong)}"


def test_what_is_below_the_loop_knows_no_pages():
    above = {
        name
        for name in FILES["nos_optax"]
        if not name.startswith(PAGES) and any(x.startswith(PAGES) for x in GRAPH[name])
    }
    assert above == ABOVE_THE_PAGES


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
    for info in pkgutil.walk_packages([str(PACKAGE)], "nos_optax."):
        assert importlib.import_module(info.name).__doc__, info.name
