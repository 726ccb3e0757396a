"""Requests a second of the service and of a minimal application with the same query, by wrk."""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Row

PATHS = {"/api/v1/products": "A list of 20 products", "/health/live": "`/health/live`"}
SECONDS = 4
CONNECTIONS = 32


def compare(project: Path, database: str, rounds: int) -> list[Row]:
    """One process each, which are asked in turn."""
    if shutil.which("wrk") is None:
        print("  wrk is not installed: no requests a second", file=sys.stderr)
        return []
    python = project / ".venv" / "bin" / "python"
    ports = [free_port(), free_port()]
    program = [python, "tests/benchmark/serve.py", *map(str, ports)]
    environment = os.environ | {
        "ENVIRONMENT": "production",
        "SECRET_KEY": "a-secret-of-the-benchmark-that-is-long-enough",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(project),
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
            ratio = statistics.median(ours / theirs for ours, theirs in figures)
            ours = statistics.median(ours for ours, _ in figures)
            rows.append(Row(name, ours, "requests/s", ratio, "a minimal application", -0.9))
        servers.communicate()
    return rows


def requests(port: int, path: str) -> float:
    """Those that are answered in a second."""
    options = (f"-c{CONNECTIONS}", "-t1", f"-d{SECONDS}s")
    command = ["wrk", *options, f"http://127.0.0.1:{port}{path}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    return float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
