"""The random choices behind masks."""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.library import custom_op

from strop.ops import dispatch, selection

Device = torch.device | str | None


def choose(rows: int, units: int, kept: int, generator: torch.Generator | None, device: Device) -> Tensor:
    """Uniform choices of ``kept`` units without replacement: int32 ``[rows, kept]``, sorted.

    The units with the smallest random keys are kept.
    """
    if torch.compiler.is_compiling():
        return _choose(rows, units, kept, device=_traceable(generator, device))
    if mapped():
        keys = torch.randint(1 << 31, (rows, units), dtype=torch.int32, generator=generator, device=device)
        return selection.smallest_unseen(keys, kept)
    keys = torch.empty(rows, units, dtype=torch.int32, device=device).random_(generator=generator)
    return dispatch.selection(keys.device).smallest(keys, kept)


def toss(rows: int, units: int, p: float, generator: torch.Generator | None, device: Device) -> Tensor:
    """Independent choices: bool ``[rows, units]``, True with probability 1 - p."""
    if torch.compiler.is_compiling():
        return _toss(rows, units, p, device=_traceable(generator, device))
    return torch.rand(rows, units, generator=generator, device=device) >= p


def mapped() -> bool:
    """Whether ``torch.func.vmap(…, randomness="different")`` is at work.

    A draw is then one for each sample: it is not made in place, and has no values that Python could look at.
    """
    if not torch._C._are_functorch_transforms_active():
        return False
    vmaps = (
        level for level in _functorch.get_interpreter_stack() if level.key() == _functorch.TransformType.Vmap
    )
    different = _functorch.RandomnessType.Different
    return any(_functorch.CVmapInterpreterPtr(each).randomness() == different for each in vmaps)


def _traceable(generator: torch.Generator | None, device: Device) -> torch.device:
    if generator is not None:
        raise RuntimeError(
            "generator: torch.compile cannot trace one; draw the masks outside and pass them as masks="
        )
    return torch.device("cpu" if device is None else device)


# As operators of their own: torch.compile would use random numbers of its own. Tagged as random, with their
# device by keyword, they are not run again in a backward pass without their random state.
_random = partial(custom_op, mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))


@cache
def _keep_apart() -> None:
    """Two draws of the same size are two: torch.compile would merge them.

    Called where one is traced: to import it takes a third of what torch takes.
    """
    from torch._functorch import compile_utils

    compile_utils.rand_ops += [torch.ops.strop_compiled.choose, torch.ops.strop_compiled.toss]


@_random("strop_compiled::choose")
def _choose(rows: int, units: int, kept: int, *, device: torch.device) -> Tensor:
    return choose(rows, units, kept, None, device)


@_choose.register_fake
def _(rows: int, units: int, kept: int, *, device: torch.device) -> Tensor:
    _keep_apart()
    return torch.empty(rows, kept, dtype=torch.int32, device=device)


@_random("strop_compiled::toss")
def _toss(rows: int, units: int, p: float, *, device: torch.device) -> Tensor:
    return toss(rows, units, p, None, device)


@_toss.register_fake
def _(rows: int, units: int, p: float, *, device: torch.device) -> Tensor:
    _keep_apart()
    return torch.empty(rows, units, dtype=torch.bool, device=device)
