"""`make upgrade`: whatever a team has done to its project, it keeps, and gets what is new."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, UV, commit_all, run, start
from tests.projects import Project, sqlite_first_of
from tests.releases import NEW, OLD, PROJECT, Template, create_linked, cruft
from tests.servers import wait_until

GREEN_CHECK = f"{NEW} is merged, and `make check` is green."
sqlite_first = sqlite_first_of("linked")
UPGRADE = ("run", "--script", "scripts/upgrade.py")
OWN_TEST = "def test_own(user: object) -> None:\n    assert user\n"
RELEASES = [
    tag for tag in run("git", "tag", cwd=ROOT).stdout.split() if re.fullmatch(r"v[\d.]+", tag)
]

HISTORY = run("git", "rev-list", "--first-parent", "--reverse", "HEAD", cwd=ROOT).stdout.split()


def make_edits(project: Project) -> dict[str, str]:
    """What a team does in its first week, and the texts that must stay."""
    (project.path / "tests" / "test_own.py").write_text(OWN_TEST)
    (project.path / "app" / "prices.py").write_text('"""What things cost."""\n\nVAT = 19\n')
    edits = {"tests/test_own.py": OWN_TEST, "app/prices.py": "VAT = 19"}
    for name, text in {
        "README.md": "\n## Our own\n\nAsk Ada.\n",
        ".gitignore": "\nour-notes.txt\n",
    }.items():
        path = project.path / name
        if path.exists():
            path.write_text(path.read_text() + text)
            edits[name] = text.strip()
    errors = project.path / "app" / "errors.py"
    if "self.detail = detail\n" in errors.read_text():
        project.edit("app/errors.py", "self.detail = detail\n", "self.detail = detail.strip()\n")
        edits["app/errors.py"] = "self.detail = detail.strip()"
    return edits


def keep_both(path: Path) -> None:
    """Takes the conflict markers out of a file, as somebody does who wants what is on either side."""
    text = re.sub(r"^(<{7}|={7}|>{7}|\|{7}).*\n", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(text)


def status(project: Project) -> str:
    return run("git", "status", "--porcelain", cwd=project.path).stdout


def contents(project: Project) -> dict[str, bytes]:
    return {name: (project.path / name).read_bytes() for name in project.files()}


def subfolder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


class TestMerges:
    @sqlite_first
    def test_from_an_older_version(self, linked: Project) -> None:
        """With edits beside those of the template, own files, and an unchanged rest."""
        linked.edit("app/errors.py", "self.detail = detail\n", "self.detail = detail.strip()\n")
        linked.edit("README.md", "## Start", "Our service.\n\n## Start")
        (linked.path / "tests" / "test_own.py").write_text(OWN_TEST)
        commit_all(linked.path)

        output = linked.make("upgrade").stdout

        assert GREEN_CHECK in output
        assert "## Unreleased" in output
        assert "The beginning" not in output
        errors = linked.read("app/errors.py")
        assert "Raise it anywhere in the application" in errors
        assert "self.detail = detail.strip()" in errors
        assert "Our service." in linked.read("README.md")
        assert linked.read("tests/test_own.py") == OWN_TEST
        assert not (linked.path / "testkit" / "obsolete.py").exists()
        assert "Once upon a time" not in linked.read("testkit/greenlets.py")
        assert 'description = "A FastAPI service."' in linked.read("pyproject.toml")

        commit_all(linked.path)
        before = contents(linked)
        assert "up to date" in linked.make("upgrade").stdout
        assert contents(linked) == before

    @pytest.mark.long
    def test_what_was_removed_stays_removed(self, linked: Project, template: Template) -> None:
        """Also when the template has a new file there."""
        run("bash", "-euc", linked.removal(), cwd=linked.path)
        commit_all(linked.path)
        (template.path / PROJECT / "app" / "products" / "offers.py").write_text('"""Offers."""\n')
        template.release("v2.0.1")

        output = linked.make("upgrade").stdout

        assert "v2.0.1 is merged, and `make check` is green." in output
        assert not (linked.path / "app" / "products").exists()
        assert not (linked.path / "tests" / "products").exists()

    @pytest.mark.long
    @pytest.mark.parametrize("tag", RELEASES)
    @pytest.mark.parametrize("database", ["sqlite", "postgresql"])
    def test_from_every_release(self, tmp_path: Path, tag: str, database: str) -> None:
        history = tmp_path / "template"
        run("git", "clone", "--quiet", ROOT, history, cwd=tmp_path)
        template = Template(history)
        project = create_linked(template, tmp_path, database, tag)
        template.take_present_files()
        template.release("v99")

        assert "v99 is merged, and `make check` is green." in project.make("upgrade").stdout

    @pytest.mark.long
    @pytest.mark.parametrize("number", range(0, len(HISTORY), 10))
    def test_from_every_tenth_commit(self, tmp_path: Path, number: int) -> None:
        """Of this repository, with edits, on either database in turn."""
        history = tmp_path / "template"
        run("git", "clone", "--quiet", ROOT, history, cwd=tmp_path)
        template = Template(history)
        database = ("sqlite", "postgresql")[number // 10 % 2]
        if (
            database
            not in run("git", "show", f"{HISTORY[number]}:cookiecutter.json", cwd=ROOT).stdout
        ):
            database = "sqlite"
        try:
            project = create_linked(template, tmp_path, database, HISTORY[number])
        except pytest.fail.Exception:
            pytest.skip("at this commit the template could not be rendered")
        edits = make_edits(project)
        template.take_present_files()
        template.release("v99")

        # The first ones had no `make upgrade`; the guide tells them to begin with this script.
        scripts = project.path / "scripts"
        scripts.mkdir(exist_ok=True)
        shutil.copy(template.path / PROJECT / "scripts" / "upgrade.py", scripts)
        commit_all(project.path)
        output = run(UV, *UPGRADE, cwd=project.path, check=False).stdout

        assert "v99 is merged" in output, output
        assert not list(project.path.rglob("*.rej"))
        if GREEN_CHECK.replace(NEW, "v99") not in output:  # both have added to the end of a file
            for name in edits:
                assert name in output or "<<<<<<<" not in project.read(name)
                keep_both(project.path / name)
            project.make("check", UV=UV)
        for name, text in edits.items():
            assert text in project.read(name), name

    @pytest.mark.long
    def test_to_a_certain_version(self, template: Template, tmp_path: Path) -> None:
        linked = create_linked(template, tmp_path, "sqlite")
        template.edit(f"{PROJECT}/testkit/greenlets.py", '"""Lets', '"""Not yet wanted: lets')
        template.release("v3.0.0")

        output = linked.make("upgrade", f"TO={NEW}").stdout

        assert GREEN_CHECK in output
        assert "Not yet wanted" not in linked.read("testkit/greenlets.py")

    def test_another_database(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite", NEW)
        (project.path / "tests" / "test_own.py").write_text(OWN_TEST)
        commit_all(project.path)

        cruft(
            *("update", "--skip-apply-ask", "--checkout", NEW),
            *("--variables-to-update", '{"database": "postgresql"}'),
            cwd=project.path,
        )

        assert "asyncpg" in project.read("pyproject.toml")
        assert not (project.path / "testkit" / "databases" / "sqlite.py").exists()
        fresh = create_linked(template, subfolder(tmp_path, "fresh"), "postgresql", NEW)
        expected = contents(fresh) | {"tests/test_own.py": OWN_TEST.encode()}
        found = contents(project)
        assert found.pop(".cruft.json")
        assert expected.pop(".cruft.json")
        assert found == expected
        project.make("setup")
        output = project.pytest("-m", "not slow and not smoke").stdout
        assert re.search(r"\d+ passed", output)
        assert "failed" not in output


class TestConflicts:
    @sqlite_first
    def test_edits_of_the_same_line(self, linked: Project) -> None:
        """The update goes as far as it can, and says where it could not."""
        linked.edit("app/errors.py", '"""Raise it; the client gets it.', '"""Our own words.')
        commit_all(linked.path)
        before = contents(linked)

        result = linked.make("upgrade", check=False)

        assert result.returncode == 2
        assert "has to be merged by hand" in result.stdout
        assert "\n  app/errors.py\n" in result.stdout
        assert "Traceback" not in result.stdout
        errors = linked.read("app/errors.py")
        assert re.search(
            r'<<<<<<< .*Our own words.*=======.*"""Raise it anywhere.*>>>>>>> ', errors, re.DOTALL
        )
        assert "UU app/errors.py" in status(linked)
        assert "Once upon a time" not in linked.read("testkit/greenlets.py")
        commit = run("git", "commit", "--message", "All of it", cwd=linked.path, check=False)
        assert "because you have unmerged files" in commit.stdout
        run("git", "reset", "--quiet", "--hard", cwd=linked.path)
        assert contents(linked) == before

    @sqlite_first
    def test_files_that_have_moved_or_gone(self, linked: Project) -> None:
        """Those that have moved are changed where they are now; what does not fit is there as well."""
        run("git", "mv", "testkit/greenlets.py", "testkit/leaves.py", cwd=linked.path)
        (linked.path / "app" / "problems").mkdir()
        run("git", "mv", "app/errors.py", "app/problems/all.py", cwd=linked.path)
        commit_all(linked.path)
        run("git", "mv", "app/problems/all.py", "app/problems/errors.py", cwd=linked.path)
        linked.edit(
            "app/problems/errors.py", '"""Raise it; the client gets it.', '"""Our own words.'
        )
        run("git", "rm", "--quiet", "app/products/repository.py", cwd=linked.path)
        commit_all(linked.path)

        result = linked.make("upgrade", check=False)

        assert result.returncode == 2
        assert "Once upon a time" not in linked.read("testkit/leaves.py")
        assert not (linked.path / "testkit" / "greenlets.py").exists()
        errors = linked.read("app/problems/errors.py")
        assert 'detail=detail or ""' not in errors
        assert re.search(
            r'<<<<<<< .*Our own.*=======.*"""Raise it anywhere.*>>>>>>> ', errors, re.S
        )
        assert "\n  app/problems/errors.py\n" in result.stdout
        assert "UU app/problems/errors.py" in status(linked)
        assert not (linked.path / "app" / "errors.py").exists()
        assert "removed these files:\n\n  app/products/repository.py\n\n" in result.stdout

    @sqlite_first
    def test_files_that_are_kept_out(self, linked: Project) -> None:
        """Also where they have moved, or have gone; nothing is said about them."""
        before = linked.read("testkit/greenlets.py")
        run("git", "mv", "testkit/greenlets.py", "testkit/leaves.py", cwd=linked.path)
        run("git", "rm", "--quiet", "app/products/repository.py", cwd=linked.path)
        skip = 'skip = ["testkit/leaves.py", "app/errors.py", "app/products/"]'
        settings = linked.path / "pyproject.toml"
        settings.write_text(f"{settings.read_text()}\n[tool.cruft]\n{skip}\n")
        commit_all(linked.path)
        errors = linked.read("app/errors.py")

        result = linked.make("upgrade", check=False)

        assert " is merged" in result.stdout
        assert linked.read("testkit/leaves.py") == before
        assert linked.read("app/errors.py") == errors
        assert "removed these files" not in result.stdout

    @sqlite_first
    def test_ci_refuses_what_is_unfinished(self, linked: Project) -> None:
        linked.edit("app/errors.py", '"""Raise it; the client gets it.', '"""Our own words.')
        commit_all(linked.path)
        linked.make("upgrade", check=False)
        commit_all(linked.path)
        (linked.path / "app" / "main.py.rej").write_text("@@\n")

        result = run("python3", "scripts/upgrade.py", "--leftovers", cwd=linked.path, check=False)

        assert result.returncode == 1
        assert "  app/errors.py\n  app/main.py.rej" in result.stdout
        run("git", "reset", "--quiet", "--hard", "HEAD~1", cwd=linked.path)
        (linked.path / "app" / "main.py.rej").unlink()
        run("python3", "scripts/upgrade.py", "--leftovers", cwd=linked.path)

    @sqlite_first
    @pytest.mark.parametrize("when", ["before the first commit", "after it"])
    def test_reformatted_code(self, linked: Project, when: str) -> None:
        """Without the original in its history, git can only reject what does not fit."""
        if when == "before the first commit":
            shutil.rmtree(linked.path / ".git")
        settings = ("format", "--line-length=60", "--config=format.quote-style='single'")
        run(Path(sys.prefix) / "bin" / "ruff", *settings, "app", "testkit", cwd=linked.path)
        commit_all(linked.path)
        before = linked.read("app/errors.py")

        result = linked.make("upgrade", check=False)

        assert result.returncode == 2
        if when == "before the first commit":
            assert "\n  app/errors.py.rej\n" in result.stdout
            assert "-    problem = Problem(title=title" in linked.read("app/errors.py.rej")
            ours = linked.read("app/errors.py")
        else:
            assert "\n  app/errors.py\n" in result.stdout
            ours = re.sub(r"<{7} .*\n|={7}\n(.*\n)*?>{7} .*\n", "", linked.read("app/errors.py"))
        merged = ours.replace(
            "Raise it anywhere in the application; the client gets it as a problem document.",
            "Raise it; the client gets it.",
        )
        assert merged == before


