pytest_plugins = [
    "testkit.plugin",
    "tests.fixtures.environment",
    "tests.fixtures.database",
    "tests.fixtures.factories",
    "tests.fixtures.mock_services",
    "tests.fixtures.jobs",
    "tests.fixtures.client",
    "tests.fixtures.fast_auth",
    "tests.fixtures.telemetry",
]
