"""Runs of pytest that begin with what takes long already done: the imports of libraries.

`parent` holds the libraries and forks a child for each run; `watch` keeps it open and runs what a change
affects; `python -m testkit.warm` takes pytest's arguments, and asks a parent that is open for this
checkout. Where there is none, or where it would not be the same, pytest starts as always.

Forking a warmed-up process is an old idea: Zeus, spring, and Android's zygote.
"""
