"""How connections end."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

PATIENCE = 0.5  # seconds
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """Gives a request that is on its way the time to come.

    uvicorn would close what is idle at once, and with it what a client has just sent, or is about to
    send on a connection that it has just opened.
    """

    def shutdown(self) -> None:
        self.loop.call_later(PATIENCE, super().shutdown)


class DecisiveProtocol(WebSocketsSansIOProtocol):
    """Ends WebSockets that uvicorn would keep: those whose handshake cannot be read, which would also keep the
    server from ending as it should, and those whose client takes nothing of what is sent.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()

    def shutdown(self) -> None:
        if self.conn.handshake_exc is None:  # else it is being closed
            super().shutdown()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(PATIENCE, self.transport.abort)
