"""Answers that a template has to survive."""

from pathlib import Path

from tests.projects import cookiecutter

ODD_ANSWERS = {
    "plain": "My Service",
    "double quotes": 'The "Best" Service',
    "single quotes": "Ada's Service",
    "both quotes": """Ada's "Best" 'Service'""",
    "backslashes": "C:\\new\\table \\",
    "hashes": "# C# and #1 #",
    "percent and dollar": "100 % for $5 ${HOME} $$ %s %(x)s",
    "non-ASCII": "Möbel für 日本 🚀",
    "markup": "<b>*bold*</b> _under_ [link](x) `code` & |",
    "braces": "{a} } { {0}",
}


def generate_odd(output: Path, kind: str, database: str) -> Path:
    """A project whose name, description and author are all of this kind."""
    words = ODD_ANSWERS[kind]
    cookiecutter(
        output,
        project_name=words,
        project_slug="odd",
        description=words,
        author_name=words,
        database=database,
    )
    return output / "odd"
