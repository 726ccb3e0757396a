def test_total() -> None:
    assert sum([1, 2]) == 3
