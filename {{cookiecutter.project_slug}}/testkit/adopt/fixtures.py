"""What a project's tests already have: fixtures that get in the kit's way, and fixtures that create clients."""

import ast
from collections.abc import Iterator

from testkit.adopt.source import Module, literal

Function = ast.FunctionDef | ast.AsyncFunctionDef
Advice = tuple[ast.AST, str]

SESSIONS = {"session", "db_session", "db", "async_session"}
# What a fixture calls if it creates the tables and does nothing else.
OF_TABLES = {
    "create_all",
    "drop_all",
    "run_sync",
    "begin",
    "connect",
    "rollback",
    "dispose",
    "fixture",
}
OF_TABLES |= {
    "create_async_engine",
    "create_engine",
    "async_sessionmaker",
    "sessionmaker",
    "AsyncSession",
}


def advice_on(module: Module) -> Iterator[Advice]:
    """Yields what is left to do in a test module, each with its place."""
    for node in ast.walk(module.tree):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        overridden = ast.unparse(target.value) if isinstance(target, ast.Subscript) else ""
        if overridden.endswith("dependency_overrides"):
            yield node, "overrides a dependency: not needed for sessions any more"
    for name, value in module.values.items():
        if _makes_client(module, value):
            yield (
                value,
                f"makes `{name}` for the whole module: make it a fixture that asks for `database_isolation`",
            )
        elif _makes_engine(module, value):
            yield value, f"makes an engine of its own, `{name}`: delete it"
    for function in module.functions.values():
        if _is_fixture(function):
            for advice in _advice_on_fixture(module, function):
                yield function, f"`{function.name}` {advice}"
    for definition in module.classes.values():
        for method in definition.body:
            if isinstance(method, Function) and _is_client(module, method):
                yield method, f"`{method.name}` makes a client: let it ask for `database_isolation`"


def _advice_on_fixture(module: Module, function: Function) -> Iterator[str]:
    text = ast.unparse(function)
    if "create_all" in text or "drop_all" in text:
        if _gives_something(function):
            yield "makes the tables: let it return the kit's `session`"
        else:
            yield "makes the tables: delete it, as the kit has made them already"
        if _calls_in(function) - OF_TABLES:
            yield "may write first rows, too: a fixture that asks for `session` is the place for them"
    elif _makes_engine(module, function):
        yield "makes an engine of its own: delete it, as the kit has `engine`"
    elif function.name in SESSIONS:
        yield "is a session: let it return the kit's `session`"
    elif function.name == "event_loop":
        yield "is in the way of pytest-asyncio: delete it"
    if _makes_client(module, function) and _scope(function) != "function":
        yield f"has the scope {_scope(function)}: make it a function's, and let it ask for `database_isolation`"


def clients_in(module: Module) -> Iterator[Function]:
    """Yields the fixtures that create a client of the application, and have to request `database_isolation`."""
    for function in module.functions.values():
        if _is_client(module, function) and not function.args.posonlyargs:
            yield function


def _is_client(module: Module, function: Function) -> bool:
    return (
        _is_fixture(function)
        and _makes_client(module, function)
        and (module.path.name == "conftest.py" or _calls_application(module, function))
        and _scope(function) == "function"
        and "database_isolation" not in [argument.arg for argument in function.args.args]
    )


def _makes_client(module: Module, node: ast.AST) -> bool:
    return any(module.calls("AsyncClient", "TestClient", within=node))


def _calls_application(module: Module, function: Function) -> bool:
    """Whether the client is for the application, and not for a service on the network."""
    return any(module.calls("TestClient", within=function)) or any(
        keyword.arg in ("app", "transport")
        for call in module.calls("AsyncClient", within=function)
        for keyword in call.keywords
    )


def _makes_engine(module: Module, node: ast.AST) -> bool:
    return any(module.calls("create_async_engine", "create_engine", within=node))


def _gives_something(function: Function) -> bool:
    return any(
        isinstance(node, ast.Yield | ast.Return) and node.value is not None
        for node in ast.walk(function)
    )


def _calls_in(function: Function) -> set[str]:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {ast.unparse(call).rpartition(".")[2] for call in calls}


def _scope(function: Function) -> str:
    for decorator in function.decorator_list:
        for keyword in getattr(decorator, "keywords", ()):
            if keyword.arg == "scope":
                return literal(keyword.value) or "function"
    return "function"


def _is_fixture(function: Function) -> bool:
    return any("fixture" in ast.unparse(each) for each in function.decorator_list)
