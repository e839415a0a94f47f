"""Draws the pictures of patterns.md, from masks that strop draws: `python docs/draw_masks.py`.

SVG by hand: plain squares, the same bytes everywhere, so that a test can tell whether a picture is current.
"""

from pathlib import Path

import torch

from strop import Pattern

STEPS, BATCH, UNITS = 4, 5, 16
CELL, GAP, LEFT, TOP, ROW = 9, 22, 150, 44, 78  # pixels
KEPT, DROPPED, TEXT = "#3572b0", "#d9d9d9", "#808080"  # legible on white and on black

PICTURES = {
    "patterns.svg": {
        "random": Pattern.named("random", 0.5),
        "variational": Pattern.named("variational", 0.5),
        "structured": Pattern.named("structured", 0.5),
        "fixed": Pattern.named("fixed", 0.5),
    },
    "draws.svg": {
        "exact": Pattern(0.5),
        "exact, block=4": Pattern(0.5, block=4),
        "exact=False": Pattern(0.5, exact=False),
        "exact=False, block=4": Pattern(0.5, block=4, exact=False),
    },
}


def draw(patterns: dict[str, Pattern]) -> str:
    """One line of panels `[batch, unit]` for each pattern, a panel for each time step."""
    panel = UNITS * CELL + GAP
    width, height = LEFT + STEPS * panel, TOP + len(patterns) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="13" fill="{TEXT}">',
        *(f'<text x="{LEFT + step * panel}" y="20">step {step}</text>' for step in range(STEPS)),
        f'<text x="{LEFT}" y="36" font-size="10">units to the right, rows of the batch downwards</text>',
    ]
    generator = torch.Generator().manual_seed(2)
    for number, (name, pattern) in enumerate(patterns.items()):
        top = TOP + number * ROW
        lines.append(f'<text x="0" y="{top + BATCH * CELL / 2 + 4:g}">{name}</text>')
        mask = pattern.draw(STEPS, UNITS, BATCH, generator=generator)
        assert mask is not None
        kept = mask.dense().expand(-1, BATCH, -1) > 0
        for colour, cells in ((DROPPED, ~kept), (KEPT, kept)):
            squares = "".join(
                f"M{LEFT + step * panel + unit * CELL} {top + row * CELL}h{CELL - 1}v{CELL - 1}h{1 - CELL}z"
                for step, row, unit in cells.nonzero().tolist()
            )
            lines.append(f'<path fill="{colour}" d="{squares}"/>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    for file, patterns in PICTURES.items():
        Path(__file__).with_name(file).write_text(draw(patterns))
