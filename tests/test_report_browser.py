"""Reports in a browser: how they look, sort and filter, and what they do not run."""

import contextlib
import dataclasses
import random
import re
import shutil

import pytest
from report_cases import CONFIG, INVALID, by_hand, candidate, finished_speed_search, search

import nos_optax
from nos_optax.search import History
from nos_optax.search.reports import read_run, write_comparison, write_report
from nos_optax.search.run_folder import read_candidates


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = search(tmp_path_factory.mktemp("runs") / "run")
    write_report(path)
    return path


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    with api.sync_playwright() as play:
        own = play.chromium.executable_path  # where `playwright install chromium` puts it
        path = next(filter(None, map(shutil.which, (own, *names))), None)
        if path is None:
            pytest.skip("there is no Chromium: playwright install chromium")
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextlib.contextmanager
def opened(browser, path, width=1280, scheme="light"):
    """Open a page without a network; fail if it complains or asks for anything."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if request.url != path.resolve().as_uri() and request.url != "data:,"
            else None
        ),
    )
    page.goto(path.resolve().as_uri())
    yield page
    assert complaints == []
    context.close()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """Return the report of a search that trained nothing again."""
    path = search(tmp_path_factory.mktemp("runs") / "unfinished", finalists=0)
    return write_report(path)


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Return the report of a search that raced, watched, and compared."""
    return write_report(finished_speed_search(tmp_path_factory.mktemp("runs") / "fast"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared")
    runs = [search(path / f"{s}", seed=s, samples=40) for s in (0, 1)]
    return write_comparison([*runs, search(path / "other", samples=32)], path / "page.html")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit_and_are_quiet(browser, run, unfinished, fast, compared, width, scheme):
    for path in (run / "report.html", unfinished, fast, compared):
        with opened(browser, path, width, scheme) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            seen = page.locator("figure svg:visible")
            assert seen.count() == page.locator("figure").count() > 0
            # A picture that would be too small to read on a phone scrolls in its own box.
            heights = page.evaluate(
                "[...document.querySelectorAll('figure svg text')].map("
                "t => t.getCTM().a * parseFloat(getComputedStyle(t).fontSize))"
            )
            assert min(heights) > 8.5
            ink, paper = page.evaluate(
                "[getComputedStyle(document.querySelector('figure svg text')).fill,"
                " getComputedStyle(document.body).backgroundColor]"
            )
            brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
            assert (brightness[0] > brightness[1]) == (scheme == "dark")


@pytest.mark.slow
def test_the_table_sorts_filters_and_turns_its_pages(browser, run):
    rewards = sorted((c.reward for c in read_candidates(run)), reverse=True)
    with opened(browser, run / "report.html") as page:
        table = page.locator("#candidates table")
        header = table.locator("th").nth(2)
        header.locator("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        column = table.locator("tbody td:nth-child(3)")
        assert column.all_text_contents() == [f"{x:.4f}" for x in rewards[:50]]
        page.get_by_role("button", name="Next").click()
        assert column.all_text_contents() == [f"{x:.4f}" for x in rewards[50:]]
        assert page.get_by_role("button", name="Next").is_disabled()
        page.keyboard.press("Shift+Tab")
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert column.first.text_content() == f"{rewards[-1]:.4f}"
        page.locator("#candidates select").select_option("trained")
        trained = sum(c.status == "trained" for c in read_candidates(run))
        assert table.locator("tbody tr").count() == min(50, trained)
        assert f"of {trained}" in page.locator("#candidates [role=status]").text_content()
        page.locator("#candidates input").fill("no such rule")
        assert table.locator("tbody tr").count() == 0


@pytest.mark.slow
def test_latex_is_copied(browser, run):
    with opened(browser, run / "report.html") as page:
        button = page.locator("button.copy").first
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard',"
            " {value: {writeText: async (text) => { window.copied = text; }}})"
        )
        button.click()
        page.wait_for_function("window.copied !== undefined")
        first = read_run(run).results[0]
        assert page.evaluate("window.copied") == nos_optax.parse(first.rule).latex()


@pytest.mark.slow
def test_an_injected_script_does_not_run(browser, tmp_path):
    path = write_report(by_hand(tmp_path / "run", [candidate(0, INVALID)]))
    with opened(browser, path) as page:
        assert page.locator("#candidates tbody code").text_content() == INVALID
    harmed = path.read_text().replace("<main>", "<main><script>document.title = 'harmed'</script>")
    path.write_text(harmed)
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    assert page.title() != "harmed"
    context.close()


@pytest.mark.slow
def test_twenty_thousand_candidates(browser, tmp_path):
    rng = random.Random(0)
    words = ["g m x exp * r1 g sign x +", "v rmsprop x drop(x,0.3) left 2 r1 exp x -"]
    rows = [
        candidate(
            i,
            f"clip(g * {i}, 1e-3) / exp(sign(m) * rd(20))",
            round(rng.random(), 4),
            fingerprint=str(i % 5000),
            tokens=rng.choice(words),
        )
        for i in range(20_000)
    ]
    path = by_hand(tmp_path / "run", [], dataclasses.replace(CONFIG, samples=20_000))
    with contextlib.closing(History(path / "history.sqlite")) as history:
        history.add_candidates(rows)
    written = write_report(path)
    assert written.stat().st_size < 8e6
    with opened(browser, written) as page:
        page.locator("#candidates th button").nth(2).click()
        best = sorted(rows, key=lambda c: (-c.reward, c.id))[:50]
        ids = page.locator("#candidates tbody td:nth-child(1)").all_text_contents()
        assert ids == [str(c.id) for c in best]
        page.locator("#candidates input").fill("g * 19999,")
        assert page.locator("#candidates tbody tr").count() == 1
