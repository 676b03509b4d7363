"""The documentation: it builds without a warning, names all that is public, and its code runs."""

import dataclasses
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
from test_architecture import PACKAGES, public_names

from nos_optax.search import Result, SearchConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    *sorted(DOCS.glob("*.md")),
    README,
    ROOT / "CONTRIBUTING.md",
    DOCS / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "experiments" / "README.md",
]
MODULES = ("nos_optax.report",)  # not packages, but named in the documents

NEEDS_A_CLUSTER = "needs several machines"
NEEDS_DATA = "needs an accelerator, the images of CIFAR-10 or their archive"
INSTALLS = "installs packages"
# Blocks that no test runs, by page and first line.
NOT_RUN = {
    ("docs/index.md", "$ pip install nos_optax-0.2.0-py3-none-any.whl"): INSTALLS,
    ("docs/machines.md", "$ ray start --head"): NEEDS_A_CLUSTER,
    ("docs/reproducing.md", "$ python experiments/rosenbrock.py"): "takes minutes, and needs data",
    ("docs/searching.md", "$ python -m nos_optax.search.promote"): "needs searches that are over",
    ("docs/reproducing.md", "$ python -m nos_optax.search --prepare-data"): NEEDS_DATA,
    ("README.md", "make setup && source .venv/bin/activate"): INSTALLS,
    ("README.md", "python experiments/search.py --accelerator gpu"): NEEDS_DATA,
}


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    code: str

    @property
    def only_makes(self) -> bool:
        """Whether it is calls of make, which a test of their own looks at."""
        return all(re.fullmatch(r"make [a-z-]+( +#.*)?", x) for x in self.code.splitlines())


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks of code; directives of the site's generator are none."""
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(*fence) for fence in fences if not fence[0].startswith("{")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_block_of_code_is_run_or_an_exception():
    excepted = set()
    for page in PAGES:
        for block in blocks(page):
            python = block.language == "python" and (page.parent == DOCS or page == README)
            if python or block.language == "sh" or block.only_makes:
                continue
            found = [
                key for key in NOT_RUN if key[0] == name_of(page) and block.code.startswith(key[1])
            ]
            assert len(found) == 1, f"{name_of(page)}: nothing runs\n{block.code}"
            excepted |= set(found)
    assert excepted == set(NOT_RUN), "exceptions that are none"


def test_every_target_of_make_that_is_named_is_one():
    named = {t for p in PAGES for t in re.findall(r"(?:`|^)make ([a-z-]+)", p.read_text(), re.M)}
    command = ["make", "-n", "--keep-going", *sorted(named)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert named and done.returncode == 0, done.stderr


def test_every_flag_of_a_search_is_explained():
    named = set(re.findall(r"`(--[a-z-]+)", (DOCS / "searching.md").read_text()))
    flags = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(SearchConfig)}
    assert flags <= {flag.replace("--no-", "--") for flag in named}, flags - named


def interface() -> list[tuple[str, str, object]]:
    """Return all that is public: module, name, value."""
    found = list(public_names())
    for name in MODULES:
        module = importlib.import_module(name)
        found += [
            (name, key, value)
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == name and key not in ("main",)
        ]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-E",
        "-d",
        out / "cache",
    ]
    done = subprocess.run(
        [*command, "-b", "html", DOCS, out / "html"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def known(site):
    """Return the qualified names that the site explains."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(known):
    # What several packages export is explained under one of its names.
    public = interface()
    places: dict[tuple[str, int], set[str]] = {}
    for package, name, value in public:
        places.setdefault((name, id(value)), set()).add(f"{package}.{name}")
    absent = {min(names) for names in places.values() if not names & known}
    assert absent == set()
    assert {package for package, *_ in public} == {*PACKAGES, *MODULES}
    assert any(not (inspect.isclass(v) or inspect.isfunction(v)) for *_, v in public)


@pytest.mark.slow
def test_the_fields_of_a_result_are_in_the_reference(known):
    assert {f"nos_optax.search.Result.{field}" for field in Result._fields} <= known


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    loaded = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"')
    for page in site.glob("*.html"):
        assert loaded.findall(page.read_text()) == [], page.name


@pytest.mark.slow
def test_links_within_the_site_lead_somewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        for target in re.findall(r'href="([^"]+)"', text):
            path, _, anchor = target.partition("#")
            if ":" in path:
                continue
            other = page if not path else (page.parent / path.split("?")[0])
            assert other.exists(), f"{page.name}: {target}"
            if anchor and other.suffix == ".html":
                assert f'id="{anchor}"' in other.read_text(), f"{page.name}: {target}"


def run(command: list, folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.parent == DOCS and any(b.language == "python" for b in blocks(p))],
    ids=name_of,
)
def test_the_python_of_a_page_is_one_program(page, tmp_path):
    """That of the README is in `test_readme.py`."""
    code = "\n".join(block.code for block in blocks(page) if block.language == "python")
    (tmp_path / "page.py").write_text(code)
    run([sys.executable, "page.py"], tmp_path)


@pytest.fixture
def clone(tmp_path):
    """Return what stands for a fresh clone that is set up; what is written there stays there."""
    written = ("docs", "experiments")
    for path in ROOT.iterdir():
        if path.name in written:
            ignore = shutil.ignore_patterns("results", "runs", "__pycache__")
            shutil.copytree(path, tmp_path / path.name, ignore=ignore)
        elif path.name not in (".git", ".venv", "runs", "build", "dist"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "sh" for b in blocks(p))], ids=name_of
)
def test_the_commands_of_a_page_run_from_top_to_bottom(page, clone):
    """Each block begins at the root of a clone; runs of earlier blocks are there."""
    for block in blocks(page):
        if block.language == "sh":
            run(["bash", "-euc", block.code], clone)
