# /// script
# requires-python = ">=3.11"
# # With typer 0.29 cruft breaks at its first prompt.
# dependencies = ["cruft==2.16.0", "typer<0.29"]
# ///
"""Brings this project up to date with its template: `make upgrade`.

cruft reports success whatever happens, and changes files one by one. So it works in a separate
worktree, and the merged result is applied here in one step, at the end, or not at all.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
LINK = ROOT / ".cruft.json"
VERSION = re.compile(r"v?\d+(\.\d+)*")
LONGEST_REASON = 300
MARKERS = "^(<{7}|>{7}) "
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)
# Git settings that override the user's own: patches without context fit nowhere, hooks and signatures are for people.
SETTINGS = {
    "core.hooksPath": os.devnull,
    "diff.context": "3",
    "commit.gpgSign": "false",
    "log.showSignature": "false",
    "user.name": "upgrade",
    "user.email": "upgrade@localhost",
}
FIRST = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
ENVIRONMENT = os.environ | {"GIT_CONFIG_COUNT": str(FIRST + len(SETTINGS))}
for number, (name, value) in enumerate(SETTINGS.items(), FIRST):
    ENVIRONMENT |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}

NOT_LINKED = """\
This project is not linked to its template, since it has no .cruft.json. If you know the version
that it was made from, link it, commit the file, and try again:

  uvx --with 'typer<0.29' cruft@2.16.0 link URL --checkout VERSION
"""


def git(*arguments: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
    """Returns git's output. If git fails, ends the program with git's own message."""
    result = subprocess.run(
        ["git", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        fail(f"`git {' '.join(map(str, arguments))}` has failed:\n{result.stderr}")
    return result.stdout


def fail(message: str) -> NoReturn:
    sys.exit(message.rstrip())


class Template:
    """The template's history, without its files."""

    def __init__(self, path: Path, commit: str) -> None:
        self.path = path
        self.commit = commit

    def versions(self) -> list[str]:
        """The releases, the newest first."""
        tags = git("tag", "--sort=-version:refname", cwd=self.path).split()
        return [tag for tag in tags if VERSION.fullmatch(tag)]

    def newest_version(self) -> str | None:
        """Returns the newest release, or `None` if there is none or the project has it already."""
        newest = next(iter(self.versions()), None)
        return newest if newest and not self.is_in_project(newest) else None

    def has(self, commit: str) -> bool:
        command = ["git", "rev-parse", "--quiet", "--verify", commit + "^{commit}"]
        return subprocess.run(command, cwd=self.path, stdout=subprocess.DEVNULL).returncode == 0

    def is_in_project(self, version: str) -> bool:
        return git("rev-list", "--max-count=1", f"{self.commit}..{version}", cwd=self.path) == ""

    def changed_files_until(self, version: str) -> list[str]:
        """Returns the project's files that exist in both versions and differ. Where the template has a variant for one
        database, such as `name_suffix.py`, the path that it has in a project, `name.py`, is included too."""
        options = ("--no-ext-diff", "--name-only", "--diff-filter=M", "-z")
        names = git("diff", *options, self.commit, version, cwd=self.path).split("\0")[:-1]
        paths = [name.partition("/")[2] for name in names if name.startswith("{")]
        return [*paths, *(re.sub(r"_[a-z]+\.py$", ".py", path) for path in paths)]

    def changes_until(self, version: str) -> str:
        """The sections of the changelog that are new or have changed."""
        before, after = (self.changelog(commit) for commit in (self.commit, version))
        changed = [body for title, body in after.items() if before.get(title) != body]
        return "\n\n".join(changed) or "The changelog says nothing about it."

    def changelog(self, commit: str) -> dict[str, str]:
        if not git("ls-tree", commit, "CHANGELOG.md", cwd=self.path):
            return {}
        text = git("show", f"{commit}:CHANGELOG.md", cwd=self.path)
        sections = [section.strip() for section in re.split(r"^(?=## )", text, flags=re.MULTILINE)]
        return {section.partition("\n")[0]: section for section in sections[1:]}


@contextmanager
def open_template() -> Iterator[Template]:
    if not LINK.exists():
        fail(NOT_LINKED)
    try:
        link: dict[str, Any] = json.loads(LINK.read_text())
        url, commit = link["template"], link["commit"]
    except (ValueError, KeyError) as error:
        fail(f".cruft.json cannot be read ({error!r}); take it back from an earlier commit.")
    with TemporaryDirectory() as folder:
        git("clone", "--quiet", "--no-checkout", url, folder)
        template = Template(Path(folder), commit)
        if not template.has(commit):
            fail(f"The template at {url} has no commit {commit}, which .cruft.json names.")
        yield template


