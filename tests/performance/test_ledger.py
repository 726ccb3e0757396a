"""What every test costs, in one file."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import run
from tests.performance.conftest import INNER, LEDGER, ledger_of, write_tests
from tests.projects import Project

MEASURED = """
    import time

    import pytest
    from sqlalchemy import text

    from app.settings import Settings
    from app.users.passwords import get_password_helper

    KEPT = []


    @pytest.fixture
    def slow_fixture():
        time.sleep(0.03)
        yield
        time.sleep(0.02)


    @pytest.fixture(scope="session")
    def shared_fixture():
        time.sleep(0.3)


    def test_fixtures(slow_fixture, shared_fixture):
        time.sleep(0.05)


    async def test_sql(session):
        for number in range(7):
            await session.execute(text("SELECT 1"))
        await session.execute(text("SELECT 2"))
        await session.commit()


    async def test_requests(client):
        for _ in range(3):
            await client.get("/api/v1/products")


    def test_hashes():
        production = Settings(argon2_time_cost=1, argon2_memory_cost=8192)
        hashed = get_password_helper(production).hash("password")
        get_password_helper(production).verify_and_update("password", hashed)
        cheap = get_password_helper(Settings())
        cheap.verify_and_update("password", cheap.hash("password"))


    def test_memory():
        KEPT.append(bytearray(b"x") * 20_000_000)


    @pytest.mark.slow
    def test_fails():
        raise AssertionError


    @pytest.mark.skip
    def test_skipped():
        pass


    @pytest.mark.xfail
    def test_expected_failure():
        raise AssertionError
