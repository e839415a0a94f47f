"""What the layers share about masks: their arguments, and the masks of a whole stack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from strop.functional.checks import check_mask
from strop.pattern import Mask, Pattern


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a stack over one sequence; number ``layer * directions + direction`` is that one's.

    Attributes:
        input: of each one's input; both directions of a layer share theirs. None where nothing is dropped.
        recurrent: of each one's hidden state.
    """

    input: tuple[Mask | None, ...]
    recurrent: tuple[Mask | None, ...]

    def check(
        self, steps: int, batch: int, input_units: tuple[int, ...], hidden_units: int, like: Tensor
    ) -> None:
        """Refuse masks that were drawn for another stack or another sequence.

        Raises:
            TypeError, ValueError: naming the mask.
        """
        for kind in ("input", "recurrent"):
            given = getattr(self, kind)
            if len(given) != len(input_units):
                raise ValueError(
                    f"masks.{kind} must have {len(input_units)} masks, one for each layer and direction, "
                    f"got {len(given)}"
                )
            for number, mask in enumerate(given):
                units = input_units[number] if kind == "input" else hidden_units
                check_mask(f"masks.{kind}[{number}]", mask, steps, batch, units, like.device)

    def permuted(self, rows: Tensor | None) -> Masks:
        """The same for a batch whose row i is row ``rows[i]`` of this one."""
        if rows is None:
            return self

        done: dict[Mask, Mask] = {}  # a mask that two directions share stays one

        def permute(mask: Mask | None) -> Mask | None:
            if mask is None or mask.keep is None:
                return mask
            if mask not in done:
                done[mask] = replace(mask, keep=mask.keep.index_select(1, rows))
            return done[mask]

        return Masks(tuple(map(permute, self.input)), tuple(map(permute, self.recurrent)))


def pattern_template(pattern: str | Pattern, block: int) -> Pattern:
    """The pattern that ``pattern=`` and ``block=`` of a constructor mean, with a p to be filled in."""
    if isinstance(pattern, str):
        return Pattern.named(pattern, 0.0, block)
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a name or a strop.Pattern, got {pattern!r}")
    if block not in (1, pattern.block):
        raise ValueError(f"block must be given in the pattern or beside its name, got {block} and {pattern}")
    return replace(pattern, p=0.0)


def check_block(pattern: Pattern, p: float, name: str, units: int) -> None:
    """Refuse a block that does not divide ``units`` that are dropped (``p`` > 0)."""
    if p and units % pattern.block:
        raise ValueError(
            f"block must divide {name} to drop it in blocks, got block={pattern.block}, {name}={units}"
        )


def with_probability(pattern: Pattern, p: float) -> Pattern:
    """The pattern with another p."""
    # Making one takes as long as drawing a small mask; torch.compile cannot look into a cache.
    return replace(pattern, p=p) if torch.compiler.is_compiling() else _with_probability(pattern, p)


@lru_cache
def _with_probability(pattern: Pattern, p: float) -> Pattern:
    return replace(pattern, p=p)


def repr_of_drops(module: object, *names: str) -> str:
    """What a module's ``extra_repr`` adds about its probabilities of these names and its pattern."""
    given = {name: getattr(module, name) for name in names}
    extra = "".join(f", {name}={p}" for name, p in given.items() if p)
    return extra + repr_of_pattern(module) if extra else ""


def repr_of_pattern(module: object) -> str:
    """The part about the pattern."""
    pattern: Pattern = getattr(module, "pattern")  # noqa: B009
    return f", pattern={pattern.name}" + (f", block={pattern.block}" if pattern.block != 1 else "")
