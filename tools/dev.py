"""Keeps generated projects equal to the template while somebody works on it: `make dev`.

Only files that differ are written, so that caches, a running server and an editor see a small change,
and what the template has lost goes. Everything that is not generated stays: the virtual environment,
the ledger, the development database.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from watchfiles import watch

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "dev"
SOURCES = ("{{cookiecutter.project_slug}}", "hooks", "cookiecutter.json", "early_refusal.py")
DATABASES = ("sqlite", "postgresql")


def main() -> None:
    sources = [ROOT / source for source in SOURCES]
    is_first = True
    # It tells something at once, when it has begun to look: no change may come in between unseen.
    for changes in watch(*sources, raise_interrupt=False, yield_on_timeout=True, rust_timeout=200):
        if not changes and not is_first:
            continue
        for database in DATABASES:
            place = BUILD / database if is_first else database
            print(f"{place}: {update(database)}", flush=True)
        if is_first:
            print("Waiting for changes; Ctrl-C ends it.", flush=True)
        is_first = False


def update(database: str) -> str:
    """Makes the project of this database what the template generates now. Says what has changed."""
    project = BUILD / database
    with TemporaryDirectory() as folder:
        command = [Path(sys.prefix) / "bin" / "cookiecutter", ROOT, "--no-input", "-o", folder]
        result = subprocess.run([*command, f"database={database}"], capture_output=True, text=True)
        if result.returncode:
            return f"cannot be rendered, and stays as it was.\n{result.stdout}{result.stderr}"
        (rendered,) = Path(folder).iterdir()
        new = {path.relative_to(rendered): path for path in rendered.rglob("*") if path.is_file()}
        changed = [name for name, path in new.items() if copy(path, project / name)]
    listed = BUILD / f"{database}.txt"
    known = listed.read_text().splitlines() if listed.exists() else []
    gone = [name for name in map(Path, known) if name not in new and (project / name).exists()]
    for name in gone:
        (project / name).unlink()
    listed.write_text("".join(f"{name}\n" for name in new))
    names = [*map(str, changed), *(f"{name} has gone" for name in gone)]
    return f"{len(names)} files" if len(names) > 5 else ", ".join(names) or "nothing has changed"


def copy(source: Path, target: Path) -> bool:
    """Whether it had to be copied."""
    if target.exists() and target.read_bytes() == source.read_bytes():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    target.chmod(source.stat().st_mode)
    return True


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
