"""Who gets a place in a round, who rests, and how many are asked. Pure: facts in, decisions out."""

from coordinator.selection.choice import admits
from coordinator.selection.dropout import EndedRound, dropout, over_selection
from coordinator.selection.options import Data, Fair, Selection, Speed, Uniform
from coordinator.selection.standing import Crowd, Standing, rests_until

__all__ = [
    "Crowd",
    "Data",
    "EndedRound",
    "Fair",
    "Selection",
    "Speed",
    "Standing",
    "Uniform",
    "admits",
    "dropout",
    "over_selection",
    "rests_until",
]
