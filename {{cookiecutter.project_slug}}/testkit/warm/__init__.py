"""Starts pytest runs with the slow part, importing the libraries, already done.

`parent` holds the libraries and the test kit, and forks a child for each run; `watch` keeps the parent alive and
runs the tests that a change affects; `python -m testkit.warm` takes pytest's arguments, and asks the parent of this
checkout for a run. If there is no parent, or a run in it would differ, pytest starts as usual.

Forking a warmed-up process is an old idea: Zeus, spring, and Android's zygote.
"""
