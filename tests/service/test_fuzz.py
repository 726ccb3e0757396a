"""What schemathesis finds: nothing, whoever asks."""

from tests.projects import Project, sqlite_first


@sqlite_first
def test_answers_are_what_the_document_says(installed_copy_of_each: Project) -> None:
    output = installed_copy_of_each.make("fuzz", FUZZ_EXAMPLES="4").stdout

    assert " 2 passed in " in output
    assert output.count("Tested: 22") == 2
    assert " 0 generated" not in output
