"""What uvicorn does not look after: how connections end, how long a head may be, and which upgrades it ignores."""

import sys
from asyncio import TimerHandle
from functools import partial
from math import inf
from typing import Any

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

PATIENCE = 0.5  # seconds
LOOK_INTERVAL = 0.1  # seconds, while a handshake is answered
WRITE_TIMEOUT = 300.0  # seconds; the system's buffers hide for a while that a slow client reads
MAX_HEAD_SIZE = 65_536  # bytes; reads are not cut, so somewhat more may be kept
BODY_HEADERS = (b"content-length", b"transfer-encoding")
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE = BAD_REQUEST.replace(b"400 Bad Request", b"431 Request Header Fields Too Large")


class PatientProtocol(HttpToolsProtocol):
    """Waits for requests that are about to arrive, refuses those whose headers do not end, leaves clients that do not
    read, ignores upgrades to protocols other than WebSocket, and ends connections after an early response.

    uvicorn would close idle connections at once, and lose what a client has just sent, or is about to send on a
    connection that it has just opened. It would keep whatever is sent as headers. And it would begin to answer a client
    that does not read, and wait forever to send the response, with the transaction of the request still open.

    Some clients ask for HTTP/2 with every request. httptools then takes the body for a part of the other protocol, and
    uvicorn would execute it as the next request, whoever has written it.

    A response may be sent before the body has arrived, as when that is too large. Some proxies then send the next
    request of somebody on the same connection, where it would be taken for the rest of the body. So the connection ends
    after such a response, but not at once: the system would take back what the client has not read yet.
    """

    is_in_head = False
    head_size = 0
    ignores_upgrade = is_early = False
    read = unread = b""
    answered: RequestResponseCycle | None = None
    postponed: tuple[RequestResponseCycle, Any] | None = None
    giving_up: TimerHandle | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.is_in_head, self.head_size = True, 0

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        self.ignores_upgrade = self.parser.should_upgrade() and not self._should_upgrade()
        if not self.ignores_upgrade:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.ignores_upgrade:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self.is_early and self.cycle.response_complete:
            return  # until the client has left, or is taken for an idle one
        self.head_size += len(data)
        self.unread = data
        while self.unread:
            self.read, self.unread = self.unread, b""
            super().data_received(self.read)
        self.read = b""
        if self.is_in_head and self.head_size > MAX_HEAD_SIZE and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Called where the parser has stopped, at the end of the head. Lets another one read the request again, without
        the header that it has stopped for: whoever does not offer an upgrade ignores it (RFC 9110, 7.8)."""
        if self.parser.get_method() == b"CONNECT":  # which is an upgrade without a header
            self.send_400_response("This is not a proxy.")
            return
        (stop,) = sys.exception().args  # type: ignore[union-attr]  # raised by the parser
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        head += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.unread = b"\r\n".join([*head, b"", self.read[stop:]])

    def handle_websocket_upgrade(self) -> None:
        if self._is_answering():
            # The handshake would overtake the response. The connection ends after that.
            self.cycle.keep_alive = False
        else:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        if self._is_answering() and not self.cycle.more_body:  # else it is about this request
            self.cycle.keep_alive = False
        else:
            super().send_400_response(msg)

    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # there may have been no request

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.flow.write_paused:  # the client has not read the responses before
            self.postponed = cycle, app
            return
        self.answered = cycle
        has_body = any(name in BODY_HEADERS for name, _ in cycle.scope["headers"])
        super()._start_asgi_task(cycle, partial(self._answer, cycle, app) if has_body else app)

    async def _answer(
        self, cycle: RequestResponseCycle, app: Any, scope: Any, receive: Any, send: Any
    ) -> None:
        async def send_or_end(message: Any) -> None:
            if cycle.response_started or not cycle.more_body:
                await send(message)
                return
            self.is_early = True
            cycle.keep_alive = False  # so uvicorn tells the client
            await send(message)
            cycle.keep_alive = True  # and does not close the connection at once

        await app(scope, receive, send_or_end)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._give_time(inf)

    def _give_time(self, unsent_before: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent == unsent_before:
            self.transport.abort()
        elif unsent:  # else it has become a WebSocket, and somebody else's
            self.giving_up = self.loop.call_later(WRITE_TIMEOUT, self._give_time, unsent)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._give_no_more_time()
        if self.postponed is not None:
            postponed, self.postponed = self.postponed, None
            self._start_asgi_task(*postponed)

    def _give_no_more_time(self) -> None:
        if self.giving_up is not None:
            self.giving_up.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_no_more_time()
        # uvicorn tells only the newest request of a client that has sent several at once.
        if self.answered is not None and not self.answered.response_complete:
            self.answered.disconnected = True
            self.answered.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.loop.call_later(PATIENCE, self._shut_down)

    def _shut_down(self) -> None:
        protocol = self.transport.get_protocol()
        if isinstance(protocol, DecisiveProtocol):  # it has become a WebSocket meanwhile
            protocol.shutdown()
        else:
            super().shutdown()


class DecisiveProtocol(WebSocketsSansIOProtocol):
    """Ends WebSockets that uvicorn would keep: those whose handshake cannot be read, which would also keep the
    server from ending as it should, and those whose client takes nothing of what is sent. Handshakes that are being
    answered are given time when the process ends, as requests are.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()

    def shutdown(self) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self.loop.call_later(LOOK_INTERVAL, self.shutdown)
        elif self.conn.handshake_exc is None and not self.transport.is_closing():
            super().shutdown()  # else it is being closed

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(PATIENCE, self.transport.abort)
