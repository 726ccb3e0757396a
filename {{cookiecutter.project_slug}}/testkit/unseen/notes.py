"""Records the files as they were, and the tests that have passed since the last change that testmon does not see."""

import ast
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, TypedDict

from testkit.warm.sources import sources

OUTSIDE = ""  # name of the block of everything outside functions
IMPORT = re.compile(rb"^[ \t]*(?:from|import)\b(?:[^\n(]|\([^)]*\))*", re.MULTILINE)
WORD = re.compile(rb"\w+")
CLOCK = 10_000_000  # ns by which that of the file system may be late
LARGE = 1_000_000  # bytes; larger data files are not read


class Noted(TypedDict):
    """A file as it was. A function is identified by its name, with a number if several share it."""

    stamp: list[int]
    blocks: dict[str, int]
    """The checksum of each function, and of what is outside of functions."""
    shared: list[str]
    """Functions that have been executed for several tests at once."""
    seen: list[str]
    """Functions of which testmon knows all tests that execute them."""


class Block(NamedTuple):
    """A function, or what is outside of functions."""

    name: str
    checksum: int
    known_as: int
    """The checksum that testmon records, which includes the position as well."""
    lines: range


class Notes:
    def __init__(self, path: Path) -> None:
        """Reads the notes in the file; there are none if it is missing or damaged."""
        self.path = path
        self.files: dict[str, Noted] = {}
        self.passed: set[str] = set()
        self.skipped: set[str] = set()
        self.traced: set[str] = set()
        """Tests for which testmon has learnt, since the last change, what they execute."""
        self.changed_tests: set[str] = set()
        """Test modules in which something has changed since then that affects all of their own tests."""
        self.changes = 0
        self.changed = ""
        """A file of the last change; empty if it is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            notes = json.loads(path.read_bytes())
            self.changes, self.changed = notes["changes"], notes["changed"]
            self.passed, self.traced = set(notes["passed"]), set(notes["traced"])
            self.skipped = set(notes["skipped"])
            self.changed_tests = set(notes["changed_tests"])
            self.files = notes["files"]

    def write(self) -> None:
        notes = {
            "changes": self.changes,
            "changed": self.changed,
            "passed": sorted(self.passed),
            "skipped": sorted(self.skipped),
            "traced": sorted(self.traced),
            "changed_tests": sorted(self.changed_tests),
            "files": self.files,
        }
        draft = self.path.with_name(f"{self.path.name}-{os.getpid()}")
        with suppress(OSError):  # the checkout may be read-only, or the disk full
            draft.write_text(json.dumps(notes))
            draft.replace(self.path)

    def compare(
        self, root: Path, migrations: Path | None, test_modules: list[str], begun: int
    ) -> None:
        """Forgets which tests have passed if there is a change that testmon does not see.

        Checks the time and size of every file, and reads those that have been saved since. What was saved after this
        process has `begun` to import the project (in ns) may have been imported before: it counts as changed in the
        next run as well.
        """
        former, self.files = self.files, {}
        is_first = not former
        changed: list[str] = []
        tests: list[str] = []
        for place in sources(root):
            name, path = place.as_posix(), root / place
            before = former.pop(name, None)
            is_test = is_among(place, test_modules)
            is_migration = migrations is not None and path.is_relative_to(migrations)
            now = note(path, before, is_python=path.suffix == ".py" and not is_migration)
            if now is None:
                continue
            if was_saved_since(path, begun):
                now = Noted(stamp=[], blocks={}, shared=[], seen=[])
            self.files[name] = now
            if before is None or not differences(before, now) <= set(before["seen"]):
                (tests if is_test else changed).append(name)
        if tests and not changed:
            changed = imported(root, [Path(name) for name in tests])
        former = {n: noted for n, noted in former.items() if not is_among(Path(n), test_modules)}
        if changed or former:
            self.changed = "" if is_first else [*changed, *former][0]
            self.forget()
        elif tests:
            self.forget(tests)

    def forget(self, modules: Collection[str] = ()) -> None:
        """Forgets which tests have passed: those of some test modules, or all."""
        self.changes += 1
        self.changed_tests = self.changed_tests.union(modules) if modules else set()
        for tests in (self.passed, self.traced):
            tests.difference_update([t for t in tests if not modules or file_of(t) in modules])

    def are_outdated(self, root: Path) -> bool:
        """Whether a module was saved since these notes were made. testmon, which reads it at the end of a test, then
        takes the new text for what was executed."""
        for name, noted in self.files.items():
            try:
                if name.endswith(".py") and stamp_of(root / name) != noted["stamp"]:
                    return True
            except OSError:
                return True
        return False

    def learn(
        self, root: Path, shared: dict[str, list[int]], executed: dict[str, set[int]]
    ) -> None:
        """Notes which functions testmon can judge, by the lines executed for several tests at once (`shared`) and by
        the checksums that testmon has recorded (`executed`)."""
        for name, noted in self.files.items():
            noted["seen"] = []
            if name not in executed or noted["blocks"].keys() == {OUTSIDE}:
                continue
            with suppress(OSError, SyntaxError, ValueError):
                if stamp_of(root / name) != noted["stamp"]:
                    continue
                blocks = [b for b in blocks_of((root / name).read_bytes()) if b.name != OUTSIDE]
                lines = shared.get(name, ())
                now = {b.name for b in blocks if any(line in b.lines for line in lines)}
                noted["shared"] = sorted(now.union(noted["shared"]))
                alone = {b.name for b in blocks if b.known_as in executed[name]}
                noted["seen"] = sorted(alone.difference(noted["shared"]))


def note(path: Path, before: Noted | None, *, is_python: bool) -> Noted | None:
    """Returns the note of a file. One with a syntax error counts as unchanged. `None` if there is nothing to note,
    because the file is gone or has never been valid."""
    try:
        stamp = stamp_of(path)
        if before and before["stamp"] == stamp:
            return before
        if is_python:
            blocks = {block.name: block.checksum for block in blocks_of(path.read_bytes())}
        else:
            modified, size = stamp
            blocks = {OUTSIDE: modified if size > LARGE else zlib.crc32(path.read_bytes())}
    except OSError:
        return None
    except (SyntaxError, ValueError):
        return before
    if before is None:
        return Noted(stamp=stamp, blocks=blocks, shared=[], seen=[])
    then = before["blocks"]
    is_same = then.get(OUTSIDE) == blocks.get(OUTSIDE)
    return Noted(
        stamp=stamp,
        blocks=blocks,
        shared=[name for name in before["shared"] if blocks.get(name) == then[name]],
        # If a function was added, one of several with the same name may have become another one.
        seen=[n for n in before["seen"] if n in blocks and (is_same or is_unique(n, then, blocks))],
    )


def file_of(test: str) -> str:
    return test.partition("::")[0]


def is_among(place: Path, patterns: list[str]) -> bool:
    return any(fnmatch(place.name, pattern) for pattern in patterns)


def imported(root: Path, modules: list[Path]) -> list[str]:
    """Those of the modules that another one imports, or one of the same name. Reads every module."""
    found = []
    words = {place: place.stem.encode() for place in modules}
    for place in sources(root):
        if place.suffix != ".py":
            continue
        with suppress(OSError):
            text = (root / place).read_bytes()
            for module in [m for m, word in words.items() if m != place and word in text]:
                if any(words[module] in WORD.findall(line) for line in IMPORT.findall(text)):
                    found.append(module.as_posix())
                    del words[module]
    return found


def is_unique(name: str, *several: dict[str, int]) -> bool:
    first = name.partition(" ")[0]
    return not any(f"{first} 2" in blocks for blocks in several)


def differences(before: Noted, now: Noted) -> set[str]:
    then = before["blocks"]
    names = then.keys() | now["blocks"].keys()
    return {name for name in names if then.get(name) != now["blocks"].get(name)}


def blocks_of(source: bytes) -> list[Block]:
    """Returns the blocks of a Python file. Raises `SyntaxError` or `ValueError` if it is not valid Python."""
    from testmon.process_code import Module, bytes_to_string_and_fsha, methods_to_checksums

    ast.parse(source)  # testmon does not report syntax errors
    found = Module(source_code=bytes_to_string_and_fsha(source)[0]).blocks
    names: Counter[str] = Counter()
    blocks = []
    for block in found:
        name = OUTSIDE if block is found[-1] else block.name
        names[name] += 1
        if names[name] > 1:
            name = f"{name} {names[name]}"
        [known_as] = methods_to_checksums([block.code])
        text = block.code.partition(":")[2]
        blocks.append(
            Block(name, zlib.crc32(text.encode()), known_as, range(block.start, block.end + 1))
        )
    return blocks


def was_saved_since(path: Path, moment: int) -> bool:
    try:
        return path.stat().st_ctime_ns > moment - CLOCK
    except OSError:
        return True


def stamp_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]
