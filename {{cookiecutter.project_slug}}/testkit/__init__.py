"""The machinery behind this project's tests.

It knows about pytest, SQLAlchemy and the database driver, but nothing about `app`: the project tells it what it
needs to know in `tests/fixtures/database.py`.
"""
