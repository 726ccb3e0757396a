pytest_plugins = [
    "testkit.markers",
    "testkit.fixtures",
    "tests.fixtures.database",
    "tests.fixtures.factories",
    "tests.fixtures.fast_auth",
    "tests.fixtures.mock_services",
    "tests.fixtures.client",
]
