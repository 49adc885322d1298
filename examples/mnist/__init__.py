"""MNIST on small fleets: ten nodes that have uneven shares of it, and the rows of FedAvg's tables.

The `.toml` files are the tasks, as for `coordinator task create`; their models are made by
`python -m examples.mnist.make`. `python -m examples.mnist DATA_FOLDER -o OUT` runs them all.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