def upgrade(version: str | None) -> None:
    if git("status", "--porcelain"):
        fail("There are changes that are not committed. Commit or stash them, then try again.")
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        fail("This clone is shallow, and merging needs the history: run `git fetch --unshallow`.")
    with open_template() as template:
        if version and not template.has(version):
            known = ", ".join(template.versions()) or "none yet"
            fail(f"The template has no version {version!r}. Its releases are: {known}.")
        if not version and not template.versions():
            fail(
                "The template has no release yet. Name a branch or a commit: `make upgrade TO=main`."
            )
        version = version or template.newest_version()
        if version is None or template.is_in_project(version):
            print("Nothing to do: the project is up to date.")
            return
        tree, conflicts, removed = merge(template, version)
        changes = f"What has changed:\n\n{template.changes_until(version)}\n"
        if removed:
            names = "".join(f"\n  {name}" for name in removed)
            changes = f"Not taken over, as you have removed these files:\n{names}\n\n{changes}"

    if hidden := in_the_way(tree):
        fail(
            "Nothing has changed, since the template has files with these names, and git ignores yours:\n\n"
            f"{hidden}\n\nMove them away, or commit them (`git add --force`), then try again."
        )
    with taken_back_when_interrupted(tree):
        replace("HEAD", tree, conflicts)
        print(f"{version} is merged.", flush=True)
        if problems := leftovers():
            fail(
                "Some of it has to be merged by hand. Look for conflict markers, and take over what\n"
                f"the .rej files say, before you delete them:\n\n{problems}\n\n"
                f"Then run `make check`. To undo everything: `git reset --hard`. {changes}"
            )
        is_green = run_checks()
    if not is_green:
        fail(
            f"{version} is merged, but `make check` fails. Fix it, or undo everything with\n"
            f"`git reset --hard`. {changes}"
        )
    print(f"\n{version} is merged, and `make check` is green. {changes}")
    print("Look at it with `git diff HEAD`, and commit it.")


def merge(template: Template, version: str) -> tuple[str, str, list[str]]:
    """Lets cruft merge in a copy. Returns git's tree of the result, the unmerged entries of its index, and the files
    that the template has changed and that are gone from this project."""
    prefix = git("rev-parse", "--show-prefix").strip()
    folder = Path(mkdtemp())
    copy = folder / "copy"
    try:
        with uninterrupted():
            git("worktree", "add", "--quiet", "--detach", copy, "HEAD")
        # cruft would take moved files for removed ones, so they are back in their old places while it merges.
        elsewhere = files_that_are_elsewhere(template.changed_files_until(version), copy, prefix)
        moves = {before: now for before, now in elsewhere.items() if now is not None}
        for before, now in moves.items():
            move(copy, now, before)
        if moves:
            git("add", "--all", "--force", cwd=copy)
            git("commit", "--quiet", "--message", "As it was", cwd=copy)
        options = ("--skip-apply-ask", "--not-strict", "--checkout", version)
        cruft = subprocess.run(
            [sys.executable, "-m", "cruft", "update", *options, "--project-dir", copy / prefix],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        )
        if cruft.returncode:
            # If there is a traceback, only the message of the exception.
            reasons = re.findall(r"^[\w.]+: (.*)", cruft.stdout, re.MULTILINE)
            reason = (reasons or cruft.stdout.strip().split("\n"))[-1][:LONGEST_REASON]
            fail(f"Nothing has changed, since cruft cannot merge {version}: {reason}")
        conflicts = git("ls-files", "--unmerged", "-z", cwd=copy)
        for before, now in moves.items():
            move(copy, before, now)
            conflicts = conflicts.replace(f"\t{before}\0", f"\t{now}\0")
        git("add", "--all", "--force", cwd=copy)
        tree = git("write-tree", cwd=copy).strip()
    finally:
        with uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            git("worktree", "prune")  # also the worktree of a run that was killed
    removed = [path.removeprefix(prefix) for path, now in elsewhere.items() if now is None]
    return tree, conflicts, removed


def files_that_are_elsewhere(paths: list[str], copy: Path, prefix: str) -> dict[str, str | None]:
    """Returns where those of these files are now that are no longer in their places; `None` for a file that is gone.
    Files that are kept out of upgrades, by their old or their new names, are left out."""
    gone = [f"{prefix}{path}" for path in paths if not (copy / prefix / path).exists()]
    now = {path: moved_to(path, copy, prefix) for path in gone if last_removal(path, copy)}
    skipped = skipped_patterns(copy / prefix)
    return {
        path: place
        for path, place in now.items()
        if not any(matches(name.removeprefix(prefix), skipped) for name in (path, place) if name)
    }


def skipped_patterns(project: Path) -> list[str]:
    """Returns the names, of files and of folders, that cruft leaves alone; `*` stands for anything."""
    link = json.loads((project / LINK.name).read_text())
    settings = project / "pyproject.toml"
    try:
        tools = tomllib.loads(settings.read_text() if settings.exists() else "").get("tool", {})
    except ValueError as error:
        fail(f"Nothing has changed, since pyproject.toml cannot be read: {error}")
    return [*link.get("skip", ()), *tools.get("cruft", {}).get("skip", ())]


def matches(path: str, patterns: list[str]) -> bool:
    """Whether one of the patterns stands for this path, or for a folder above it."""
    places = [path, *map(str, PurePosixPath(path).parents)][:-1]
    return any(fnmatch(place, pattern.rstrip("/")) for place in places for pattern in patterns)


