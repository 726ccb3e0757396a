"""Prints the seconds until there is a worker database: python startup.py FOLDER

The private server keeps its data in FOLDER. Where that is empty, it is the first run ever.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from testkit.databases import open_worker_database
from testkit.databases.postgresql import server
from tests.fixtures.database import SETUP

server._base_directory = lambda _purpose: Path(sys.argv[1])
config = SimpleNamespace(stash=pytest.Stash(), rootpath=Path.cwd())
start = time.perf_counter()
with open_worker_database(SETUP, config):
    print(time.perf_counter() - start)