class TestRefusals:
    def test_changes_that_are_not_committed(self, linked: Project) -> None:
        linked.edit("README.md", "## Start", "## Begin")
        before = contents(linked)

        result = linked.make("upgrade", check=False)

        assert "There are changes that are not committed" in result.stdout
        assert contents(linked) == before

    def test_files_that_git_ignores(self, template: Template, tmp_path: Path) -> None:
        """Git would overwrite them without a word."""
        project = create_linked(template, tmp_path, "sqlite")
        (project.path / ".git" / "info").mkdir(exist_ok=True)
        (project.path / ".git" / "info" / "exclude").write_text("SECURITY.md\nconf\n")
        (project.path / "SECURITY.md").write_text("Ours.\n")
        (project.path / "conf").symlink_to("nowhere")
        (template.path / PROJECT / "conf").mkdir()
        (template.path / PROJECT / "conf" / "logs.toml").touch()
        template.release("v3.0.0")

        result = project.make("upgrade", check=False)

        assert result.returncode == 2
        assert "git ignores yours:\n\n  SECURITY.md\n  conf\n\n" in result.stdout
        assert project.read("SECURITY.md") == "Ours.\n"
        assert status(project) == ""

    def test_without_git(self, linked: Project, tmp_path: Path) -> None:
        everything_else = tmp_path / "bin"
        everything_else.mkdir()
        for folder in reversed(os.environ["PATH"].split(os.pathsep)):
            for program in Path(folder).glob("*"):
                (everything_else / program.name).unlink(missing_ok=True)
                (everything_else / program.name).symlink_to(program)
        (everything_else / "git").unlink()

        result = run(UV, *UPGRADE, cwd=linked.path, check=False, PATH=str(everything_else))

        assert "Git is not installed" in result.stdout
        assert "Traceback" not in result.stdout

    def test_shallow_clone(self, linked: Project, tmp_path: Path) -> None:
        linked.edit("README.md", "## Start", "## Begin")
        commit_all(linked.path)
        url = f"file://{linked.path}"
        run("git", "clone", "--quiet", "--depth=1", url, tmp_path / "shallow", cwd=tmp_path)

        result = run("make", "upgrade", cwd=tmp_path / "shallow", check=False)

        assert "run `git fetch --unshallow`" in result.stdout

    def test_project_that_is_not_linked(self, project: Project) -> None:
        result = project.make("upgrade", check=False)

        assert "uvx --with 'typer<0.29' cruft@2.16.0 link URL" in result.stdout

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (r'"template": ".*"', '"template": "/nowhere"', "'/nowhere' does not exist"),
            (r'"commit": "\w+"', '"commit": "0123456789"', "has no commit 0123456789"),
            (r"\A{", "", ".cruft.json cannot be read"),
        ],
    )
    def test_wrong_link(
        self, template: Template, tmp_path: Path, old: str, new: str, message: str
    ) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        link = project.path / ".cruft.json"
        link.write_text(re.sub(old, new, link.read_text()))
        commit_all(project.path)

        result = project.make("upgrade", check=False)

        assert message in result.stdout
        assert "Traceback" not in result.stdout
        assert status(project) == ""

    def test_unknown_version(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite")

        result = project.make("upgrade", "TO=v7", check=False)

        assert f"has no version 'v7'. Its releases are: {NEW}, {OLD}." in result.stdout

    def test_template_without_a_release(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        run("git", "tag", "--delete", OLD, NEW, cwd=template.path)

        assert "has no release yet" in project.make("upgrade", check=False).stdout
        weekly = run("python3", "scripts/upgrade.py", "--check", cwd=project.path)
        assert "newest release of the template" in weekly.stdout

    def test_template_that_cannot_be_rendered(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        (template.path / PROJECT / "broken.md").write_text("{{ cookiecutter.nothing }}\n")
        template.release("v3.0.0")

        result = project.make("upgrade", check=False)

        assert "Nothing has changed, since cruft cannot merge v3.0.0: " in result.stdout
        assert "broken.md" in result.stdout
        assert "Traceback" not in result.stdout
        assert status(project) == ""
        assert run("git", "worktree", "list", cwd=project.path).stdout.count("\n") == 1


class TestInterruption:
    """Seconds after the start, from the first steps to the last, and then during `make check`."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_leaves_the_tree_as_it_was(
        self, template: Template, tmp_path: Path, number: signal.Signals
    ) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        before = contents(project)
        # uv is not interrupted while it installs cruft, which is not part of this.
        run(UV, *UPGRADE, "--leftovers", cwd=project.path)

        for seconds in (0.6, 1.2, None):
            interrupt_upgrade(project, seconds, number)

            assert status(project) == "", f"after {seconds} s"
            assert contents(project) == before
            assert run("git", "worktree", "list", cwd=project.path).stdout.count("\n") == 1

    @pytest.mark.parametrize("conflict", ["", "yes"], ids=["merged", "in conflict"])
    def test_at_each_step_and_again_and_again(
        self, template: Template, tmp_path: Path, conflict: str
    ) -> None:
        """From each of its commands of git on, the program is interrupted whenever it runs one.

        The merge is none of cruft's, and the checks are none, which would take a minute here.
        """
        project = create_linked(template, tmp_path, "sqlite")
        before = contents(project)
        programs = subfolder(tmp_path, "bin")
        (programs / "make").symlink_to("/bin/true")
        write_program(programs / "git", INTERRUPTING_GIT.format(git=shutil.which("git")))
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        (subfolder(tmp_path, "modules") / "cruft.py").write_text(QUICK_CRUFT)

        for first in itertools.count(1):
            result = run(
                *(UV, *UPGRADE),
                cwd=project.path,
                check=False,
                PATH=path,
                PYTHONPATH=str(tmp_path / "modules"),
                SIGNAL=("INT", "TERM")[first % 2],
                COUNTER=str(tmp_path / f"count-{first}"),
                FIRST=str(first),
                CONFLICT=conflict,
            )

            if "Interrupted" not in result.stdout:
                break
            assert result.stdout.endswith("Interrupted: nothing has changed.\n"), first
            assert status(project) == "", first
            assert contents(project) == before
            assert run("git", "worktree", "list", cwd=project.path).stdout.count("\n") == 1
        assert first > 15  # steps
        expected = "Some of it has to be merged by hand" if conflict else GREEN_CHECK
        assert expected in result.stdout
        assert ("UU README.md" in status(project)) == bool(conflict)

    def test_killed(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        before = contents(project)

        interrupt_upgrade(project, 1, signal.SIGKILL)

        assert status(project) == ""
        assert contents(project) == before
        interrupt_upgrade(project, None, signal.SIGKILL)  # it is as good as at the first time
        assert "Raise it anywhere" in project.read("app/errors.py")


# The program's own, which it gives an option, and not those of cruft.
INTERRUPTING_GIT = """\
#!/bin/sh
if grep -q upgrade.py "/proc/$PPID/cmdline"; then
    echo >> "$COUNTER"
    [ "$(wc -l < "$COUNTER")" -lt "$FIRST" ] || kill -s "$SIGNAL" $PPID
fi
exec {git} "$@"
"""


QUICK_CRUFT = """\
import os, pathlib, subprocess, sys

def git(*arguments, text=None):
    command = ["git", *arguments]
    options = {"cwd": project, "input": text, "text": True, "stdout": subprocess.PIPE}
    return subprocess.run(command, check=True, **options).stdout.strip()

project = pathlib.Path(sys.argv[-1])
if os.environ["CONFLICT"]:
    (project / "README.md").write_text("<<<<<<< ours\\n=======\\n>>>>>>> theirs\\n")
    blob = git("hash-object", "-w", "README.md")
    stages = "".join(f"100644 {blob} {stage}\\tREADME.md\\n" for stage in (1, 2, 3))
    git("update-index", "--index-info", text=f"0 {'0' * 40}\\tREADME.md\\n{stages}")
else:
    (project / "README.md").write_text("Other text")
(project / "new.md").write_text("New text")
(project / "SECURITY.md").unlink(missing_ok=True)
(project / "AGENTS.md").unlink()
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def interrupt_upgrade(project: Project, seconds: float | None, number: signal.Signals) -> None:
    with start(UV, *UPGRADE, cwd=project.path, stdout=subprocess.PIPE) as process:
        if seconds is None:
            assert process.stdout
            assert any(f"{NEW} is merged." in line for line in process.stdout)
            # `make check` has begun to write.
            wait_until((project.path / "uv.lock").exists, 60)
        else:
            time.sleep(seconds)
        os.killpg(process.pid, number)


class TestWeeklyReport:
    def test_says_what_is_new(self, template: Template, tmp_path: Path) -> None:
        project = create_linked(template, tmp_path, "sqlite")
        command = ("python3", "scripts/upgrade.py", "--check")

        result = run(*command, cwd=project.path, check=False)

        assert result.returncode == 1
        assert f"The template has a new version, {NEW}: run `make upgrade`." in result.stdout
        assert "## Unreleased" in result.stdout
        other = create_linked(template, subfolder(tmp_path, "new"), "sqlite", NEW)
        assert "newest release of the template" in run(*command, cwd=other.path).stdout
        (other.path / ".cruft.json").unlink()
        assert "not linked" in run(*command, cwd=other.path).stdout
