"""Limits to tries (to log in, to register, to have mails sent): for each address that is named, and each client.

In memory; in Redis or Valkey where `REDIS_URL` names one, for several processes.
"""

import hashlib
import logging
import math
import time
from ipaddress import ip_address, ip_network
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from app.errors import AppError
from app.settings import Settings, redis_storage
from app.telemetry import throttled

logger = logging.getLogger(__name__)


class Throttle:
    """The counts of one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets what this process has counted."""
        self._limiters: list[Any] = []

    async def check(self, action: str, rate: str, address: str, client: str) -> None:
        """Counts a try; `AppError` 429 for one too many. An empty `rate` allows everything."""
        if not rate:
            return
        import limits  # 0.2 s

        item = limits.parse(rate)
        # A client that is refused takes no try away from the owner of the address.
        for kind, who in (("client", client), ("address", address)):
            # No address is kept in Redis, nor in a list of its slow commands.
            key = hashlib.sha256(f"{kind}:{who}".encode(errors="replace")).hexdigest()
            if (end := await self._refused_until(item, action, key)) is not None:
                throttled.add(1, {"action": action})
                seconds = max(1, math.ceil(end - time.time()))
                raise AppError(
                    429,
                    "TOO_MANY_TRIES",
                    f"There were too many tries. The next one is possible in {seconds} s.",
                    headers={"Retry-After": str(seconds)},
                )

    async def _refused_until(self, item: Any, action: str, key: str) -> float | None:
        """Counts a try. Returns when the next one is possible, in seconds since 1970; `None` if this one is."""
        for limiter in self._limiters or self._make_limiters():
            try:
                if await limiter.hit(item, action, key):
                    return None
                end: float = (await limiter.get_window_stats(item, action, key)).reset_time
            except Exception as error:
                if limiter is self._limiters[-1]:
                    raise
                logger.warning("throttling in memory (%s)", type(error).__name__)
            else:
                return end
        raise AssertionError  # pragma: no cover

    def _make_limiters(self) -> list[Any]:
        """The preferred one first; the last one works without anything outside."""
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import MovingWindowRateLimiter

        storages: list[Any] = [MemoryStorage()]
        if self.settings.redis_url:
            storages.insert(0, redis_storage(self.settings.redis_url))
        self._limiters = [MovingWindowRateLimiter(storage) for storage in storages]
        return self._limiters


class Throttled:
    """The throttle of an application, for the client of one request."""

    def __init__(self, throttle: Throttle, client: str) -> None:
        self.throttle = throttle
        self.client = client

    async def check(self, action: str, rate: str, address: str) -> None:
        await self.throttle.check(action, rate, address, self.client)


async def get_throttled(connection: HTTPConnection) -> Throttled:
    client = connection.client.host if connection.client else ""
    return Throttled(connection.app.state.throttle, client_network(client))


def client_network(host: str) -> str:
    """The address; of IPv6, its /64 network, as whoever has one of its addresses has them all."""
    try:
        address = ip_address(host)
    except ValueError:  # of a Unix socket, there is none
        return host
    if address.version == 4 or address.ipv4_mapped is not None:
        return host
    return str(ip_network((address, 64), strict=False))


ThrottleDep = Annotated[Throttled, Depends(get_throttled)]


def install_throttle(app: FastAPI) -> None:
    app.state.throttle = Throttle(app.state.settings)
