"""Limits on attempts (to log in, to register, to have mails sent), for each address that is named and each client.

In memory, or, for several processes, in Redis or Valkey where `REDIS_URL` names one.
"""

import hashlib
import logging
import math
import time
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from app.errors import AppError
from app.settings import Settings, redis_storage
from app.telemetry import throttled

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.strategies import MovingWindowRateLimiter

logger = logging.getLogger(__name__)

KEPT_UNCHECKED = 1000  # keys that may be there before those that no longer count are dropped


class Memory:
    """The attempts that this process has counted, in windows that move.

    The memory storage of `limits` scans all clients after each attempt, which anybody with many addresses can make
    slow, and its clock may be set back, which locks everybody out for as long.
    """

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}
        """When the attempts of a key no longer count, the first one first."""
        self._most = KEPT_UNCHECKED

    def hit(self, item: "RateLimitItem", *identifiers: str) -> float | None:
        """Counts an attempt. Returns `None` if it is allowed, else the seconds until the next one is."""
        if not item.amount:
            return item.get_expiry()
        now = time.monotonic()
        ends = self._ends.setdefault(item.key_for(*identifiers), [])
        while ends and ends[0] <= now:
            del ends[0]
        if len(ends) >= item.amount:
            return ends[0] - now
        ends.append(now + item.get_expiry())
        if len(self._ends) > self._most:
            self._ends = {key: ends for key, ends in self._ends.items() if ends and ends[-1] > now}
            self._most = max(KEPT_UNCHECKED, 2 * len(self._ends))
        return None


class Throttle:
    """The counts of one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets what this process has counted."""
        self._memory = Memory()
        self._redis: MovingWindowRateLimiter | None = None

    async def check(self, action: str, rate: str, address: str, client: str) -> None:
        """Counts an attempt; raises `AppError` 429 for one too many. An empty `rate` allows everything."""
        if not rate:
            return
        import limits  # 0.2 s

        item = limits.parse(rate)
        # A client that is refused takes no attempt away from the owner of the address.
        for kind, who in (("client", client), ("address", address)):
            # No address is kept in Redis, nor in a list of its slow commands.
            key = hashlib.sha256(f"{kind}:{who}".encode(errors="replace")).hexdigest()
            if (wait := await self._hit(item, action, key)) is not None:
                throttled.add(1, {"action": action})
                seconds = max(1, math.ceil(wait))
                raise AppError(
                    429,
                    "TOO_MANY_TRIES",
                    f"Too many attempts. Try again in {seconds} s.",
                    headers={"Retry-After": str(seconds)},
                )

    async def _hit(self, item: "RateLimitItem", *identifiers: str) -> float | None:
        if url := self.settings.redis_url:
            try:
                return await self._hit_in_redis(url, item, *identifiers)
            except Exception as error:
                logger.warning("throttling in memory (%s)", type(error).__name__)
        return self._memory.hit(item, *identifiers)

    async def _hit_in_redis(
        self, url: str, item: "RateLimitItem", *identifiers: str
    ) -> float | None:
        if self._redis is None:
            from limits.aio.strategies import MovingWindowRateLimiter

            self._redis = MovingWindowRateLimiter(redis_storage(url))
        if await self._redis.hit(item, *identifiers):
            return None
        window = await self._redis.get_window_stats(item, *identifiers)
        return window.reset_time - time.time()


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
    """The address; for IPv6 its /64 network, since a client that has one of its addresses has them all."""
    try:
        address = ip_address(host)
    except ValueError:  # of a Unix socket, there is none
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))


ThrottleDep = Annotated[Throttled, Depends(get_throttled)]


def install_throttle(app: FastAPI) -> None:
    app.state.throttle = Throttle(app.state.settings)
