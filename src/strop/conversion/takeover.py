"""Which dropouts the layers that they feed can take over, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from strop.conversion.watch import Call, Observed

# What a layer answers when asked to drop p of its input, perhaps step by step: why it cannot, or None.
Feasible = Callable[[nn.Module, float, bool], str | None]

# Why it is not worth it that these layers take over the dropouts that they read, or None: of each layer p and
# whether it is a linear one that reads [batch, time, units].
Worthless = Callable[[Mapping[nn.Module, tuple[float, bool]]], str | None]


@dataclass
class Takeover:
    """What is taken over.

    Attributes:
        fed: the layers that take over each dropout, by dropout.
        p: by layer, the share of its input that it drops from now on.
        batch_first: the linear layers among these that read ``[batch, time, units]``.
        share: what each dropout drops that is taken over.
        notes: how else it dropped than the layers do.
        together: the dropouts of which an output goes into several layers, which drop the same of it.
        refused: why a dropout stays, by dropout.
    """

    fed: dict[nn.Module, list[nn.Module]] = field(default_factory=dict)
    p: dict[nn.Module, float] = field(default_factory=dict)
    batch_first: set[nn.Module] = field(default_factory=set)
    share: dict[nn.Module, float] = field(default_factory=dict)
    notes: dict[nn.Module, str] = field(default_factory=dict)
    together: set[nn.Module] = field(default_factory=set)
    refused: dict[nn.Module, str] = field(default_factory=dict)


def settle(
    dropouts: Mapping[nn.Module, str],
    consumers: Mapping[nn.Module, str],
    seen: Observed,
    feasible: Feasible,
    worthless: Worthless,
) -> Takeover:
    """A dropout goes if all that it feeds can drop its p; a layer can if all of its inputs were dropped so.

    Dropouts and layers that hang together stay as they were if it is not worth it.

    Args:
        dropouts, consumers: with their names.
    """
    plan = Takeover(share=seen.shares, notes=seen.notes, together=seen.together)
    for dropout in dropouts:
        if not seen.outputs[dropout]:
            plan.refused[dropout] = "did not run on example_inputs"
        elif dropout in seen.unlike:
            plan.refused[dropout] = seen.unlike[dropout]
        elif not 0 < seen.shares[dropout] < 1:
            plan.refused[dropout] = f"drops {'nothing' if seen.shares[dropout] == 0 else 'everything'}"
        elif dropout in seen.together and seen.outputs[dropout] > 1:
            plan.refused[dropout] = "runs more than once, and its output goes into several layers"
        elif dropout in seen.other_uses:
            plan.refused[dropout] = f"its output also goes into {seen.other_uses[dropout]}"
    sources = {
        consumer: {call.source for call in calls}
        for consumer, calls in seen.calls.items()
        if any(call.source for call in calls)
    }
    # One layer that cannot keeps its dropouts, which may keep other layers from theirs.
    faults = {consumer: _fault(seen.calls[consumer], consumer, seen, feasible) for consumer in sources}
    settled = False
    while not settled:
        settled = True
        for consumer, feeding in sources.items():
            name = consumers[consumer]
            fault = faults[consumer]
            if fault is None and (kept := [dropout for dropout in feeding if dropout in plan.refused]):
                fault = f"is also fed by {dropouts[kept[0]]!r}, which stays"  # type: ignore[index]
            for dropout in feeding:
                if fault is not None and dropout is not None and dropout not in plan.refused:
                    plan.refused[dropout] = f"feeds {name!r}: {fault}"
                    settled = False
    for group in _connected(sources, plan.refused):
        taking = {
            consumer: (
                seen.shares[next(iter(sources[consumer]))],  # type: ignore[index]
                isinstance(consumer, nn.Linear) and _layouts(seen.calls[consumer], seen) == {_BATCH_FIRST},
            )
            for consumer in group
        }
        reason = worthless(taking)
        for consumer, (p, batch_first) in taking.items():
            for dropout in sources[consumer]:
                assert dropout is not None
                if reason is not None:
                    plan.refused[dropout] = reason
                    continue
                plan.fed.setdefault(dropout, []).append(consumer)
                plan.p[consumer] = p
                if batch_first:
                    plan.batch_first.add(consumer)
                if not seen.sequences:
                    plan.notes.setdefault(dropout, "one mask for all rows of a call")
    return plan


def _connected(
    sources: Mapping[nn.Module, set[nn.Module | None]], refused: Mapping[nn.Module, str]
) -> list[list[nn.Module]]:
    """The layers that can take over what feeds them, those that share a dropout together."""
    groups: list[tuple[list[nn.Module], set[nn.Module | None]]] = []
    for consumer, feeding in sources.items():
        if not feeding & refused.keys():
            touching = [group for group in groups if group[1] & feeding]
            groups = [group for group in groups if not group[1] & feeding]
            layers = [layer for group in touching for layer in group[0]]
            groups.append(([*layers, consumer], feeding.union(*(group[1] for group in touching))))
    return [layers for layers, _ in groups]


def _fault(calls: list[Call], consumer: nn.Module, seen: Observed, feasible: Feasible) -> str | None:
    """Why a layer cannot take over the dropouts of these inputs."""
    ps = set()
    for call in calls:
        if call.source is None:
            return "also reads inputs that are not dropped"
        ps.add(seen.shares.get(call.source, 0.0))
    if len(ps) > 1:
        return f"reads inputs dropped by {' and '.join(f'{p:g}' for p in sorted(ps))}"
    linear = isinstance(consumer, nn.Linear)
    stepwise = linear and bool(seen.sequences) and any(len(call.shape) == 2 for call in calls)
    if reason := feasible(consumer, ps.pop(), stepwise):
        return reason
    return _unclear(calls, seen) if linear else None


# Of what a linear layer reads: which axis is time.
_TIME_FIRST, _BATCH_FIRST, _ONE_STEP = "[time, batch, units]", "[batch, time, units]", "[batch, units]"


def _unclear(calls: list[Call], seen: Observed) -> str | None:
    """Why strop.Linear would share a mask along the wrong axis of these inputs; None if it would not."""
    found = _layouts(calls, seen)
    if found == {_TIME_FIRST, _BATCH_FIRST}:
        return f"reads {_TIME_FIRST} and {_BATCH_FIRST}"
    return next((layout for layout in found if layout not in (_TIME_FIRST, _BATCH_FIRST, _ONE_STEP)), None)


def _layouts(calls: list[Call], seen: Observed) -> set[str]:
    """Of the inputs of a linear layer; one step of a sequence goes with any other.

    Which axis is which is told by the sequences ``(time, batch)`` that recurrent layers read in the same run.
    """
    found = {_layout(call.shape, seen.sequences) for call in calls}
    return found - {_ONE_STEP} or found


def _layout(shape: tuple[int, ...], sequences: set[tuple[int, int]]) -> str:
    """Which axis of an input is time, or why this cannot be told.

    Without recurrent layers rows are those of a batch, as of one step.
    """
    rows = shape[:-1]
    if len(rows) == 2:
        as_time_first, as_batch_first = rows in sequences, rows[::-1] in sequences
        if as_time_first and as_batch_first:
            return f"reads {list(shape)}: give example_inputs that have more steps than rows, or fewer"
        if as_time_first or as_batch_first:
            return _TIME_FIRST if as_time_first else _BATCH_FIRST
    elif len(rows) == 1:
        if not sequences or any(batch == rows[0] for _, batch in sequences):
            return _ONE_STEP
        if any(time * batch == rows[0] for time, batch in sequences):
            return "reads all steps as rows of one axis, so that they would share one mask"
    return f"reads {list(shape)}, of which no recurrent layer tells which axis is time"
