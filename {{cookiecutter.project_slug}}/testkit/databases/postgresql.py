"""PostgreSQL: not there yet.

What has to be written here is said by `WorkerDatabase` and by the functions that open databases.
"""

from contextlib import AbstractContextManager

import pytest

from testkit.databases import DatabaseSetup, WorkerDatabase

MESSAGE = (
    "The test kit cannot make PostgreSQL databases yet. Tests without the fixtures `client`, "
    "`session`, `engine` and `app` run; take the template's next version for the others."
)


def open_worker_database(
    _setup: DatabaseSetup, _config: pytest.Config
) -> AbstractContextManager[WorkerDatabase]:
    pytest.exit(MESSAGE, returncode=pytest.ExitCode.USAGE_ERROR)


def open_empty_database(
    _setup: DatabaseSetup, _config: pytest.Config
) -> AbstractContextManager[str]:
    pytest.exit(MESSAGE, returncode=pytest.ExitCode.USAGE_ERROR)
