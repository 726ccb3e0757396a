"""The ledger as a page in a real browser, as a table, as a summary, and as a difference."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.performance.conftest import INNER, LEDGER, write_tests
from tests.projects import Project, copy_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip(f"There is no browser: install one of {', '.join(BROWSERS)}.")
    with sync_playwright() as playwright:
        # Root has no sandbox.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: problems.append(request.url) if "file:" not in request.url else None,
    )
    yield page
    context.close()
    assert problems == []


REPEATS = """
    import time

    import pytest
    from sqlalchemy import text


    async def test_loop(session):
        for number in range(9):
            await session.execute(text("SELECT '<b>&'"))


    @pytest.mark.fast
    def test_over():
        time.sleep(0.15)


    @pytest.mark.parametrize("word", ["<script>alert(1)</script>", "a b%20c#d", "ümläut"])
    def test_odd_names(word):
        pass
"""


@pytest.fixture(scope="module")
def report(sqlite_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a project whose tests have run three times."""
    project = copy_of(sqlite_project, tmp_path_factory.mktemp("report") / "my-service")
    write_tests(project, REPEATS)
    for _ in range(3):
        project.pytest("-o", f"testpaths=tests/products tests/users {INNER}", CI="")
    project.run("python", "-m", "testkit.performance", "report")
    return project.path / ".performance" / "report.html"


def rows(page: Page) -> list[str]:
    return page.locator("#rows tr th").all_inner_texts()


