"""`python -m app`: the commands of this service."""

from app.cli import main

if __name__ == "__main__":  # pragma: no branch
    main()
