"""The documentation: it builds without a warning, names all that is public, and its code runs."""

import inspect
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from test_architecture import PACKAGES, public_names

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
PAGES = [page for page in sorted(DOCS.glob("*.md")) if BLOCK.search(page.read_text())]

pytestmark = pytest.mark.slow


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


def test_every_public_name_is_in_the_reference(site):
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    known = {line.split()[0].split(".")[-1] for line in lines if " py:" in line}
    functions_and_classes = {
        name
        for _, name, value in public_names()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    assert PACKAGES and functions_and_classes - known == set()


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"')
    for page in site.glob("*.html"):
        assert loaded.findall(page.read_text()) == [], page.name


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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    """All Python blocks of a page are one program, then all `sh` blocks are one.

    A `console` block needs what a test has not: a cluster, a data set, an installation.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    blocks = BLOCK.findall(page.read_text())
    python = "\n".join(code for language, code in blocks if language == "python")
    shell = "\n".join(code for language, code in blocks if language == "sh")
    (tmp_path / "page.py").write_text(python)
    for command in ([sys.executable, "page.py"], ["bash", "-euc", shell]):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
