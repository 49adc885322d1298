"""How long a turbofan still runs: NASA's C-MAPSS engines on eighty nodes of four engines each.

`turbofan.onnx` is the model. `federated.toml` is the task of the nodes, `centralised.toml` that of
one machine that has all their data, `alone.toml` that of a node that trains by itself.
`python -m examples.turbofan.make` makes the model anew.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
