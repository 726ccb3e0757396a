"""The source code of a project's modules. None of them is imported, so none of their code can fail."""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

SKIPPED = {"node_modules", "venv", "env", "site-packages", "testkit"}
OUTPUTS = {"build", "dist"}  # at the top level; further down, these are ordinary names


@dataclass(eq=False)
class Module:
    path: Path
    name: str
    """The name by which it is imported: `shop.db`."""
    text: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    """What its imported names stand for: `{"make_engine": "sqlalchemy.ext.asyncio.create_async_engine"}`."""

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self.imports[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = f"{self._from(node)}.{alias.name}"

    def _from(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.path.name == "__init__.py"
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def meaning(self, node: ast.AST) -> str:
        """Returns the full name of what an expression refers to, such as `sqlalchemy.create_engine`; empty if none."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id, f"{self.name}.{node.id}")
        if isinstance(node, ast.Attribute):
            base = self.meaning(node.value)
            return f"{base}.{node.attr}" if base else ""
        if isinstance(node, ast.Subscript | ast.Call):
            return self.meaning(node.value if isinstance(node, ast.Subscript) else node.func)
        return ""

    def calls(self, *names: str, within: ast.AST | None = None) -> Iterator[ast.Call]:
        """Yields calls of these functions, such as `create_async_engine`, whatever name they were imported under."""
        for node in ast.walk(within or self.tree):
            if isinstance(node, ast.Call) and self.meaning(node.func).rpartition(".")[2] in names:
                yield node

    @cached_property
    def values(self) -> dict[str, ast.expr]:
        """The variables of the module, each with what is assigned to it."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
            elif (
                isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
            ):
                found[node.target.id] = node.value
        return found

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        return {
            node.name: node
            for node in self.tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}


def read_modules(root: Path) -> list[Module]:
    """Returns all modules that can be parsed. Python could not import the others either."""
    found = []
    for path in python_files(root):
        try:
            text = path.read_text(encoding="utf-8")
            found.append(Module(path, module_name(path, root), text, ast.parse(text)))
        except (SyntaxError, ValueError):
            continue
    return found


def python_files(root: Path) -> Iterator[Path]:
    """Yields the Python files, sorted, and a folder's own before those of its subfolders. Skips hidden folders and
    libraries."""
    for folder, subfolders, names in os.walk(root):
        skipped = SKIPPED | OUTPUTS if Path(folder) == root else SKIPPED
        subfolders[:] = sorted(
            name for name in subfolders if name not in skipped and not name.startswith(".")
        )
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def is_test_module(path: Path) -> bool:
    """Whether pytest would load this as a test module or a `conftest.py`."""
    return (
        path.name == "conftest.py" or path.stem.startswith("test_") or path.stem.endswith("_test")
    )


def module_name(path: Path, root: Path) -> str:
    """Returns the import name of a module: `shop.db` for `src/shop/db.py`, unless `src` is itself a package."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] == "src" and not (root / "src" / "__init__.py").exists() and len(parts) > 2:
        parts = parts[1:]
    if parts and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Returns the names of the required parameters."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [a.arg for a in required] + [a.arg for a, default in keywords if default is None]


def literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
