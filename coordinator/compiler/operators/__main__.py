"""Print the table of operators that `docs/models.md` holds."""

import sys

from coordinator.compiler.operators.table import markdown

sys.stdout.write(markdown())
