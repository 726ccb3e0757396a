"""Keeps what the project needs, of its database and of the test kit, and says what to do next."""

import shutil
from pathlib import Path

CHOSEN = "{{ cookiecutter.database }}"
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}[CHOSEN]

for name in ("app/engine", "tests/test_engine"):
    Path(f"{name}_{CHOSEN}.py").rename(f"{name}.py")
    Path(f"{name}_{OTHER}.py").unlink()

# What the test kit needs where it is a package of its own: this project is bound to it already.
shutil.rmtree("testkit/adopt")
for name in ("entry", "passwords"):
    Path(f"testkit/{name}.py").unlink()

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
