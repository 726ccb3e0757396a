"""Requests a second of the service and of a minimal application with the same query, by wrk; and how long
`/health/live` takes while passwords are hashed."""

import asyncio
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from benchmarks.report import Row

PATHS = {"/api/v1/products": "A list of 20 products", "/health/live": "`/health/live`"}
SECONDS = 4
CONNECTIONS = 32
LOGINS = 40
ACCOUNT = {"email": "ada@example.com", "password": "correct horse battery staple"}


def compare(project: Path, database: str, rounds: int) -> list[Row]:
    """One process each, which are asked in turn."""
    if shutil.which("wrk") is None:
        print("  wrk is not installed: no requests a second", file=sys.stderr)
        return []
    python = project / ".venv" / "bin" / "python"
    ports = [free_port(), free_port(), free_port()]
    program = [python, "tests/benchmark/serve.py", *map(str, ports)]
    environment = os.environ | {
        "ENVIRONMENT": "production",
        "SECRET_KEY": "a-secret-of-the-benchmark-that-is-long-enough",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(project),
        **dict.fromkeys(("THROTTLE_LOGIN", "THROTTLE_REGISTER", "THROTTLE_MAIL"), ""),
    }
    if database == "sqlite":
        environment["DATABASE_URL"] = f"sqlite+aiosqlite:///{project}/load.db"
    else:
        program = [python, "-m", "testkit.databases.postgresql", *program]
    with subprocess.Popen(
        program,
        cwd=project,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as servers:
        assert servers.stdout
        assert any(line == "ready\n" for line in servers.stdout), "the servers have not started"
        rows = []
        for path, name in PATHS.items():
            figures = [[requests(port, path) for port in ports] for _ in range(rounds + 1)][1:]
            ratio = statistics.median(ours / theirs for ours, theirs, _ in figures)
            ours = statistics.median(ours for ours, _, _ in figures)
            rows.append(Row(name, ours, "requests/s", ratio, "a minimal application", -0.9))
            ratio = statistics.median(ours / quiet for ours, _, quiet in figures)
            rows.append(Row(f"{name}, logged", ours, "requests/s", ratio, "without the log", -0.91))
        figures = [asyncio.run(calm(ports[0])) for _ in range(rounds)]
        ratio = statistics.median(busy / idle for idle, busy in figures)
        busy = statistics.median(busy for _, busy in figures)
        name = f"`/health/live` during {LOGINS} logins, 99th percentile"
        rows.append(Row(name, busy, "ms", ratio, "idle", 5))
        servers.communicate()
    return rows


def requests(port: int, path: str) -> float:
    """Those that are answered in a second."""
    options = (f"-c{CONNECTIONS}", "-t1", f"-d{SECONDS}s")
    command = ["wrk", *options, f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])


async def calm(port: int) -> tuple[float, float]:
    """The 99th percentile of `/health/live`, in ms: idle, and while many log in at once."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits, trust_env=False
    ) as client:

        async def probe(work: "asyncio.Future[object]") -> float:
            taken = []
            while not work.done():
                begun = time.perf_counter()
                await client.get("/health/live")
                taken.append((time.perf_counter() - begun) * 1000)
                await asyncio.sleep(0.01)
            return statistics.quantiles(taken, n=100)[-1]

        await client.post("/api/v1/auth/register", json=ACCOUNT)
        form = {"username": ACCOUNT["email"], "password": ACCOUNT["password"]}
        idle = await probe(asyncio.ensure_future(asyncio.sleep(SECONDS)))
        logins = asyncio.gather(
            *(client.post("/api/v1/auth/login", data=form) for _ in range(LOGINS))
        )
        busy = await probe(logins)
        assert {answer.status_code for answer in logins.result()} == {200}
        return idle, busy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
