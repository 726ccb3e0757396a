"""Shows the ledger: as a page, as a table, as a summary for CI, and as the difference of two."""
