"""Tables for people: ruled on a terminal, aligned plain text elsewhere."""

import sys
from collections.abc import Iterable, Sequence


def show(
    title: str, header: Sequence[str], groups: Iterable[Sequence[Sequence[str]]], notes: Sequence[str]
) -> None:
    """Prints groups of rows as a table: ruled on a terminal, aligned plain text elsewhere."""
    if sys.stdout.isatty():
        _show_rich(title, header, groups, notes)
        return
    groups = [list(group) for group in groups]
    widths = [
        max(map(len, column))
        for column in zip(header, *(row for group in groups for row in group), strict=True)
    ]
    print(title)
    for row in (header, *(row for group in groups for row in group)):
        cells = (
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    for note in notes:
        print(note)


def _show_rich(
    title: str, header: Sequence[str], groups: Iterable[Sequence[Sequence[str]]], notes: Sequence[str]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for group in groups:
        for row in group:
            table.add_row(*row)
        table.add_section()
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", highlight=False)
