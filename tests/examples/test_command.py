"""What the examples' commands share."""

import io

from rich.console import Console

from examples.command import table_of


def test_a_narrow_terminal_cuts_no_figure() -> None:
    console = Console(file=io.StringIO(), width=10)
    heads = ["", "test\ndigits", "uploaded"]
    console.print(
        table_of("A title", heads, [["2nn-all-shards", "98.34%", "71.71 MB"]]), crop=False
    )
    assert isinstance(console.file, io.StringIO)
    *_, row = console.file.getvalue().splitlines()
    assert row.split() == ["2nn-all-shards", "98.34%", "71.71", "MB"]
