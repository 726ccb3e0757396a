"""Records what every test costs, keeps the suite fast as it grows, and reports on it.

counters, imports, recorder   measure, in each process that runs tests
ledger                        the file that collects the figures of all runs
bookkeeper, runs              what a run comes to, from the reports of its processes or shards
budgets, queries              what a test and the whole suite may cost
workers, batches, shards      how many processes run the tests, and which tests each one runs
gate                          compares a run with a baseline
report/                       the dashboard, the table, the summary for CI, the difference
diagnosis/                    profile, query plans, leaks, flaky tests
comparison/                   what other ways of isolating a test would cost
plugin                        the pytest plugin that puts these together
"""
