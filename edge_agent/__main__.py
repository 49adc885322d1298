"""`python -m edge_agent`: the command of the same name."""

from edge_agent.cli import main

if __name__ == "__main__":
    main()
