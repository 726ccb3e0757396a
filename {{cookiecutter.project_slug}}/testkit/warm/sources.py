"""The files of a project that its tests may depend on."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".py", ".toml", ".ini", ".cfg", ".sql", ".html", ".txt", ".json"}
OTHERS = {"__pycache__", "build", "dist", "htmlcov", "node_modules", "site-packages", "venv"}


def is_in_sources(place: Path) -> bool:
    """What tools write into folders of their own depends on the tests, and not the other way round."""
    return not any(part.startswith(".") or part in OTHERS for part in place.parts)


def sources(top: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = [name for name in subfolders if name[0] != "." and name not in OTHERS]
        for name in files:
            if name[0] != "." and os.path.splitext(name)[1] in SUFFIXES:
                yield Path(folder, name)
