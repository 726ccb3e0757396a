"""Serves the application, the minimal one, and the application without a line for every request, with the
same products, until its input ends."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from app.engine import create_engine
from sqlalchemy import text

PRODUCTS = "INSERT INTO products (name, sku, price, currency) VALUES " + ", ".join(
    f"('Product {number}', 'SKU-{number}', 1000, 'EUR')" for number in range(200)
)
HERE = Path(__file__).parent


async def prepare() -> None:
    engine = create_engine(os.environ["DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM products"))
        await connection.execute(text(PRODUCTS))
    await engine.dispose()


def serve(port: int, folder: Path, *app: str, **environment: str) -> subprocess.Popen[bytes]:
    """Each writes a line for every request, as the service and uvicorn do unless told otherwise."""
    command = (sys.executable, "-m", "uvicorn", *app, "--port", str(port))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/health/live", trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            break
    return process


def main() -> None:
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], check=True)
    asyncio.run(prepare())
    first, second, third = map(int, sys.argv[1:])
    service = ("app.main:create_app", "--factory")
    servers = [
        serve(first, Path.cwd(), *service),
        serve(second, HERE, "minimal:app"),
        serve(third, Path.cwd(), *service, LOG_LEVEL="WARNING"),
    ]
    print("ready", flush=True)
    sys.stdin.read()
    for server in servers:
        server.kill()
        server.wait()


main()
