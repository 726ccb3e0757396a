"""What is wrong with the present test, though nothing in it has raised an error."""

_faults: dict[str, None] = {}  # each sentence once, in the order of their discovery


def note_fault(sentence: str) -> None:
    """The phase of the test that runs now will fail with this sentence."""
    _faults[sentence] = None


def take_faults() -> list[str]:
    """What was noted since the last call."""
    taken = list(_faults)
    _faults.clear()
    return taken
