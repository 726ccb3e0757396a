"""Knows what every test costs, keeps the suite fast as it grows, and shows it.

counters, imports, recorder   measure, in each process that runs tests
ledger                        the file in which the figures of all runs come together
budgets, queries              what a test, and the suite, may take
workers, batches, shards      how many processes run the tests, and which of them
gate                          compares a run with a baseline
report/                       the dashboard, the table, the summary for CI, the difference
diagnosis/                    profile, query plans, leaks, flaky tests
comparison/                   what other ways of isolating a test would cost
plugin                        the pytest plugin that puts these together
"""
