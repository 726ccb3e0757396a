"""Makes a release of this template: `make release VERSION=1.2.0`, and nothing is changed yet.

    python tools/release.py 1.2.0 [--go] [--unchecked]

It looks whether a release can be made, runs `make lint test-all`, and says what it would do. With `--go`
(`GO=yes`) it does that: the version in `pyproject.toml` and in the commands of the guides, the heading in the
changelog, a commit, its tag, and the test kit as a package in `build/dist`.
Only `git push` makes it public, which is left to you. Projects find releases by their tags.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

UNRELEASED = "## Unreleased\n"
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
GUIDES = ("README.md", "docs/adopting.md")
IN_COMMAND = re.compile(r"(fast-fastapi@|--checkout )v\d+\.\d+\.\d+")
VERSION_LINE = re.compile(r'^version = "(.*)"$', re.MULTILINE)


@dataclass
class Release:
    version: str
    folder: Path

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"`git {' '.join(arguments)}` has failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def obstacles(self) -> Iterator[str]:
        """Why it cannot be made, each with what to do."""
        if not VERSION.fullmatch(self.version):
            yield f"{self.version!r} is no version. Write three numbers, like 1.2.0."
            return
        tags = self.git("tag", "--list", "v*").split()
        released = [number for tag in tags if (number := numbers(tag.removeprefix("v")))]
        latest = max(released, default=(0, 0, 0))
        if numbers(self.version) <= latest:
            yield f"{'.'.join(map(str, latest))} is out already. Choose a later version."
        if self.git("status", "--porcelain"):
            yield "There are changes that are not committed. Commit them, or put them aside."
        if not self.news().strip():
            yield "The changelog says nothing under `Unreleased`. Say there what an upgrade brings, and needs."

    def news(self) -> str:
        """What the changelog says of the next release."""
        _, found, rest = (self.folder / "CHANGELOG.md").read_text().partition(UNRELEASED)
        return rest.partition("\n## ")[0] if found else ""

    def make(self) -> None:
        settings, changelog = self.folder / "pyproject.toml", self.folder / "CHANGELOG.md"
        text = VERSION_LINE.sub(f'version = "{self.version}"', settings.read_text(), count=1)
        settings.write_text(text)
        for guide in map(self.folder.joinpath, GUIDES):
            guide.write_text(IN_COMMAND.sub(rf"\1{self.tag}", guide.read_text()))
        heading = f"{UNRELEASED}\n## {self.version} ({datetime.now(UTC):%Y-%m-%d})\n"
        news = self.news().strip()
        changelog.write_text(changelog.read_text().replace(UNRELEASED, heading, 1))
        self.git("commit", "--quiet", "--message", f"Release {self.version}", "--all")
        self.git("tag", "--annotate", "--message", f"{self.version}\n\n{news}", self.tag)

    def build(self) -> Path:
        """The folder with the test kit as a package: a wheel and an sdist."""
        folder = self.folder / "build" / "dist"
        uv = os.environ.get("UV", "uv")
        if subprocess.run(
            [uv, "build", "--quiet", "--out-dir", folder], cwd=self.folder
        ).returncode:
            sys.exit(
                f"{self.tag} is made, but the package cannot be built. Look at it before you publish."
            )
        return folder


def numbers(version: str) -> tuple[int, ...]:
    found = VERSION.fullmatch(version)
    return tuple(map(int, found.groups())) if found else ()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/release.py")
    parser.add_argument("version", help="three numbers, like 1.2.0")
    parser.add_argument("--go", action="store_true", help="do it, and not only say so")
    parser.add_argument(
        "--unchecked", action="store_true", help="without the tests, which have just passed"
    )
    arguments = parser.parse_args()
    release = Release(arguments.version.removeprefix("v"), Path.cwd())
    if obstacles := list(release.obstacles()):
        sys.exit("\n".join(["No release can be made:", *(f"- {why}" for why in obstacles)]))
    if not arguments.unchecked and subprocess.run(["make", "lint", "test-all"]).returncode:
        sys.exit("No release can be made: `make lint test-all` has failed.")
    if not arguments.go:
        print(f"{release.tag} can be made of {release.git('rev-parse', '--short', 'HEAD')}:")
        print(release.news().strip())
        print("\nNothing has been changed. GO=yes makes it.")
        return
    release.make()
    folder = release.build().relative_to(release.folder)
    print(
        f"{release.tag} is made, and its package is in {folder}. This publishes it: git push --follow-tags"
    )


if __name__ == "__main__":
    main()
