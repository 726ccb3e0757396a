"""Keeps the files of the chosen database, removes the other's, and says what to do next."""

import shutil
from pathlib import Path

CHOSEN = "{{ cookiecutter.database }}"
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}[CHOSEN]

for name in ("app/engine", "tests/test_engine"):
    Path(f"{name}_{CHOSEN}.py").rename(f"{name}.py")
    Path(f"{name}_{OTHER}.py").unlink()

if CHOSEN == "sqlite":
    shutil.rmtree("testkit/databases/postgresql")
    Path("tests/isolation/test_postgresql.py").unlink()
else:
    Path("testkit/databases/sqlite.py").unlink()

print("""
Your service is ready. Now:

  cd {{ cookiecutter.project_slug }}
  make local-smoke    # installs it, tests it, and drives the real server

The README says what comes next.
""")
