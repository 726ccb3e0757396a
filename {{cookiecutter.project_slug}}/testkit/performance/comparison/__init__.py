"""What other ways of isolating a test would cost in this project: `make bench`."""
