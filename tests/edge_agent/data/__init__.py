"""Small compiled plans, so that these tests run where the training build has no wheel."""

from pathlib import Path

FOLDER = Path(__file__).parent
FLOWERS = FOLDER / "flowers"
LINE = FOLDER / "line"
ADAMW = FOLDER / "adamw"
DROPOUT = FOLDER / "dropout"
PROXIMAL = FOLDER / "proximal"
PROXIMAL_ADAMW = FOLDER / "proximal_adamw"
PERSONAL = FOLDER / "personal"
SCAFFOLD = FOLDER / "scaffold"
