"""Keeps the files of the chosen database, removes the other's, and says what to do next."""

from pathlib import Path

CHOSEN = "{{ cookiecutter.database }}"
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}[CHOSEN]

Path(f"app/engine_{CHOSEN}.py").rename("app/engine.py")
Path(f"app/engine_{OTHER}.py").unlink()
Path(f"testkit/databases/{OTHER}.py").unlink()

print("""
Your service is ready. Now:

  cd {{ cookiecutter.project_slug }}
  make local-smoke    # installs it, tests it, and drives the real server

The README says what comes next.
""")
