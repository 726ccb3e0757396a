"""The commands, as they are typed."""

import asyncio
import errno
import json
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import typer
import uvicorn
from alembic.script.revision import MultipleHeads, ResolutionError
from alembic.util import CommandError
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from uvicorn.supervisors import multiprocess

from app.cli import accounts, database, processes, program, protocol, supervisor
from app.cli import settings as settings_module
from app.cli.database import MIGRATIONS
from app.jobs.worker import STOP_TIMEOUT
from app.settings import Settings, load_settings
from app.users.models import User
from app.users.passwords import get_password_helper
from app.users.store import UserDatabase
from testkit.databases import open_empty_database
from testkit.isolation import Isolation
from tests.fixtures.database import SETUP
from tests.fixtures.environment import DEVELOPMENT_DATABASE
from tests.fixtures.factories import PASSWORD

Run = Callable[..., Result]


def with_database(tests: type) -> type:
    """Marks tests whose commands make engines of their own, as in production."""
    return pytest.mark.committed(pytest.mark.network(tests))


@pytest.fixture
def current() -> list[Settings]:
    """The settings that the commands find; a test may put others in their place."""
    return []


@pytest.fixture
def run(
    settings: Settings,
    current: list[Settings],
    database_isolation: Isolation,  # undoes what the commands do, with whatever connections
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs a command with this text on its standard input."""

    def find_settings() -> Settings:
        return current[-1] if current else settings

    for module in (accounts, database, processes, program):
        monkeypatch.setattr(module, "load_settings", find_settings)

    def invoke(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(program.cli, arguments, input=text)

    return invoke


def output(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def reason(result: Result) -> str:
    """Returns the reason that the failed command gave, which must not be a traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def test_help_names_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["app", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("app", run_name="__main__")

    assert "serve" in capsys.readouterr().out


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_asks_for_the_password_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(_text: str, **options: Any) -> str:
        asked.append(options)
        return PASSWORD

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", prompt)

    assert accounts.read_password() == PASSWORD
    assert asked == [{"hide_input": True, "confirmation_prompt": True}]


@with_database
class TestAccounts:
    def test_first_superuser(self, run: Run, sync_session: Session) -> None:
        said = output(run("create-superuser", "Root@example.com", text=f"{PASSWORD}\n"))
        again = output(run("create-superuser", "root@example.com"))

        assert said == "root@example.com is now a superuser, with this password.\n"
        assert again == "root@example.com is already a superuser.\n"
        user = sync_session.scalars(select(User)).one()
        assert (user.is_superuser, user.is_verified) == (True, True)

    def test_account_becomes_a_superuser(self, run: Run, sync_session: Session) -> None:
        sync_session.add(
            User(email="ada@example.com", hashed_password="x", is_active=False, is_verified=True)
        )
        sync_session.commit()

        output(run("create-superuser", "ada@example.com"))

        sync_session.expire_all()
        user = sync_session.scalars(select(User)).one()
        assert (user.is_superuser, user.is_active, user.hashed_password) == (True, True, "x")

    def test_account_of_nobody_knows_whom_gets_a_new_password(
        self, run: Run, sync_session: Session
    ) -> None:
        """A stranger may have registered the address before its owner did."""
        sync_session.add(User(email="ada@example.com", hashed_password="x"))
        sync_session.commit()

        assert "no password" in reason(run("create-superuser", "ada@example.com"))
        output(run("create-superuser", "ada@example.com", text=f"\ufeff{PASSWORD}\r\n"))

        sync_session.expire_all()
        user = sync_session.scalars(select(User)).one()
        assert (user.is_superuser, user.is_verified, user.token_version) == (True, True, 1)
        helper = get_password_helper(load_settings())
        assert helper.verify_and_update(PASSWORD, user.hashed_password)[0]

    @pytest.mark.parametrize("what", ["verified", "deleted"])
    def test_account_that_changes_while_somebody_types(
        self, run: Run, sync_session: Session, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        async def find(_session: AsyncSession, user: User) -> None:
            if what == "deleted":
                raise InvalidRequestError("Could not refresh instance")
            user.is_verified = True

        sync_session.add(User(email="ada@example.com", hashed_password="x"))
        sync_session.commit()
        monkeypatch.setattr(AsyncSession, "refresh", find)

        said = reason(run("create-superuser", "ada@example.com", text=PASSWORD))

        assert f"just been {what}" in said

    @pytest.mark.parametrize(
        ("email", "text", "why"),
        [
            ("root@example.com", "weak\n", "at least 8 characters"),
            ("root@example.com", "", "no password on standard input"),
            ("nonsense", "", "email: value is not a valid email address"),
        ],
    )
    def test_refuses_in_plain_words(self, run: Run, email: str, text: str, why: str) -> None:
        assert why in reason(run("create-superuser", email, text=text))

    def test_without_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)

        with pytest.raises(typer.Exit):
            accounts.read_password()

    def test_address_that_was_taken_in_the_meantime(
        self, run: Run, sync_session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def find_nobody(*_args: object) -> None:
            return None

        sync_session.add(User(email="ada@example.com", hashed_password="x"))
        sync_session.commit()
        monkeypatch.setattr(UserDatabase, "get_by_email", find_nobody)

        assert "Try again" in reason(
            run("create-superuser", "ada@example.com", text=f"{PASSWORD}\n")
        )

    def test_locks_nothing_while_somebody_types(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stores: list[UserDatabase] = []

        class Store(UserDatabase):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                stores.append(self)

        def type_slowly() -> str:
            assert not stores[0].session.in_transaction()
            return PASSWORD

        monkeypatch.setattr(accounts, "UserDatabase", Store)
        monkeypatch.setattr(accounts, "read_password", type_slowly)

        output(run("create-superuser", "root@example.com"))

    def test_output_that_nobody_reads_is_no_mistake(
        self, run: Run, sync_session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []

        def write(text: str, **_options: object) -> None:
            said.append(text)
            if "@" in text:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        sync_session.add(User(email="ada@example.com", hashed_password="x"))
        sync_session.commit()
        monkeypatch.setattr("typer.echo", write)

        run("users")

        assert said == ["ada@example.com  unverified"]

    def test_lists_and_changes(self, run: Run, sync_session: Session) -> None:
        for name in ("eve", "ada"):
            sync_session.add(
                User(email=f"{name}@example.com", hashed_password="x", is_verified=name == "ada")
            )
        sync_session.commit()

        output(run("users", "deactivate", "eve@example.com"))
        assert output(run("users", "promote", "ADA@example.com")) == "ada@example.com  superuser\n"
        assert output(run("users")) == (
            "ada@example.com  superuser\neve@example.com  inactive  unverified\n"
        )
        output(run("users", "activate", "eve@example.com"))
        output(run("users", "demote", "ada@example.com"))
        assert output(run("users", "list")) == "ada@example.com\neve@example.com  unverified\n"

    def test_account_that_nobody_has(self, run: Run) -> None:
        assert "no account for x@example.com" in reason(run("users", "promote", "x@example.com"))


@with_database
class TestDatabase:
    def test_is_new(self, run: Run, current: list[Settings], pytestconfig: pytest.Config) -> None:
        with open_empty_database(SETUP, pytestconfig) as url:
            current.append(Settings(database_url=url))

            assert "python -m app migrate" in reason(run("users"))

    def test_migrates(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        revisions: list[str] = []
        monkeypatch.setattr(
            "alembic.command.upgrade", lambda _config, revision: revisions.append(revision)
        )

        output(run("migrate"))

        assert revisions == ["head"]

    def test_database_of_a_newer_version_stays(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_config: object, _revision: str) -> None:
            raise CommandError("Can't locate revision") from ResolutionError("0099", "0099")

        monkeypatch.setattr("alembic.command.upgrade", fail)

        assert "newer than this version" in output(run("migrate"))

    def test_says_why_it_cannot_migrate(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_config: object, _revision: str) -> None:
            raise CommandError("Multiple head revisions")

        monkeypatch.setattr("alembic.command.upgrade", fail)

        assert reason(run("migrate")) == "Multiple head revisions\n"

    def test_says_what_to_do_with_two_branches(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_config: object, _revision: str) -> None:
            raise CommandError("specify a revision") from MultipleHeads(["0005", "0006"], "head")

        monkeypatch.setattr("alembic.command.upgrade", fail)

        assert "alembic merge heads" in reason(run("migrate"))

    def test_says_which_migration_was_refused(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        migration = MIGRATIONS / "0009_wrong.py"
        refused = DBAPIError("ALTER TABLE users", {}, Exception("column is not null"))
        code = compile("def upgrade(error):\n    raise error", migration, "exec")
        scope: dict[str, Any] = {}
        exec(code, scope)  # noqa: S102

        def fail(_config: object, _revision: str) -> None:
            scope["upgrade"](refused)

        monkeypatch.setattr("alembic.command.upgrade", fail)

        said = reason(run("migrate"))
        assert "versions/0009_wrong.py:2" in said
        assert "ALTER TABLE users" in said
        assert said.endswith("The database says: column is not null\n")

    def test_waits_for_the_database_with_a_limit(self, run: Run, current: list[Settings]) -> None:
        nowhere = DEVELOPMENT_DATABASE.set(database="/dev/null/none")
        if nowhere.port is not None:
            nowhere = nowhere.set(port=1)
        url = nowhere.render_as_string(hide_password=False)
        current.append(Settings(database_url=url))

        assert "has not answered for 0.3 s" in reason(run("migrate", "--wait", "0.3"))

    def test_waits_until_the_database_answers(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Mock(dispose=AsyncMock())
        engine.connect.side_effect = [OSError("no server"), AsyncMock()]
        monkeypatch.setattr(database, "create_engine", lambda _url: engine)

        asyncio.run(database.wait_for_database("", 60))

        assert engine.connect.call_count == 2

    def test_waits_no_longer_for_a_server_that_hangs_after_a_while(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hanging = AsyncMock()
        hanging.__aenter__.side_effect = asyncio.Event().wait
        engine = Mock(dispose=AsyncMock())
        engine.connect.side_effect = [OSError("no server"), hanging]
        timeout = Mock(wraps=asyncio.timeout)
        monkeypatch.setattr(database, "create_engine", lambda _url: engine)
        monkeypatch.setattr(database, "SHORTEST_ATTEMPT", 0.01)
        monkeypatch.setattr(asyncio, "timeout", timeout)

        with pytest.raises(typer.Exit):
            asyncio.run(database.wait_for_database("", 0.3))

        first, second = (call.args[0] for call in timeout.call_args_list)
        assert second < first <= 0.3

    def test_seeds(self, run: Run) -> None:
        for _ in range(2):
            output(run("seed"))

        assert output(run("users")) == "ada@example.com\n"

    def test_production_gets_no_examples(
        self, run: Run, settings: Settings, current: list[Settings]
    ) -> None:
        current.append(settings.model_copy(update={"environment": "production"}))

        assert "in production" in reason(run("seed"))


async def silent(_scope: object, _receive: object, _send: object) -> None:
    await asyncio.Event().wait()


def http_connection(
    transport: Mock, application: Callable[..., Any] = silent
) -> protocol.PatientProtocol:
    transport.get_extra_info.return_value = None
    transport.is_closing.side_effect = lambda: transport.close.called
    config = uvicorn.Config(application, log_config=None)
    connection = protocol.PatientProtocol(config, ServerState(), {})
    connection.connection_made(transport)
    return connection


async def read_requests(
    data: bytes, size: int | None = None, *, transport: Mock | None = None
) -> list[tuple[str, bytes]]:
    """Sends this in parts of that size. Returns the path and the body of each request that is answered."""
    read: list[tuple[str, bytes]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, is_more = b"", True
        while is_more:
            message = await receive()
            body += message["body"]
            is_more = message["more_body"]
        read.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    connection = http_connection(transport or Mock(), application)
    for start in range(0, len(data), size or len(data)):
        connection.data_received(data[start : start + (size or len(data))])
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks)
    connection.connection_lost(None)
    return read


def websocket_connection(transport: Mock) -> protocol.DecisiveProtocol:
    config = uvicorn.Config("app.main:create_app", factory=True, log_config=None)
    config.load()
    connection = protocol.DecisiveProtocol(config, ServerState(), {})
    connection.connection_made(transport)
    return connection


class TestProcesses:
    def test_serves(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        served: list[dict[str, Any]] = []
        monkeypatch.setattr(
            uvicorn, "run", lambda app, **options: served.append({"app": app} | options)
        )

        output(run("serve", "--port", "9000", "--workers", "2"))

        (options,) = served
        assert options["app"] == "app.main:create_app"
        assert (options["host"], options["port"], options["workers"]) == ("127.0.0.1", 9000, 2)
        assert options["http"] == "app.cli.protocol:PatientProtocol"
        delay = load_settings().shutdown_delay
        assert delay + options["timeout_graceful_shutdown"] + STOP_TIMEOUT < 10

    @pytest.mark.parametrize("content", [b"PORT=8123\nHOST=\nOTHER=1", b"PORT=\xff"])
    def test_options_may_be_in_the_file_of_the_settings(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / ".env").write_bytes(content)
        monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
        monkeypatch.setattr(os, "environ", {})

        processes.read_env_file()

        assert os.environ in ({"PORT": "8123"}, {})

    def test_path_of_a_proxy_is_a_path(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        served: list[str] = []
        monkeypatch.setattr(uvicorn, "run", lambda *_, root_path, **__: served.append(root_path))

        output(run("serve", "--root-path", "/shop/"))
        refused = run("serve", "--root-path", "shop")

        assert served == ["/shop"]
        assert (refused.exit_code, refused.stderr) == (
            1,
            "ROOT_PATH, or --root-path, must begin with `/`.\n",
        )

    def test_reloads_without_a_delay(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHUTDOWN_DELAY", "1")
        monkeypatch.setattr(uvicorn, "run", lambda *_args, **_options: None)

        output(run("serve", "--reload"))

        assert os.environ["SHUTDOWN_DELAY"] == "0"

    def test_connections_are_given_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "PATIENCE", 0.01)
        transport = Mock()

        async def shut_down() -> None:
            http_connection(transport).shutdown()
            assert not transport.close.called
            await asyncio.sleep(0.05)

        asyncio.run(shut_down())

        assert transport.close.called

    def test_websocket_ends_as_one_even_if_it_has_just_become_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "PATIENCE", 0)
        monkeypatch.setattr(protocol, "LOOK_INTERVAL", 0)
        ended = Mock()
        monkeypatch.setattr(WebSocketsSansIOProtocol, "shutdown", ended)
        transport = Mock()

        async def shut_down() -> None:
            http = http_connection(transport)
            transport.get_protocol.return_value = websocket = websocket_connection(transport)
            websocket.handshake_initiated = True
            http.shutdown()
            await asyncio.sleep(0.01)
            assert not ended.called
            websocket.handshake_complete = True
            await asyncio.sleep(0.01)

        asyncio.run(shut_down())

        assert ended.call_count == 1
        assert not transport.close.called

    def test_heads_have_an_end(self) -> None:
        """A client cannot send headers without end. `MAX_BODY_SIZE` limits bodies."""

        transport = Mock()
        part = b"x" * (protocol.MAX_HEAD_SIZE // 2)

        async def answers(*parts: bytes) -> list[bytes]:
            transport.reset_mock()
            connection = http_connection(transport)
            for sent in parts:
                connection.data_received(sent)
            return [call.args[0] for call in transport.write.call_args_list]

        begin = b"POST / HTTP/1.1\r\nContent-Length: 196608\r\nX: "
        whole = (begin, part, part, b"\r\n\r\n", *[part] * 6)
        assert asyncio.run(answers(*whole, begin, part)) == []

        (answer,) = asyncio.run(answers(begin, part, part, part))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert transport.close.called

    @pytest.mark.parametrize("size", [1, 40, 5000])  # of the parts that arrive
    @pytest.mark.parametrize("framing", ["Content-Length: 26", "Transfer-Encoding: chunked"])
    @pytest.mark.parametrize(
        ("version", "connection", "answered"),
        [
            ("1.1", "Upgrade, HTTP2-Settings", 3),
            ("1.1", "Upgrade, close", 1),
            ("1.0", "Upgrade", 1),
        ],
    )
    def test_upgrade_that_is_not_offered_is_ignored(
        self, size: int, framing: str, version: str, connection: str, answered: int
    ) -> None:
        """Otherwise the body of the request would be executed as the next one."""
        body = b"GET /smuggled HTTP/1.1\r\n\r\n"
        head = f"POST /one HTTP/{version}\r\nConnection: {connection}\r\nUpgrade: h2c\r\n{framing}"
        sent = b"1a\r\n%b\r\n0\r\n\r\n" % body if "chunked" in framing else body

        read = asyncio.run(read_requests(b"%b\r\n\r\n%b" % (head.encode(), sent) * 3, size))

        assert read == [("/one", body)] * answered

    def test_many_upgrades_at_once(self) -> None:
        request = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

        assert len(asyncio.run(read_requests(request * 400))) == 400

    def test_websocket_overtakes_no_response(self) -> None:
        """The connection ends after the response, without having become a WebSocket."""
        handshake = b"GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

        waiting, alone = Mock(), Mock()

        data = b"GET / HTTP/1.1\r\n\r\n" + handshake
        assert asyncio.run(read_requests(data, transport=waiting)) == [("/", b"")]
        asyncio.run(read_requests(handshake, transport=alone))

        assert (waiting.set_protocol.called, waiting.close.called) == (False, True)
        assert alone.set_protocol.called

    def test_refusal_overtakes_no_response(self) -> None:
        """It would be taken for that."""
        for wrong in (b"\0", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"):
            data = b"GET / HTTP/1.1\r\n\r\n" + wrong

            read = asyncio.run(read_requests(data, transport=(transport := Mock())))

            assert read == [("/", b"")]
            answer = b"".join(call.args[0] for call in transport.write.call_args_list)
            assert answer.startswith(b"HTTP/1.1 204 ")
            assert b" 400 " not in answer
            assert transport.close.called

    @pytest.mark.parametrize(("sent", "is_early"), [(b"begin", True), (b"begin and end", False)])
    def test_response_before_the_body_ends_the_connection(
        self, sent: bytes, is_early: bool
    ) -> None:
        """Otherwise the next request that a proxy sends on it would be taken for the rest of the body."""
        transport = Mock()
        answered: list[str] = []

        async def application(scope: Any, _receive: object, send: Any) -> None:
            answered.append(scope["path"])
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        async def converse() -> None:
            connection = http_connection(transport, application)
            connection.timeout_keep_alive = 0.05  # type: ignore[assignment]  # of whole seconds
            connection.data_received(b"POST /one HTTP/1.1\r\nContent-Length: 13\r\n\r\n" + sent)
            await asyncio.sleep(0.01)
            connection.data_received(b"GET /two HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.01)
            assert not transport.close.called  # what the client has not read yet would be lost
            await asyncio.sleep(0.1)

        asyncio.run(converse())

        answer, *_ = [call.args[0] for call in transport.write.call_args_list]
        assert (b"connection: close" in answer) == is_early
        assert answered == (["/one"] if is_early else ["/one", "/two"])
        assert transport.close.called

    def test_is_no_proxy(self) -> None:
        connection = http_connection(transport := Mock())

        connection.data_received(
            b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        )

        (answer,) = [call.args[0] for call in transport.write.call_args_list]
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert transport.close.called

    @pytest.mark.parametrize(
        ("unsent", "is_left"),
        [
            pytest.param([9, 9], True, id="reads nothing"),
            pytest.param([9, 6, 6], True, id="reads no more"),
            pytest.param([9, 6, 3, 1], False, id="reads slowly"),
            pytest.param([9, 0], False, id="reads all"),
        ],
    )
    def test_client_that_does_not_read_is_left(
        self, monkeypatch: pytest.MonkeyPatch, unsent: list[int], is_left: bool
    ) -> None:
        monkeypatch.setattr(protocol, "WRITE_TIMEOUT", 0)
        transport = Mock(**{"get_write_buffer_size.side_effect": [*unsent, AssertionError]})

        async def wait() -> None:
            connection = http_connection(transport)
            connection.pause_writing()
            for _ in range(len(unsent) - 1):
                await asyncio.sleep(0.001)
            connection.resume_writing()
            await asyncio.sleep(0.001)
            connection.connection_lost(None)

        asyncio.run(wait())

        assert transport.abort.called == is_left

    def test_client_that_does_not_read_is_not_answered(self) -> None:
        """Otherwise its response would wait to be sent, with the transaction of the request still open."""
        begun: list[str] = []

        async def application(scope: Any, _receive: object, _send: object) -> None:
            begun.append(scope["path"])

        async def ask() -> None:
            transport = Mock(**{"get_write_buffer_size.return_value": 9})
            connection = http_connection(transport, application)
            connection.pause_writing()
            connection.data_received(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0)
            assert begun == []
            connection.resume_writing()
            await asyncio.sleep(0)
            connection.connection_lost(None)

        asyncio.run(ask())

        assert begun == ["/next"]

    def test_requests_of_a_client_that_has_gone_know_it(self) -> None:
        """So does the first of several requests, which is being answered."""
        begun: list[Any] = []
        said: list[dict[str, str]] = []

        async def application(_scope: object, receive: Any, _send: object) -> None:
            begun.append(receive.__self__)
            await receive()
            said.append(await receive())

        async def disconnect() -> None:
            connection = http_connection(Mock(), application)
            connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await asyncio.sleep(0)
            connection.connection_lost(None)
            await asyncio.sleep(0.01)

        asyncio.run(disconnect())

        assert [cycle.disconnected for cycle in begun] == [True]
        assert said == [{"type": "http.disconnect"}]

    def test_processes_that_end_are_noticed(self) -> None:
        supervisor.notice_ends()
        config = uvicorn.Config("app.main:create_app", factory=True, log_config=None)
        process = multiprocess.Process(config, [])
        process.process = Mock()

        process.start()

        with pytest.raises(EOFError):  # there is nobody else at the other end
            process.parent_conn.recv()

    def test_first_process_of_a_container_can_be_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        before = signal.getsignal(signal.SIGTERM)
        try:
            runpy.run_module("app")
            with pytest.raises(SystemExit) as ended:
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)

        assert ended.value.code == 143

    def test_processes_end_with_their_parent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        process = supervisor.NoticedProcess(uvicorn.Config("", log_config=None), [])
        ended = Event()
        monkeypatch.setattr(multiprocessing, "parent_process", Mock())
        monkeypatch.setattr(os, "kill", lambda *_: ended.set())
        monkeypatch.setattr(process, "always_pong", lambda: None)
        monkeypatch.setattr(uvicorn.Server, "run", lambda *_: ended.wait(5))

        process.target([])

        assert ended.is_set()

    def test_websockets_that_cannot_be_opened_are_closed(self) -> None:
        transport = Mock(**{"get_extra_info.return_value": None, "is_closing.return_value": False})

        async def open_and_shut_down() -> None:
            connection = websocket_connection(transport)
            websocket_connection(transport).shutdown()
            transport.reset_mock()
            connection.data_received(b"GET / HTTP/1.1\r\n")
            assert not transport.write.called
            connection.data_received(b"Content-Length: 5\r\n\r\nhello")
            connection.shutdown()

        asyncio.run(open_and_shut_down())

        assert transport.write.call_args.args[0].startswith(b"HTTP/1.1 400 ")
        assert transport.close.called

    def test_websockets_whose_client_takes_nothing_are_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transport = Mock(**{"get_extra_info.return_value": None})
        monkeypatch.setattr(protocol, "PATIENCE", 0.01)
        monkeypatch.setattr(WebSocketsSansIOProtocol, "keepalive_timeout", lambda _self: None)

        async def wait() -> None:
            websocket_connection(transport).keepalive_timeout()
            assert not transport.abort.called
            await asyncio.sleep(0.05)

        asyncio.run(wait())

        assert transport.abort.called

    def test_worker_runs_jobs_that_are_left_to_it(
        self,
        run: Run,
        settings: Settings,
        current: list[Settings],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        apps: list[FastAPI] = []

        async def note_app(app: FastAPI) -> None:
            apps.append(app)

        current.append(settings.model_copy(update={"jobs_in_process": False}))
        monkeypatch.setattr("app.jobs.worker.work", note_app)

        output(run("worker"))

        assert apps[0].state.settings.jobs_in_process
        assert not current[-1].jobs_in_process


class TestSettings:
    @pytest.fixture(autouse=True)
    def read_anew(self) -> Iterator[None]:
        load_settings.cache_clear()
        yield
        load_settings.cache_clear()

    def test_shows_where_they_come_from_and_no_secret(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        secret = "a-secret-that-nobody-may-read-on-a-screen"
        (tmp_path / "secret_key").write_text(secret)
        (tmp_path / ".env").write_text("SMTP_PORT=2525\n")
        monkeypatch.setattr(settings_module, "SECRETS", tmp_path)
        monkeypatch.setitem(Settings.model_config, "secrets_dir", tmp_path)
        monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
        monkeypatch.delenv("SECRET_KEY")
        monkeypatch.setenv("REDIS_URL", "redis://me:hidden@cache:6379")
        monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")

        said = output(run("settings"))

        assert f"SECRET_KEY=**********  # {tmp_path}/secret_key\n" in said
        assert f"SMTP_PORT=2525  # {tmp_path}/.env\n" in said
        assert "REDIS_URL=redis://me:***@cache:6379  # environment\n" in said
        assert "CORS_ORIGINS=https://a.example,https://b.example  # environment\n" in said
        assert "SMTP_STARTTLS=false  # default\n" in said
        assert "SMTP_USERNAME=  # default\n" in said
        assert secret not in said

    def test_shows_no_password_of_any_url(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis+sentinel://me:hidden@h1:26379,h2:26379/name")

        said = output(run("settings"))

        assert "REDIS_URL=redis+sentinel://me:***@h1:26379,h2:26379/name  # environment\n" in said

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("https://a/v1?key=hidden&x=1", "https://a/v1?key=***&x=1"),
            ("redis://:hid/d@en:@h:6379/0", "redis://:***@h:6379/0"),
            ("redis://h:6379/0", "redis://h:6379/0"),
        ],
    )
    def test_secrets_of_a_url(self, url: str, said: str) -> None:
        assert settings_module.shown(url) == said

    def test_checks(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        assert output(run("settings", "--check")) == ""
        load_settings.cache_clear()
        monkeypatch.setenv("SMTP_PORT", "twenty-five")

        result = run("settings", "--check")

        assert result.exit_code == 1
        assert "SMTP_PORT: Input should be a valid integer" in result.output

    def test_writes_the_document_of_the_api(self, run: Run, tmp_path: Path) -> None:
        assert "cannot be written" in reason(run("openapi", "--output", str(tmp_path)))
        said = output(run("openapi"))
        output(run("openapi", "--output", str(tmp_path / "openapi.json")))

        written = (tmp_path / "openapi.json").read_text(encoding="utf-8")
        assert json.loads(said) == json.loads(written)
        assert "/api/v1/users/me" in written
        # The copy for those who call the API, where there is one.
        copy = Path("openapi.json")
        kept = copy.read_text(encoding="utf-8") if copy.exists() else written
        assert kept == written, (
            "openapi.json is not what the service does: `make openapi` writes it."
        )