"""


def test_says_what_tests_have_cost(copy_of_each: Project) -> None:
    project = copy_of_each
    write_tests(project, MEASURED)

    project.pytest(INNER, check=False, cold=True)

    ledger = ledger_of(project)
    tests = {name.partition("::")[2]: test["last"] for name, test in ledger.tests.items()}
    fixtures = tests["test_fixtures"]
    assert fixtures["setup"] > 0.03
    assert fixtures["call"] > 0.05
    assert fixtures["teardown"] > 0.02
    # Without the fixture that others could share.
    assert 0.1 <= fixtures["seconds"] < 0.3
    assert fixtures["fixtures"]["tests.test_inner:slow_fixture"] > 0.05
    assert tests["test_sql"]["statements"] == 8
    assert tests["test_sql"]["commits"] == 1
    assert 0 < tests["test_sql"]["sql"] < tests["test_sql"]["call"]
    assert tests["test_sql"]["repeated"] == [[7, "SELECT 1", f"{INNER}:31"]]
    assert 0 < tests["test_sql"]["isolation"] < 1
    assert tests["test_requests"]["requests"] == 3
    # Three requests of two statements each; nothing is repeated within one of them.
    assert tests["test_requests"]["statements"] == 6
    assert "repeated" not in tests["test_requests"]
    assert tests["test_hashes"]["hashes"] == 2
    assert tests["test_memory"]["memory"] > 15_000_000
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "test_fixtures": "passed",
        "test_sql": "passed",
        "test_requests": "passed",
        "test_hashes": "passed",
        "test_memory": "passed",
        "test_fails": "failed",
        "test_skipped": "skipped",
        "test_expected_failure": "xfailed",
    }
    assert "slow" in ledger.tests[f"{INNER}::test_fails"]["markers"]
    (of_run,) = ledger.runs
    assert of_run["tests"] == 8
    assert of_run["outcomes"] == {"passed": 5, "failed": 1, "skipped": 1, "xfailed": 1}
    assert of_run["database"] == project.database
    assert of_run["statements"] == 14
    assert of_run["fixtures"]["tests.test_inner:shared_fixture"][:2] == ["session", 1]
    assert of_run["fixtures"]["tests.test_inner:shared_fixture"][2] > 0.3
    assert {"fastapi", "app"} <= of_run["imports"].keys()
    for name in ("seconds", "collection", "server", "calibration", "isolation", "sql", "memory"):
        assert of_run[name] > 0, name


def test_processor_time_of_imports_is_no_tests(project: Project) -> None:
    write_tests(
        project,
        """
        from time import process_time

        start = process_time()
        while process_time() - start < 0.5:
            pass


        def test_that_is_first():
            pass
        """,
    )

    project.pytest(INNER, cold=True)

    (test,) = ledger_of(project).tests.values()
    assert 0 < test["last"]["cpu"] < 0.5


def test_counts_hashes_however_the_libraries_are_called(project: Project) -> None:
    write_tests(
        project,
        """
        import argon2
        import bcrypt
        import pytest


        def test_keywords():
            hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8192)
            hashed = hasher.hash(password="x")
            hasher.verify(hash=hashed.encode(), password="x")
            salted = bcrypt.hashpw(password=b"x", salt=bcrypt.gensalt(9))
            bcrypt.checkpw(password=b"x", hashed_password=salted)


        def test_mistakes_are_the_libraries_to_tell():
            with pytest.raises(argon2.exceptions.InvalidHash):
                argon2.PasswordHasher(time_cost=1, memory_cost=8).verify("$argon2?", "x")
            with pytest.raises(TypeError):
                bcrypt.hashpw()
            with pytest.raises(TypeError):
                bcrypt.hashpw("text", 5)
        """,
    )

    project.pytest(INNER)

    tests = ledger_of(project).tests
    assert tests[f"{INNER}::test_keywords"]["last"]["hashes"] == 4
    assert "hashes" not in tests[f"{INNER}::test_mistakes_are_the_libraries_to_tell"]["last"]


def test_puts_workers_and_runs_together(copy_of_each: Project) -> None:
    project = copy_of_each

    project.pytest("tests/users", "-n", "2")
    project.pytest("tests/users/test_auth.py")

    ledger = ledger_of(project)
    parallel, serial = ledger.runs
    assert (parallel["workers"], serial["workers"]) == (2, 0)
    assert parallel["worker_start"] > parallel["collection"] > 0
    assert parallel["tests"] == len(ledger.tests) > serial["tests"]
    for name, test in ledger.tests.items():
        runs = [result[0] for result in test["history"]]
        expected = [parallel["run"], serial["run"]]
        assert runs == (expected if "test_auth" in name else expected[:1])


def test_is_the_same_with_workers(project: Project) -> None:
    write_tests(project, MEASURED)
    for option in ("-n0", "-n2"):
        project.pytest(INNER, option, "--ledger", f"ledger{option}.jsonl", check=False)

    serial, parallel = (ledger_of(project, f"ledger{option}.jsonl") for option in ("-n0", "-n2"))

    for name, test in serial.tests.items():
        for figure in ("outcome", "statements", "commits", "requests", "hashes", "repeated"):
            assert test["last"].get(figure) == parallel.tests[name]["last"].get(figure)
    assert serial.runs[0]["outcomes"] == parallel.runs[0]["outcomes"]


def test_runs_at_the_same_time_are_all_recorded(project: Project) -> None:
    suites = ("tests/users", "tests/products", "tests/services", "tests/test_errors.py")
    with ThreadPoolExecutor() as runs:
        list(runs.map(project.pytest, suites))

    ledger = ledger_of(project)

    assert len(ledger.runs) == 4
    assert len(ledger.tests) == sum(of_run["tests"] for of_run in ledger.runs)


RECORD = """
from pathlib import Path

from testkit.performance import ledger


def record(number, names, complete=False):
    run = {"run": f"{number}-1", "tests": len(names), "complete": complete}
    tests = {name: {"seconds": 0.1, "outcome": "passed"} for name in names}
    ledger.record(Path(".performance/ledger.jsonl"), run, tests)


"""


def test_is_bounded(project: Project) -> None:
    runs = """
for number in range(120):
    record(number + 1, ["always", f"once_{number}"])
"""
    project.run("python", "-c", RECORD + runs)

    ledger = ledger_of(project)

    assert [of_run["run"] for of_run in ledger.runs] == [f"{n}-1" for n in range(71, 121)]
    assert len(ledger.tests["always"]["history"]) == 10
    assert ledger.tests.keys() == {"always", *(f"once_{number}" for number in range(70, 120))}


def test_many_runs_of_few_tests_push_nothing_out(project: Project) -> None:
    """As `make watch` has them: what is known of the whole suite stays."""
    runs = """
