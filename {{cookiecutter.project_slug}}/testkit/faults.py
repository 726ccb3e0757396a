"""Problems with the current test, although nothing in it raised an error."""

_faults: dict[str, None] = {}  # each sentence once, in order of discovery


def note_fault(sentence: str) -> None:
    """Makes the current phase of the running test fail with this sentence."""
    _faults[sentence] = None


def take_faults() -> list[str]:
    """Returns the sentences noted since the last call."""
    taken = list(_faults)
    _faults.clear()
    return taken
