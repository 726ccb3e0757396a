"""Dependencies point one way, in a generated project and in this repository.

A part may import those that are listed for it, and itself. The longest name that fits a module decides.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.commands import ROOT, run
from tests.projects import Project

GENERATED = {
    "app": {"app"},
    # Domains meet in `app.api`, and know each other by their front only.
    "app.users": {
        *("app.database", "app.errors", "app.jobs", "app.services", "app.settings"),
        *("app.throttle", "app.websockets", "app.work"),
    },
    "app.shutdown": {"app.settings"},
    "app.products": {"app.database", "app.errors", "app.services", "app.users"},
    "app.services": {"app.database", "app.errors", "app.settings", "app.telemetry"},
    "app.database": {"app.engine", "app.errors"},
    "app.health": {"app.database", "app.engine", "app.errors"},
    "app.http": {"app.database", "app.errors", "app.settings"},
    "app.websockets": {"app.errors", "app.http"},
    "app.jobs": {"app.database", "app.engine", "app.services", "app.telemetry", "app.work"},
    "app.telemetry": {"app.database"},
    "app.logs": {"app.engine", "app.settings", "app.telemetry", "app.work"},
    "app.work": set(),
    "app.openapi": {"app.errors"},
    "app.throttle": {"app.errors", "app.settings", "app.telemetry"},
    "app.engine": set(),
    "app.errors": set(),
    "app.settings": {"app.engine"},
    "migrations": {"app"},
    "scripts": set(),
    # What the project is tested with knows nothing of it, and can be carried elsewhere.
    "testkit.asgi": {"testkit.websockets"},
    "testkit.call_site": set(),
    "testkit.clock": set(),
    "testkit.interruptions": set(),
    "testkit.eager": {"testkit.interruptions"},
    "testkit.faults": set(),
    "testkit.garbage": set(),
    "testkit.greenlets": set(),
    "testkit.portal": set(),
    "testkit.resets": set(),
    "testkit.sessions": set(),
    "testkit.warm": set(),
    "testkit.websockets": set(),
    "testkit.environment": {"testkit.call_site"},
    "testkit.hints": {"testkit.call_site", "testkit.environment"},
    "testkit.leftovers": {"testkit.call_site", "testkit.clock", "testkit.faults"},
    "testkit.originals": {"testkit.resets"},
    "testkit.databases": {
        *("testkit.call_site", "testkit.clock", "testkit.eager", "testkit.interruptions"),
    },
    "testkit.migrations": {"testkit.call_site", "testkit.databases"},
    "testkit.isolation": {
        *("testkit.call_site", "testkit.databases", "testkit.eager", "testkit.engines"),
        *("testkit.faults", "testkit.leftovers", "testkit.sessions"),
    },
    "testkit.examples": {
        *("testkit.eager", "testkit.faults", "testkit.isolation", "testkit.leftovers"),
        "testkit.resets",
    },
    "testkit.supervision": {
        *("testkit.call_site", "testkit.clock", "testkit.eager", "testkit.faults"),
        "testkit.leftovers",
        *("testkit.portal", "testkit.resets"),
    },
    "testkit.performance": {"testkit.call_site", "testkit.clock", "testkit.warm"},
    "testkit.performance.comparison": {
        "testkit.databases",
        "testkit.fixtures",
        "testkit.performance",
    },
    "testkit.performance.diagnosis": {
        *("testkit.call_site", "testkit.clock", "testkit.databases", "testkit.fixtures"),
        "testkit.performance",
    },
    "testkit.markers": {"testkit.performance"},
    "testkit.doctor": {
        *("testkit.call_site", "testkit.databases", "testkit.environment", "testkit.fixtures"),
        *("testkit.performance", "testkit.warm"),
    },
    "testkit.__main__": {"testkit.doctor"},
    "testkit.engines": {"testkit.call_site", "testkit.faults"},
    "testkit.fixtures": {
        *("testkit.databases", "testkit.eager", "testkit.engines", "testkit.examples"),
        *("testkit.greenlets", "testkit.interruptions", "testkit.isolation"),
        *("testkit.performance", "testkit.sessions", "testkit.supervision"),
    },
    "testkit.plugin": set(),
    "testkit.steps": {"testkit.supervision"},
    "testkit.tracebacks": {"testkit.call_site"},
    "testkit.unseen": {"testkit.fixtures", "testkit.warm"},
    # The only place where the test kit and the application meet.
    "tests.fixtures": {"app", "testkit"},
    "tests": {"app", "testkit", "tests.fixtures"},
}
TEMPLATE = {
    "hooks": set(),
    "early_refusal": set(),
    "tools": set(),
    "benchmarks": set(),
    "tests": {"benchmarks"},
}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def part_of(module: str, parts: dict[str, set[str]]) -> str | None:
    return max((part for part in parts if is_in(module, part)), key=len, default=None)


def modules(root: Path, files: list[str]) -> Iterator[tuple[str, str]]:
    """Each module of the tree with each that it imports."""
    for name in files:
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for imported in imports(root / name):
            yield module, imported


def wrong_ones(root: Path, files: list[str], parts: dict[str, set[str]]) -> list[str]:
    found = []
    for module, imported in modules(root, files):
        part, other = part_of(module, parts), part_of(imported, parts)
        if part is None:
            found.append(f"{module} belongs to no part")
        elif other not in (None, part) and not any(is_in(imported, one) for one in parts[part]):
            found.append(f"{module} imports {imported}")
    return found


def python_files(project: Project) -> list[str]:
    return [name for name in project.files() if name.endswith(".py")]


def test_generated_project(each_project: Project) -> None:
    assert wrong_ones(each_project.path, python_files(each_project), GENERATED) == []


def test_domains_know_only_each_others_front(each_project: Project) -> None:
    """`app.users` may be imported by another domain, `app.users.manager` may not. Commands may, which
    are the front for those who type."""
    for module, imported in modules(each_project.path, python_files(each_project)):
        for domain in ("app.users", "app.products"):
            others = is_in(module, "app") and module.count(".") > 1
            others = others and not is_in(module, domain) and not is_in(module, "app.cli")
            if others and is_in(imported, f"{domain}"):
                assert imported.count(".") <= 2, f"{module} imports {imported}"


def test_no_module_imports_itself_in_a_circle(each_project: Project) -> None:
    files = python_files(each_project)
    known = {module for module, _imported in modules(each_project.path, files)}
    graph: dict[str, set[str]] = {}
    for module, imported in modules(each_project.path, files):
        target = imported if imported in known else imported.rpartition(".")[0]
        if target in known and target != module:
            graph.setdefault(module, set()).add(target)

    TopologicalSorter(graph).prepare()  # raises CycleError


def test_this_repository() -> None:
    listed = run("git", "ls-files", "-co", "--exclude-standard", "*.py", cwd=ROOT).stdout
    ours = [
        name
        for name in listed.splitlines()
        if not name.startswith(("{{", "benchmarks/suite"))
        and not name.startswith(("tests/compatibility/suite", "tests/postgresql/suite"))
        and (ROOT / name).exists()
    ]

    assert wrong_ones(ROOT, ours, TEMPLATE) == []
