"""Reports as files: each appears whole or not at all."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from nos_optax._command import user_path
from nos_optax._files import refuse_links, write_whole
from nos_optax.search.reports.charts import charts
from nos_optax.search.reports.comparison_charts import comparison_charts
from nos_optax.search.reports.groups import group_runs
from nos_optax.search.reports.layout import Drawing, layout
from nos_optax.search.reports.page import comparison_page, run_page
from nos_optax.search.reports.picture import files
from nos_optax.search.reports.read import Run, read_run


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a run: a page, and its pictures beside it in a folder of its name.

    Args:
        path: the run folder; the run may be finished, killed or in use.
        out: the page (default: report.html in the run folder).

    Returns:
        The page.

    Raises:
        OSError: there is no run, its history is damaged, it holds links, or the report cannot be
            written.
        ValueError: `out` is no page.
    """
    path, out = user_path(path), user_path(out) if out else None
    _check(out or path / "report.html")
    run = read_run(path)
    _warn(run)
    made = {name: layout(chart) for name, chart in charts(run).items()}
    content = run_page(run, made)
    try:
        return _write(out or path / "report.html", made, content)
    except OSError as error:
        remedy = "" if out else "; name a page elsewhere by --out"
        raise OSError(f"{error}{remedy}") from error


def write_comparison(paths: Sequence[Path], out: Path = Path("comparison.html")) -> Path:
    """Write a page that compares runs, and its pictures beside it in a folder of its name.

    Args:
        paths: the run folders, each once.
        out: the page.

    Returns:
        The page.

    Raises:
        OSError: there is no run, its history is damaged, it holds links, or the page cannot be
            written.
        ValueError: a run is given twice, or `out` is no page.
    """
    paths, out = [user_path(path) for path in paths], user_path(out)
    _check(out)
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise ValueError(f"{path} is given more than once; name each run once")
    runs = [read_run(path) for path in paths]
    for run in runs:
        _warn(run)
    groups = group_runs(runs)
    made = {name: layout(chart) for name, chart in comparison_charts(groups).items()}
    return _write(out, made, comparison_page(groups, made))


def _warn(run: Run) -> None:
    """Say what is damaged; the page says it too, and has the rest."""
    for said in run.damage:
        warnings.warn(said, stacklevel=3)


def _check(page: Path) -> None:
    """Refuse a page whose folder of pictures would have its own name."""
    if page.suffix != ".html":
        raise ValueError(f"--out {page} must end in .html")


def _write(page: Path, pictures: Mapping[str, Drawing], content: str) -> Path:
    """Write a page, after its pictures."""
    refuse_links(page.parent, (page.stem,))
    for picture in pictures.values():
        for name, file in files(picture).items():
            write_whole(page.with_suffix("") / name, file)
    write_whole(page, content.encode())
    return page
