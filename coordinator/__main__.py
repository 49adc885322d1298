"""`python -m coordinator`: the command of the same name."""

from coordinator.cli import main

if __name__ == "__main__":
    main()
