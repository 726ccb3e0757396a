"""`make release`, in a clone."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT, commit_all, edit, run

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "test"), ("EMAIL", "test@example.com"))
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    path = tmp_path / "clone"
    run("git", "clone", "--quiet", "--no-hardlinks", "--no-tags", ROOT, path, cwd=tmp_path)
    (path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- Jobs.\n\nTo do: migrate.\n"
    )
    (path / "tools" / "release.py").write_text((ROOT / "tools" / "release.py").read_text())
    commit_all(path)
    return path


def release(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ("python3", "tools/release.py", *arguments, "--unchecked")
    return run(*command, cwd=clone, check=False, **IDENTITY)


def test_says_what_it_would_do(clone: Path) -> None:
    before = run("git", "rev-parse", "HEAD", cwd=clone).stdout

    result = release(clone, "1.0.0")

    assert result.returncode == 0
    assert "v1.0.0 can be made" in result.stdout
    assert "- Jobs." in result.stdout
    assert run("git", "rev-parse", "HEAD", cwd=clone).stdout == before
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""
    assert "v1.0.0" not in run("git", "tag", cwd=clone).stdout


def test_makes_one_after_the_other(clone: Path) -> None:
    assert "git push" in release(clone, "1.0.0", "--go").stdout
    again = release(clone, "1.0.0", "--go")
    edit(clone / "CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- More.\n")
    commit_all(clone)
    release(clone, "v1.1.0", "--go")

    assert again.returncode == 1
    assert "1.0.0 is out already" in again.stdout
    packages = [path.name for path in (clone / "build" / "dist").glob("*1.1.0*")]
    assert sorted(path.rpartition(".")[2] for path in packages) == ["gz", "whl"]
    assert 'version = "1.1.0"' in (clone / "pyproject.toml").read_text()
    for guide in ("README.md", "docs/adopting.md"):
        text = (clone / guide).read_text()
        assert "fast-fastapi@v1.1.0" in text
        assert "v1.0.0" not in text
    headings = re.findall(r"^## (\S+)", (clone / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings == ["Unreleased", "1.1.0", "1.0.0"]
    message = run("git", "tag", "--list", "--format=%(contents)", "v1.1.0", cwd=clone).stdout
    assert "- More." in message
    assert "- Jobs." not in message
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""
    assert run("git", "rev-parse", "v1.1.0^{commit}", cwd=clone).stdout == (
        run("git", "rev-parse", "HEAD", cwd=clone).stdout
    )


def test_says_why_not(clone: Path) -> None:
    wrong = release(clone, "1.0")
    (clone / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    unready = release(clone, "1.0.0", "--go")

    assert "'1.0' is no version. Write three numbers" in wrong.stdout
    for reason in ("not committed", "nothing under `Unreleased`"):
        assert reason in unready.stdout
    assert {wrong.returncode, unready.returncode} == {1}
    assert "Traceback" not in wrong.stdout + unready.stdout
