"""All of the test kit as one pytest plugin."""

pytest_plugins = [
    "testkit.performance.plugin",
    "testkit.markers",
    "testkit.hints",
    "testkit.supervision",
    "testkit.steps",
    "testkit.fixtures",
]
