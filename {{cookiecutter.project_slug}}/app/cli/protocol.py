"""How connections end when a process of the server does."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE = 0.5  # seconds


class PatientProtocol(HttpToolsProtocol):
    """Gives a request that is on its way the time to come.

    uvicorn would close what is idle at once, and with it what a client has just sent, or is about to
    send on a connection that it has just opened.
    """

    def shutdown(self) -> None:
        self.loop.call_later(PATIENCE, super().shutdown)
