"""How many workers `-n auto` starts, and what they tell the controller."""

import os
import re
from collections import Counter

import pytest

from tests.commands import outcome, run
from tests.performance.conftest import INNER, LEDGER, ledger_of, write_tests
from tests.projects import Project

SLEEPING = """
    import time

    import pytest


    @pytest.mark.parametrize("number", range(12))
    def test_sleeps(number):
        time.sleep(0.5)


    def test_quick():
        pass
"""


@pytest.fixture
def two_cores(lean: Project) -> Project:
    """As if the machine had no more."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("there is one core only")
    conftest = lean.path / "tests" / "conftest.py"
    here = f"import os\n\nos.sched_setaffinity(0, {cores})\n"
    conftest.write_text(conftest.read_text() + here)
    return lean


def header(lean: Project, *options: str, **environment: str) -> str:
    """The line about workers."""
    command = ("python", "-m", "pytest", "-n", "auto", *options)
    output = lean.run(*command, check=False, **environment).stdout
    return re.search("^workers: .*$", output, re.MULTILINE)[0]  # type: ignore[index]


class TestNumber:
    def test_is_decided_by_what_is_recorded(self, two_cores: Project) -> None:
        write_tests(two_cores, SLEEPING)

        guessed = header(two_cores, INNER)
        assert guessed.startswith("workers: none, since 2 tests")
        assert "as far as can be guessed before the first run" in guessed

        recorded = header(two_cores, INNER)
        assert re.match(
            r"workers: 2, since 13 tests take about [67]\.\d s in one process, and \d\.\d s in 2$",
            recorded,
        )

    def test_heeds_the_memory_of_the_whole_suite(self, two_cores: Project) -> None:
        """Also after runs of single tests, which need little."""
        lean = two_cores
        write_tests(lean, SLEEPING)
        everything = ("-o", f"testpaths={INNER}")
        lean.pytest(*everything)
        assert header(lean, *everything, "--co").startswith("workers: 2")
        huge = re.sub(r'"memory": \d+', '"memory": 1000000000000', lean.read(LEDGER))
        (lean.path / LEDGER).write_text(huge)
        for _ in range(6):
            lean.pytest(f"{INNER}::test_quick")

        assert header(lean, *everything, "--co").startswith("workers: none")

    def test_is_that_of_the_selected_tests(self, lean: Project) -> None:
        write_tests(lean, SLEEPING)
        lean.pytest(INNER)

        for options in (
            ("-k", "quick"),
            ("-m", "fast"),
            (f"{INNER}::test_quick",),
            ("-m", "not medium", "-k", "not (sleeps and 3)"),
        ):
            place = () if "::" in options[0] else (INNER,)
            line = header(lean, *options, *place)
            assert line.startswith("workers: none, since 1 test takes"), options
        assert "since 2 tests" in header(lean, INNER, "-k", "sleeps and (10 or 11)", "--co")
        assert "since 13 tests" in header(lean, "tests", "--co")
        assert "since 6 tests" in header(lean, INNER, "--shard", "1/2", "--co")

    def test_follows_markers_that_are_stated(self, lean: Project) -> None:
        write_tests(
            lean,
            """
            import pytest


            @pytest.mark.medium
            def test_quick_but_medium():
                pass


            def test_quick():
                pass
            """,
        )
        lean.pytest(INNER)

        assert "since 1 test takes" in header(lean, INNER, "-m", "fast")
        assert "since 1 test takes" in header(lean, INNER, "-m", "medium")

    @pytest.mark.parametrize(
        ("tests", "seconds", "longest", "start", "cores", "memory", "expected"),
        [
            (10, 0.1, 0.01, 2, 8, 8, 0),
            (1000, 10, 0.01, 2, 2, 8, 2),
            (1000, 10, 0.01, 2, 1, 8, 0),
            (1000, 10, 0.01, 2, 8, 3, 3),
            (1000, 10, 0.01, 2, 8, 1, 0),
            # The ninth worker would have nothing to do.
            (100_000, 1000, 0.01, 2, 8, 100, 8),
            # One test takes as long as all others together.
            (11, 20, 10, 2, 8, 8, 2),
            # Starting workers takes longer than the tests.
            (1000, 10, 0.01, 9, 8, 8, 0),
        ],
    )
    def test_follows_from_cores_memory_and_time(
        self,
        sqlite_project: Project,
        tests: int,
        seconds: float,
        longest: float,
        start: float,
        cores: int,
        memory: int,
        expected: int,
    ) -> None:
        output = sqlite_project.run(
            "python",
            "-c",
            "from testkit.performance.workers import Evidence, best\n"
            f"print(best(Evidence({tests}, {seconds}, {longest}, {start}), {cores}, {memory}))",
        ).stdout

        assert int(output) == expected

    def test_is_what_the_environment_says(self, project: Project) -> None:
        line = header(project, "tests/test_health.py", PYTEST_XDIST_AUTO_NUM_WORKERS="1")

        assert line == "workers: 1, as PYTEST_XDIST_AUTO_NUM_WORKERS says"


class TestBatches:
    SUITE = """
        import os

        import pytest


        @pytest.mark.parametrize("number", range(300))
        def test_quick(number):
            if number == 123 and os.environ.get("CRASH"):
                os._exit(1)
            assert number != 200 or not os.environ.get("FAIL")
            if number == 250:
                pytest.skip("for a reason")
    """

    def test_a_crash_is_blamed_on_the_test_that_crashed(self, lean: Project) -> None:
        write_tests(lean, self.SUITE)

        output = lean.pytest(
            INNER, "-n", "2", "--dist", "worksteal", "-vv", check=False, CRASH="1"
        ).stdout

        assert outcome(output) == "1 failed, 298 passed, 1 skipped"
        assert re.search(r"worker 'gw\d' crashed while running .*test_quick\[123\]", output)
        outcomes = Counter(
            re.findall(
                r"(?:PASSED|FAILED|SKIPPED) .*(test_quick\[\d+\])",
                output.partition("=== FAILURES")[0],
            )
        )
        assert len(outcomes) == 300
        assert set(outcomes.values()) == {1}
        assert len(ledger_of(lean).tests) == 299

    @pytest.mark.parametrize("distribution", ["load", "worksteal", "loadfile", "each"])
    def test_no_test_is_lost_or_doubled(self, lean: Project, distribution: str) -> None:
        write_tests(lean, self.SUITE)
        options = ("-n", "2", "--dist", distribution)
        if distribution == "each":
            options = ("--tx", "2*popen", "--dist", "each")

        output = lean.pytest(INNER, *options, check=False, FAIL="1").stdout

        times = 2 if distribution == "each" else 1
        assert f"{times} failed, {298 * times} passed, {times} skipped" in output

    @pytest.mark.parametrize("distribution", ["load", "worksteal"])
    def test_no_worker_waits_for_tests_until_its_next_message(
        self, lean: Project, distribution: str
    ) -> None:
        write_tests(lean, self.SUITE)
        with (lean.path / "tests" / "conftest.py").open("a") as conftest:
            conftest.write("from testkit.performance import batches\nbatches.INTERVAL = 3600\n")

        command = ("timeout", "60", lean.venv / "bin" / "pytest", INNER)
        output = run(*command, "-n", "2", "--dist", distribution, cwd=lean.path).stdout

        assert outcome(output) == "299 passed, 1 skipped"

    def test_what_is_shown_is_the_same_as_without(self, lean: Project) -> None:
        write_tests(lean, self.SUITE)

        def shown(*options: str) -> list[str]:
            output = lean.pytest(
                INNER, "-n", "2", "-rs", "-p", "no:randomly", *options, check=False, FAIL="1"
            ).stdout
            # Which of the workers is quicker is another one each time.
            steady = re.sub(
                r"gw\d|\d+\.\d+s|\d+ms|^[.Fs]+ *\[ *\d+%\]$", "", output, flags=re.MULTILINE
            )
            return steady.splitlines()

        assert shown() == shown("-p", "no:testkit.performance.batches")

    def test_first_failure_can_stop_the_run(self, lean: Project) -> None:
        write_tests(
            lean,
            """
            import time

            import pytest


            @pytest.mark.parametrize("number", range(100))
            def test_slow(number):
                time.sleep(0.1)
                assert number != 3
            """,
        )

        first = lean.pytest(INNER, "-n", "2", "-x", "-p", "no:randomly", check=False)
        again = lean.pytest(INNER, "-n", "2", "--lf", "-p", "no:randomly", check=False)

        assert first.returncode == 2
        assert "stopping after 1 failures" in first.stdout
        assert int(re.search(r"(\d+) passed", first.stdout)[1]) < 20  # type: ignore[index]
        assert again.returncode == 1
        assert outcome(again.stdout) == "1 failed"
