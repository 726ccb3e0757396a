"""The files of a project that its tests may depend on."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".py", ".toml", ".ini", ".cfg", ".sql", ".html", ".txt", ".json"}
# At the top, these are documents, reports, and settings of other tools.
SUFFIXES_BELOW = {
    *(".csv", ".tsv", ".jsonl", ".xml", ".yaml", ".yml"),
    *(".md", ".jinja", ".jinja2", ".j2", ".graphql", ".pem"),
}
OTHERS = {"__pycache__", "node_modules", "site-packages"}
HIDDEN = (".", "pytest-cache-files-")  # the latter becomes `.pytest_cache`
OUTPUTS = {"build", "dist", "htmlcov", "venv"}  # at the top; below, these are names like others


def is_in_sources(place: Path) -> bool:
    """Whether a path may hold sources. Tools write their output to folders of their own, and no test depends on it."""
    if any(part.startswith(HIDDEN) or part in OTHERS for part in place.parts):
        return False
    return OUTPUTS.isdisjoint(place.parts[:1])


def is_source(place: Path) -> bool:
    """Whether a file, relative to the root, is one that tests may depend on. Its folder has to be `is_in_sources`."""
    is_below = len(place.parts) > 1 and place.suffix in SUFFIXES_BELOW
    return (is_below or place.suffix in SUFFIXES) and place.name[0] != "."


def sources(root: Path, below: Path = Path()) -> Iterator[Path]:
    """Yields the source files in the folder `below`, relative to the root."""
    for folder, subfolders, files in os.walk(root / below):
        place = Path(folder).relative_to(root)
        subfolders[:] = [name for name in subfolders if is_in_sources(place / name)]
        for name in files:
            if is_source(place / name):
                yield place / name
