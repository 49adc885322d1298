"""The `lamplighter` command, also as `python -m fleet`."""

import sys


def main() -> None:
    """Run it, or say what it lacks: a device's environment has the command, not its packages."""
    try:
        from fleet.cli import main as command
    except ModuleNotFoundError as error:
        sys.exit(f"lamplighter: {error.name} is not installed: pip install 'lamplighter[demo]'")
    command()


if __name__ == "__main__":
    main()
