"""Shows the ledger as a page, as a table and as a summary for CI, and the difference between two ledgers."""
