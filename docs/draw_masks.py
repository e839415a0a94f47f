"""Draws the pictures of patterns.md, from masks that strop draws: `python docs/draw_masks.py`.

SVG by hand: plain squares, the same bytes everywhere, so that a test can tell whether a picture is current.
"""

from pathlib import Path

import torch
from torch import Tensor

from strop import Pattern

STEPS, BATCH, UNITS, OUT = 4, 5, 16, 8
CELL, GAP, LEFT, TOP = 9, 22, 150, 44  # pixels
KEPT, DROPPED, TEXT = "#3572b0", "#d9d9d9", "#808080"  # legible on white and on black
CASES = {name: Pattern.named(name, 0.5) for name in ("random", "variational", "structured", "fixed")}
DRAWS = {
    "exact": Pattern(0.5),
    "exact, block=4": Pattern(0.5, block=4),
    "exact=False": Pattern(0.5, exact=False),
    "exact=False, block=4": Pattern(0.5, block=4, exact=False),
}


def picture(width: int, height: int, lines: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13" fill="{TEXT}">'
    )
    return "\n".join([head, *lines, "</svg>", ""])


def text(left: float, top: float, words: str) -> str:
    return f'<text x="{left:g}" y="{top:g}">{words}</text>'


def matrix(left: int, top: int, kept: Tensor) -> list[str]:
    """The elements of a bool `[row, column]`."""
    lines = []
    for colour, cells in ((DROPPED, ~kept), (KEPT, kept)):
        squares = "".join(
            f"M{left + column * CELL} {top + row * CELL}h{CELL - 1}v{CELL - 1}h{1 - CELL}z"
            for row, column in cells.nonzero().tolist()
        )
        lines += [f'<path fill="{colour}" d="{squares}"/>'] if squares else []
    return lines


def masks(patterns: dict[str, Pattern]) -> str:
    """A line of panels `[batch, unit]` for each pattern, a panel for each time step."""
    panel, line = UNITS * CELL + GAP, BATCH * CELL + GAP
    lines = [text(LEFT + step * panel, 20, f"step {step}") for step in range(STEPS)]
    generator = torch.Generator().manual_seed(2)
    for number, (name, pattern) in enumerate(patterns.items()):
        top = TOP - 10 + number * line
        lines.append(text(0, top + BATCH * CELL / 2 + 4, name))
        mask = pattern.draw(STEPS, UNITS, BATCH, generator=generator)
        assert mask is not None
        for step, multiplier in enumerate(mask.dense()):
            kept = multiplier.expand(BATCH, UNITS) > 0
            lines += matrix(LEFT + step * panel, top, kept)
    return picture(LEFT + STEPS * panel, TOP - 10 + len(patterns) * line, lines)


def products() -> str:
    """FP, BP and WG of one step on kept columns: two operands and the result of each."""
    mask = Pattern(0.5).draw(1, UNITS, BATCH, generator=torch.Generator().manual_seed(2))
    assert mask is not None
    columns = mask.dense()[0, 0] > 0
    x, w = columns.expand(BATCH, UNITS), columns.expand(OUT, UNITS)
    y = torch.ones(BATCH, OUT, dtype=torch.bool)
    rows = {
        "FP": (("x", x), ("W transposed", w.T), ("y", y)),
        "BP": (("gradient of y", y), ("W", w), ("gradient of x", x)),
        "WG": (("gradient of y, transposed", y.T), ("x", x), ("gradient of W", w)),
    }
    lines, top, place = [], TOP, UNITS * CELL + 3 * GAP
    for name, matrices in rows.items():
        lines.append(text(0, top + 14, name))
        for number, (title, kept) in enumerate(matrices):
            left = LEFT // 3 + number * place
            lines += [text(left, top - 8, title), *matrix(left, top, kept)]
            if number < 2:
                lines.append(text(left + place - 1.8 * GAP, top + 24, "×="[number]))  # noqa: RUF001
        top += max(len(kept) for _, kept in matrices) * CELL + 2 * GAP
    return picture(LEFT // 3 + 3 * place, top - GAP, lines)


def pictures() -> dict[str, str]:
    """By file."""
    return {"patterns.svg": masks(CASES), "draws.svg": masks(DRAWS), "products.svg": products()}


if __name__ == "__main__":
    for file, drawn in pictures().items():
        Path(__file__).with_name(file).write_text(drawn)
