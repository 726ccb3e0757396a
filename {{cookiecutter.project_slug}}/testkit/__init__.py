"""The machinery behind this project's tests.

It knows pytest, SQLAlchemy and the database's driver, and nothing of `app`: the project hands over
what it has to know in `tests/fixtures/database.py`.
"""