suite = [f"test_{number}" for number in range(100)]
for number in range(5):
    record(number, suite, complete=True)
for number in range(5, 80):
    record(number, suite[: 1 + number % 2])
for number in range(80, 140):
    record(number, suite, complete=number % 3 == 0)
"""
    project.run("python", "-c", RECORD + runs)

    ledger = ledger_of(project)

    assert len(ledger.tests) == 100
    assert len(ledger.runs) == 50
    numbers = [int(of_run["run"].split("-")[0]) for of_run in ledger.runs]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 139
    assert sum(of_run["complete"] for of_run in ledger.runs) == 25
    assert [number for number in numbers if number < 5] == [0, 1, 2, 3, 4]


def test_keeps_any_name(project: Project) -> None:
    names = ['"', "\\", "\n", "\r", "}", "[", "\x85", "\u2028", "ü", "\U0001f40d", ""]
    options = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support"
    write_tests(
        project,
        f"""
        import pytest

        @pytest.mark.parametrize("name", {names!a}, ids={names!a})
        def test_names(name):
            pass
        """,
    )

    project.pytest(INNER, "-o", f"{options}=true")
    project.pytest(INNER, "-o", f"{options}=true")

    found = ledger_of(project).tests
    assert found.keys() == {f"{INNER}::test_names[{name}]" for name in names}
    assert {len(test["history"]) for test in found.values()} == {2}


def test_forgets_tests_that_are_gone(project: Project) -> None:
    write_tests(project, "def test_here(): pass\ndef test_gone(): pass\n")
    project.pytest("-o", "testpaths=tests/test_inner.py")
    write_tests(project, "def test_here(): pass\n")

    # What is not the whole suite says nothing about the rest.
    project.pytest("-o", "testpaths=tests/test_inner.py", "-k", "here")
    assert f"{INNER}::test_gone" in ledger_of(project).tests

    project.pytest("-o", "testpaths=tests/test_inner.py")
    assert ledger_of(project).tests.keys() == {f"{INNER}::test_here"}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe\x00",
        b"no ledger\n",
        b'{"ledger": 1}\n{"run": "1-1", "te',
        b'{"ledger": 1}\n{"test": "broken\n',
        b'{"ledger": 1}\n{"test": "broken}\n',
        b'{"ledger": 1}\n{"test": "broken\\"}\n',
        b'{"ledger": 1}\n{"test": "tests/test_health.py::test_x", "last": {"seco}\n',
        b'{"ledger": 1}\n{"test": "tests/test_health.py::test_x", "last": {}, "history": []}\n',
        b'{"ledger": 1}\n[]\n',
    ],
)
@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_damaged_file_is_set_aside(
    project: Project, damage: bytes, options: tuple[str, ...]
) -> None:
    path = project.path / LEDGER
    path.parent.mkdir()
    path.write_bytes(damage)

    result = project.pytest("tests/test_health.py", *options)

    assert "was damaged. It is now" in result.stdout
    assert "Traceback" not in result.stdout
    assert path.with_name("ledger.jsonl.damaged-1").read_bytes() == damage
    assert len(ledger_of(project).runs) == 1


@pytest.mark.parametrize(
    "options", [("tests/test_health.py",), ("-n", "2", "tests/test_health.py")]
)
def test_line_broken_in_its_midst_is_found(project: Project, options: tuple[str, ...]) -> None:
    project.pytest("tests/test_health.py")
    project.edit(LEDGER, '"outcome": "passed"', '"outcome: "passed"')

    table = project.run("python", "-m", "testkit.performance", "table", check=False)
    result = project.pytest(*options)

    assert table.returncode == 2
    assert "is damaged: line 3 is no record" in table.stdout
    assert "was damaged. It is now" in result.stdout
    assert "Traceback" not in table.stdout + result.stdout
    assert len(ledger_of(project).runs) == 1


def test_ledger_may_be_changed_by_hand(project: Project) -> None:
    project.pytest("tests/test_health.py")
    path = project.path / LEDGER
    header, run, *tests = path.read_text().splitlines()
    path.write_text("\n".join([header, run, *tests[1:]]) + "\n")

    project.pytest("tests/test_health.py")

    results = [len(test["history"]) for test in ledger_of(project).tests.values()]
    assert sorted(results) == [1, *(2 for _ in tests[1:])]


def test_newer_version_is_left_alone(project: Project) -> None:
    path = project.path / LEDGER
    path.parent.mkdir()
    path.write_text('{"ledger": 2}\n{"something": "new"}\n')

    local = project.pytest("tests/test_health.py", CI="")
    in_ci = project.pytest("tests/test_health.py", check=False, CI="true")

    sentence = "has version 2, and this test kit knows version 1"
    assert sentence in local.stdout
    assert in_ci.returncode == 4
    assert sentence in in_ci.stdout
    assert "Traceback" not in local.stdout + in_ci.stdout
    assert path.read_text() == '{"ledger": 2}\n{"something": "new"}\n'
    for command in ("table", "report", "summary"):
        result = project.run("python", "-m", "testkit.performance", command, check=False)
        assert result.returncode == 2
        assert sentence in result.stdout
        assert "Traceback" not in result.stdout


def test_can_be_turned_off(project: Project) -> None:
    project.pytest("tests/test_health.py", "--no-ledger")
    project.pytest("tests/test_health.py", "--collect-only")

    assert not (project.path / ".performance").exists()


def test_place_that_cannot_be_written_is_no_failure(project: Project) -> None:
    (project.path / "file").touch()

    result = project.pytest("tests/test_health.py", "--ledger", "file/ledger.jsonl", CI="")

    assert "cannot be" in result.stdout
    assert "Traceback" not in result.stdout


def test_memory_can_be_traced_to_lines(project: Project) -> None:
    write_tests(
        project,
        """
        KEPT = []

        def test_keeps():
            KEPT.append(bytearray(3_000_000))

        def test_does_not():
            bytearray(3_000_000)
        """,
    )

    project.pytest(INNER, "--ledger-memory")

    tests = ledger_of(project).tests
    size, place = tests[f"{INNER}::test_keeps"]["last"]["lines"][0]
    assert size >= 3_000_000
    assert place == f"{INNER}:5"
    assert all(size < 100_000 for size, _ in tests[f"{INNER}::test_does_not"]["last"]["lines"])


def test_is_documented(project: Project) -> None:
    """Every figure in the file is described in the module that writes it."""
    project.pytest("tests/products", "tests/users", "--ledger-memory")
    ledger = ledger_of(project)
    described = project.run(
        "python",
        "-c",
        "import json\nfrom testkit.performance.ledger import RUN, TEST\n"
        "print(json.dumps([list(RUN), list(TEST)]))",
    ).stdout
    of_runs, of_tests = map(set, json.loads(described))

    assert ledger.runs[0].keys() <= of_runs
    assert {figure for test in ledger.tests.values() for figure in test["last"]} <= of_tests


def test_is_ignored_by_git(project: Project) -> None:
    project.pytest("tests/test_health.py")

    assert run("git", "status", "--porcelain", cwd=Path(project.path)).stdout == ""


CHOOSES = """
def pytest_configure(config):
    config.args[:] = ["tests/test_inner.py::test_one"]
"""
TWO = """
    import time


    def test_one():
        pass


    def test_two():
        time.sleep(0.2)
"""


def test_run_that_a_plugin_has_narrowed_is_not_complete(lean: Project) -> None:
    """As `pytest --picked` does; the ledger forgets what a complete run did not run."""
    write_tests(lean, TWO)
    (lean.path / "chooses.py").write_text(CHOOSES)
    all_of_them = ("-o", f"testpaths={INNER}")
    lean.pytest(*all_of_them)
    assert ledger_of(lean).runs[-1]["complete"] is True

    lean.pytest(*all_of_them, "-p", "chooses")

    known = ledger_of(lean)
    assert known.runs[-1]["complete"] is False
    assert known.tests.keys() == {f"{INNER}::test_one", f"{INNER}::test_two"}


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only", "--collect-only"])
def test_run_without_tests_is_none(lean: Project, option: str) -> None:
    write_tests(lean, TWO)
    lean.pytest(INNER)
    before = lean.read(LEDGER)

    lean.pytest(INNER, option, check=False)

    assert lean.read(LEDGER) == before
