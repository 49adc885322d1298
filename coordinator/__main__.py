"""The `coordinator` command, also as `python -m coordinator`."""

import sys


def main() -> None:
    """Run it, or say what it lacks: a device's environment has the command, not its packages."""
    try:
        from coordinator.cli import main as command
    except ModuleNotFoundError as error:
        sys.exit(
            f"coordinator: {error.name} is not installed: pip install 'lamplighter[coordinator]'"
        )
    command()


if __name__ == "__main__":
    main()