def move(copy: Path, before: str, after: str) -> None:
    """Moves a file, and the `.rej` file in which the merge left what it could not apply."""
    for end in ("", ".rej"):
        if (copy / f"{before}{end}").exists():
            (copy / after).parent.mkdir(parents=True, exist_ok=True)
            (copy / f"{before}{end}").rename(copy / f"{after}{end}")


def last_removal(path: str, copy: Path) -> str:
    """Returns the last commit that removed this file, or an empty string if none did."""
    options = ("--max-count=1", "--format=%H", "--diff-filter=D")
    return git("log", *options, "--", path, cwd=copy).strip()


def moved_to(path: str, copy: Path, prefix: str) -> str | None:
    """Returns where a file is now, as far as git can tell, or `None` if it is gone or outside the project."""
    while not (copy / path).exists():
        commit = last_removal(path, copy)
        options = ("--format=", "--name-status", "--find-renames", "--diff-filter=R", "-z")
        found = git("show", *options, commit, cwd=copy).split("\0") if commit else []
        moves = dict(zip(found[1::3], found[2::3], strict=False))
        if path not in moves:
            return None
        path = moves[path]
    return path if path.startswith(prefix) else None


def in_the_way(tree: str) -> str:
    """Returns a line for each file ignored by git where the tree has another file; git would remove the ignored one."""
    top = Path(git("rev-parse", "--show-toplevel").strip())
    ours = {top / name for name in git("ls-files", "-z", cwd=top).split("\0")}
    options = ("-r", "-z", "--name-only", "--diff-filter=A")
    new = [top / name for name in git("diff-tree", *options, "HEAD", tree).split("\0")[:-1]]
    places = {place for path in new for place in (path, *path.parents) if top in place.parents}
    found = [
        place
        for place in sorted(places - ours)
        if os.path.lexists(place) and (place in new or place.is_symlink() or not place.is_dir())
    ]
    return "\n".join(f"  {place.relative_to(top)}" for place in found)


def replace(before: str, after: str, conflicts: str = "") -> None:
    """Replaces the files of one git tree with those of another. Git refuses to touch files that have been edited."""
    top = Path(git("rev-parse", "--show-toplevel").strip())
    with uninterrupted():
        if git("ls-files", "--unmerged", cwd=top):  # which git would refuse to replace
            git("read-tree", before, cwd=top)
            git("update-index", "-q", "--refresh", cwd=top)
        git("read-tree", "-m", "-u", before, after, cwd=top)
        if conflicts:  # git should still call these files unmerged, and refuse to commit them
            paths = {entry.partition("\t")[2] for entry in conflicts.split("\0") if entry}
            resolved = "".join(f"0 {'0' * 40}\t{path}\0" for path in paths)
            git("update-index", "-z", "--index-info", cwd=top, stdin=resolved + conflicts)


def run_checks() -> bool:
    """Whether `make check` succeeds."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(["make", "check"], cwd=ROOT, env=environment).returncode == 0


def interrupt(number: int, frame: object) -> None:
    """Interrupts the program, but only once: pressing Ctrl-C again must not stop the changes from being undone."""
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds interruptions back until the block ends, also from git, which would otherwise stop half-way."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def taken_back_when_interrupted(tree: str) -> Iterator[None]:
    lock = ROOT / "uv.lock"  # uv updates it to match `pyproject.toml`
    locked = lock.read_bytes() if lock.exists() else None
    try:
        yield
    except KeyboardInterrupt:
        replace(tree, "HEAD")
        if locked is None:
            lock.unlink(missing_ok=True)
        else:
            lock.write_bytes(locked)
        raise


def leftovers() -> str:
    """Returns a line for each file that a merge has left unfinished."""
    rejected = git("ls-files", "--cached", "--others", "--", "*.rej").split("\n")[:-1]
    command = ["git", "grep", "--untracked", "--name-only", "--extended-regexp", MARKERS]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [f"  {path}" for path in sorted({*rejected, *found.stdout.split("\n")[:-1]})]
    return "\n".join(lines)


def report() -> None:
    """Fails if the template has a new version, so that a weekly job gets noticed."""
    if not LINK.exists():
        print(NOT_LINKED)
        return
    with open_template() as template:
        if version := template.newest_version():
            changes = template.changes_until(version)
            fail(f"The template has a new version, {version}: run `make upgrade`.\n\n{changes}")
    print("Nothing to do: the project has the newest release of the template.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes over what the template has learned.")
    parser.add_argument("version", nargs="?", help="a release or commit; default: the newest one")
    parser.add_argument("--check", action="store_true", help="only say whether there is a new one")
    parser.add_argument("--leftovers", action="store_true", help="only look for unfinished merges")
    arguments = parser.parse_args()
    if shutil.which("git") is None:
        fail("Git is not installed, and an upgrade is a merge: install it, and try again.")
    for number in INTERRUPTIONS:
        signal.signal(number, interrupt)
    try:
        if arguments.leftovers:
            if problems := leftovers():
                fail(f"A merge is not finished in these files:\n\n{problems}")
        elif arguments.check:
            report()
        else:
            upgrade(arguments.version)
    except KeyboardInterrupt:
        fail("Interrupted: nothing has changed.")


if __name__ == "__main__":
    main()