class TestPage:
    def test_says_where_the_time_goes(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())

        expect(page.locator("header p")).to_contain_text("tests in")
        for name in ("set-up", "SQL", "tear-down", "imports", "collection"):
            expect(page.locator("#time")).to_contain_text(name)
        expect(page.locator("#time svg.trend rect")).to_have_count(3)
        expect(page.locator("#fixtures")).to_contain_text("tests.fixtures.")
        expect(page.locator("#repeated tbody tr").first).to_contain_text("SELECT '<b>&'")
        expect(page.locator("#repeated tbody tr").first).to_contain_text(f"{INNER}:10")
        expect(page.locator("#shards tbody tr")).to_have_count(3)
        expect(page.locator("#budgets tbody tr").first).to_contain_text("test_over")

    def test_tests_can_be_searched_sorted_and_filtered(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        expect(page.locator("#rows tr").first).to_contain_text("test_production_argon2")

        page.get_by_label("Search").fill("TESTRESET users")
        assert rows(page)
        assert all("testreset" in name.lower() and "users" in name.lower() for name in rows(page))
        expect(page.locator("#count")).to_contain_text(f"{len(rows(page))} of ")

        page.get_by_label("Search").fill("")
        page.get_by_role("button", name="test", exact=True).click()
        in_order = "names => names.toSorted((one, other) => one.localeCompare(other))"
        assert rows(page) == page.evaluate(in_order, rows(page))
        heading = page.locator("#columns th").first
        expect(heading).to_have_attribute("aria-sort", "ascending")
        page.get_by_role("button", name="test", exact=True).click()
        expect(heading).to_have_attribute("aria-sort", "descending")

        page.get_by_label("Speed").select_option("over")
        assert rows(page) == [f"{INNER}::test_over"]
        expect(page.locator("#rows tr").first).to_contain_text("over budget")

    def test_works_with_the_keyboard(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        page.get_by_label("Search").focus()
        page.keyboard.type("products")
        for _ in range(4):  # the select, the table that scrolls, two columns
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")

        expect(page.locator("#columns th").nth(1)).to_have_attribute("aria-sort", "ascending")
        assert all("products" in name for name in rows(page))

    def test_what_is_shown_has_an_address(self, page: Page, report: Path, browser: Browser) -> None:
        page.goto(report.as_uri())
        page.get_by_label("Search").fill("users")
        page.get_by_role("button", name="SQL").click()
        shown = rows(page)

        other = browser.new_page()
        other.goto(page.url)
        assert rows(other) == shown
        other.close()

    @pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a b%20c#d", "ümläut"])
    def test_links_lead_to_a_test(self, page: Page, report: Path, name: str) -> None:
        page.goto(report.as_uri())
        page.get_by_label("Search").fill("odd_names")
        link = page.locator("#rows th a").filter(has_text=name.encode("unicode_escape").decode())
        link.click()

        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page.locator("#rows tr.found")).to_have_count(1)
        shown = rows(page)
        page.reload()
        assert rows(page) == shown

    def test_sections_stay_reachable(self, page: Page, report: Path) -> None:
        page.goto(report.as_uri())
        page.get_by_label("Search").fill("users")
        page.get_by_role("link", name="Shards").click()

        expect(page.locator("#shards")).to_be_in_viewport()
        assert all("users" in name for name in rows(page))

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_has_no_barriers(self, page: Page, report: Path, scheme: str) -> None:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(report.as_uri())

        results = Axe().run(page)

        assert results.violations_count == 0, results.generate_report()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")

    @pytest.mark.parametrize("width", [360, 1280])
    def test_fits_the_screen(self, page: Page, report: Path, width: int) -> None:
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(report.as_uri())

        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_works_with_ten_thousand_tests(self, page: Page, project: Project) -> None:
        lines = [
            {"ledger": 1},
            json.loads((Path(__file__).parent / "run.json").read_text()),
            *(
                {
                    "test": f"tests/test_many.py::test_number[{number}]",
                    "markers": [],
                    "last": {
                        "seconds": number / 1e5,
                        "setup": 0.001,
                        "call": number / 1e5,
                        "teardown": 0.001,
                        "outcome": "passed",
                    },
                    "history": [[f"{run}-1", number / 1e5, "passed", 0] for run in range(10)],
                }
                for number in range(10_000)
            ),
        ]
        path = project.path / LEDGER
        path.parent.mkdir()
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        project.run("python", "-m", "testkit.performance", "report")

        page.goto((project.path / ".performance/report.html").as_uri())
        expect(page.locator("#count")).to_have_text("10,000 of 10,000 tests")
        assert len(rows(page)) == 15
        page.get_by_role("button", name="Show more").click()
        assert len(rows(page)) == 115
        page.get_by_label("Search").fill("[9999]")
        assert rows(page) == ["tests/test_many.py::test_number[9999]"]
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()


class TestText:
    def test_table(self, report: Path, sqlite_project: Project) -> None:
        output = said(sqlite_project, report, "table")

        assert "Where the time goes" in output
        assert "Slowest of " in output
        assert f"9 x {INNER}:10: SELECT '<b>&'" in output
        assert "over its 0.1 s" in output
        assert "Over budget: 1." in output

    def test_summary_is_markdown(self, report: Path, sqlite_project: Project) -> None:
        output = said(sqlite_project, report, "summary")

        html = MarkdownIt("commonmark").enable("table").render(output)
        assert "<h3>" in html
        assert html.count("<table>") == 2
        assert f"<strong>Over budget:</strong> <code>{INNER}::test_over</code>" in html

    def test_difference(self, report: Path, project: Project) -> None:
        before = report.parent / "ledger.jsonl"
        write_tests(
            project,
            REPEATS.replace("range(9)", "range(12)").replace("def test_over", "def test_new"),
        )
        project.pytest("tests/products", INNER, CI="")

        output = project.run(
            "python", "-m", "testkit.performance", "diff", str(before), LEDGER
        ).stdout

        html = MarkdownIt("commonmark").enable("table").render(output)
        assert "<h3>Tests: " in html
        assert "9 → 12" in output
        assert f"the slowest is `{INNER}::test_new`" in output
        assert "Gone: " in output
        assert len(output) < 5000

    def test_nothing_recorded(self, project: Project) -> None:
        for command in ("table", "report", "summary"):
            result = project.run("python", "-m", "testkit.performance", command, check=False)

            assert result.returncode == 2
            assert result.stdout.startswith("Nothing is recorded yet: run the tests once")

    def test_targets(self, project: Project) -> None:
        (project.path / ".venv").symlink_to(project.venv)
        project.pytest("tests/test_health.py")

        assert "Where the time goes" in project.make("perf").stdout
        assert "report.html" in project.make("perf-report").stdout


def said(project: Project, report: Path, command: str) -> str:
    return subprocess.run(
        [project.venv / "bin" / "python", "-m", "testkit.performance", command],
        cwd=report.parents[1],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
