"""One run of a model, watched: which dropout feeds which layer, and what else sees its output."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from strop.conversion.kinds import is_dropout, is_recurrent
from strop.conversion.restore import restored

T = TypeVar("T")

# What makes a new tensor of another's kind does not read its values.
_BLIND = {
    getattr(torch.ops.aten, name)
    for name in [
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
    ]
}

# Not containers of a result's tensors, whatever they refer to.
_OPAQUE = (str, bytes, range, type, ModuleType, FunctionType, MethodType, nn.Module)


def _moves_no_units(operation: Any, args: tuple[Any, ...]) -> bool:
    """Whether it gives the same numbers with other axes exchanged than the last, that of units."""
    aten = torch.ops.aten
    if operation is aten.clone:
        return True
    if operation is aten.transpose:
        x, *dims = args
        return all(dim % x.dim() != x.dim() - 1 for dim in dims)
    return operation is aten.permute and args[1][-1] % args[0].dim() == args[0].dim() - 1


class Dropped(NamedTuple):
    """What a module was seen to drop: its share, and how else than a layer of strop's would."""

    p: float
    note: str = ""


def what_is_dropped(x: Tensor | None, y: Any) -> Dropped | str:
    """What a module drops that gives y for x, by the numbers; or why it is no dropout of units."""
    if x is None or not isinstance(y, Tensor) or y.shape != x.shape or not x.is_floating_point():
        return "gives something else than its input, dropped"
    counts = x != 0
    kept = (y != 0) & counts
    if not kept.any():
        return "dropped everything in the run"
    ratios = (y[kept] / x[kept]).double()
    scale = ratios.mean()
    if not torch.allclose(ratios, scale, rtol=0.02 if x.dtype.itemsize < 4 else 1e-4):
        return "does more than drop and scale"
    if scale <= 1:
        return "keeps what it does not drop as it is: layers scale it by 1 / (1 - p)"
    if _same_along(kept, counts, -1):
        return "drops whole rows, not units"
    always = any(_same_along(kept, counts, axis) for axis in range(x.dim() - 1) if x.shape[axis] > 1)
    note = "it dropped the same units at all steps, or in all rows; now as its pattern says" if always else ""
    return Dropped(float(1 - 1 / scale), note)


def _same_along(kept: Tensor, counts: Tensor, axis: int) -> bool:
    """Whether a mask is the same along an axis, as far as numbers other than 0 show it."""
    least, most = (kept | ~counts).amin(axis), kept.amax(axis)
    return bool((least == most)[counts.any(axis)].all())


@dataclass(frozen=True)
class Call:
    """A layer's input in one call: its shape, and the dropout whose output it is.

    ``steps`` are those of packed sequences, whose shape is that of their rows.
    """

    shape: tuple[int, ...]
    source: nn.Module | None
    steps: int | None = None


@dataclass
class Function:
    """Calls of ``torch.nn.functional.dropout`` in the code of a module, with one share.

    Attributes:
        fed: the layers that read what it gave.
        other_use: of what it gave, by something else.
    """

    module: nn.Module
    p: float
    fed: dict[nn.Module, None] = field(default_factory=dict)
    other_use: str | None = None


@dataclass
class Observed:
    """What a run showed.

    Attributes:
        calls: of every layer that may take over a dropout.
        outputs: how many outputs each dropout made.
        other_uses: of a dropout's output, by something else than one such layer.
        sequences: time and batch of what the recurrent layers read.
        shares: what each dropout dropped.
        notes: how else a dropout drops than strop's layers do.
        unlike: why a module that may be a dropout is none that a layer could take over.
        together: the dropouts of which an output goes into several layers.
        functions: where ``torch.nn.functional.dropout`` drops.
    """

    shares: dict[nn.Module, float] = field(default_factory=dict)
    notes: dict[nn.Module, str] = field(default_factory=dict)
    unlike: dict[nn.Module, str] = field(default_factory=dict)
    together: set[nn.Module] = field(default_factory=set)
    functions: list[Function] = field(default_factory=list)
    calls: dict[nn.Module, list[Call]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[nn.Module, int] = field(default_factory=lambda: defaultdict(int))
    other_uses: dict[nn.Module, str] = field(default_factory=dict)
    sequences: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class _Carrier:
    """A tensor with a dropout's output: as it is, packed, or about to be packed."""

    tensor: Tensor
    source: nn.Module
    to_be_packed: bool = False
    uses: int = 0


def run(
    model: nn.Module,
    example_inputs: Any,
    dropouts: Mapping[nn.Module, Callable[[], float | None]],
    consumers: set[nn.Module],
) -> Observed:
    """Runs the model once in training mode, and leaves no trace of it.

    Args:
        example_inputs: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
        dropouts: to watch, and what says their share, or None if only their output does.
        consumers: the layers that may take a dropout over.

    Raises:
        TypeError: example_inputs is something else.
        ValueError: the model fails on them.
    """
    args, kwargs = copied(arguments(example_inputs))
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    watch = _Watch(model, dropouts, consumers)
    # Functions that the model has compiled run as they are written. Without dynamo there are none.
    dynamo = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if dynamo else nullcontext()
    with restored(model), eager, torch.no_grad(), watch, _Functions(watch):
        try:
            output = model(*args, **kwargs)
        except Exception as error:
            given = " (a list is taken for positional arguments: for one that is a list give ([…],))"
            raise ValueError(
                f"example_inputs: the model fails on them in training mode: {type(error).__name__}: {error}"
                f"{given if isinstance(example_inputs, list) else ''}"
            ) from error
        watch.finish(output)
    return watch.seen


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments that ``example_inputs`` means."""
    if type(example_inputs) in (tuple, list):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor | PackedSequence):
        return (example_inputs,), {}
    raise TypeError(
        "example_inputs must be a tensor, a tuple or list of positional arguments or a dict of keyword "
        f"arguments, got {type(example_inputs).__name__}: for one argument of that type give (it,)"
    )


def copied(given: T) -> T:
    """A copy, as a model may write into what it reads; the same where there can be none."""
    try:
        return deepcopy(given)
    except Exception:
        return given


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers and plain objects, in order, each container once."""
    seen: set[int] = set()
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif id(value) not in seen and not isinstance(value, _OPAQUE):
            seen.add(id(value))
            if isinstance(value, Mapping):
                parts = value.values()
            elif isinstance(value, Sequence | set | frozenset):
                parts = value
            else:
                parts = getattr(value, "__dict__", {}).values()
            left += reversed(list(parts))


class _Functions(TorchFunctionMode):
    """Notes where ``torch.nn.functional.dropout`` is called, and by how much it drops."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (nn.functional.dropout, torch.dropout):
            names = ("input", "p", "training" if func is nn.functional.dropout else "train")
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            if given.get(names[2], True):
                self._watch.note_function(float(given.get("p", 0.5)), result)
        return result


class _Watch(TorchDispatchMode):
    """Follows each output of a dropout by its identity; what a consumer does inside is its own affair."""

    def __init__(
        self,
        model: nn.Module,
        dropouts: Mapping[nn.Module, Callable[[], float | None]],
        consumers: set[nn.Module],
    ) -> None:
        super().__init__()
        self.seen = Observed()
        self._model = model
        self._dropouts, self._shares, self._consumers = set(dropouts), dropouts, consumers
        self._opaque = self._dropouts | consumers
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[nn.Module] = []
        self._carriers: dict[int, _Carrier] = {}  # by id; a carrier keeps its tensor, so ids stay unique
        self._cell_calls: dict[tuple[nn.Module, int], int] = defaultdict(int)
        self._handles: list[Any] = []
        self._functions: dict[nn.Module, Function] = {}  # by what stands for the dropout of each call

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False spares the first run the seconds that importing torch._dynamo takes."""
        return False

    def __enter__(self) -> Any:
        for module in self._names:
            # A layer's own hooks run outside of our two: what they do counts as done by others.
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after, prepend=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._running and self._running[-1] in self._opaque:
            return result
        operation = func.overloadpacket
        if operation in _BLIND:
            return result
        for carrier in self._carried((args, kwargs)):
            if _moves_no_units(operation, args):
                self._used(carrier)
                self._carry(result, carrier.source, carrier.to_be_packed)
                continue
            packs = operation is torch.ops.aten._pack_padded_sequence
            # enforce_sorted=False puts the rows in order first.
            sorts = operation is torch.ops.aten.index_select and args[1] != args[0].dim() - 1
            if packs or (sorts and not carrier.to_be_packed):
                self._used(carrier)
                self._carry(result[0] if packs else result, carrier.source, to_be_packed=sorts)
            else:
                self._other(carrier, f"{operation.__name__}{self._where()}")
        return result

    def note_function(self, p: float, output: Tensor) -> None:
        """That a function drops in the module that runs, if this is none whose affair that is."""
        running = self._running[-1] if self._running else self._model
        if not 0 < p < 1 or running in self._opaque or is_dropout(running):
            return
        known = (each for each in self.seen.functions if (each.module, each.p) == (running, p))
        if (function := next(known, None)) is None:
            function = Function(running, p)
            self.seen.functions.append(function)
        self._functions[stand_in := nn.Dropout(p)] = function
        self._carry(output, stand_in)

    def _note_share(self, dropout: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """What a dropout does, while what is done to find it out is hidden."""
        p = self._shares[dropout]()
        if p is not None and (type(dropout) is nn.Dropout or dropout in self.seen.unlike):
            self.seen.shares[dropout] = p
            return
        x = next((each for each in args if isinstance(each, Tensor)), None)
        found = what_is_dropped(x, output)
        if isinstance(found, str):
            self.seen.unlike[dropout] = found
        else:
            self.seen.shares[dropout] = found.p if p is None else p
            if found.note:
                self.seen.notes[dropout] = found.note

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_recurrent(module) or module in self._consumers:
            read = args[0] if args else kwargs.get("input")
            self._note_sequence(module, read)
            if module in self._consumers:
                self._note_call(module, read, (args[1:], {k: v for k, v in kwargs.items() if k != "input"}))
        elif module in self._dropouts:
            for carrier in self._carried((args, kwargs)):
                self._other(carrier, f"another dropout, {self._names[module]!r}")
        self._running.append(module)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module in self._dropouts:
            self._note_share(module, args, output)
        self._running.pop()
        if module in self._dropouts and isinstance(output, Tensor):
            self.seen.outputs[module] += 1
            self._carry(output, module)

    def _note_call(self, module: nn.Module, read: Any, rest: Any) -> None:
        data = read.data if isinstance(read, PackedSequence) else read
        carrier = self._carriers.get(id(data))
        if carrier is not None:
            self._used(carrier)
            if carrier.to_be_packed:
                self._other(carrier, f"index_select{self._where()}")
        for other in self._carried(rest):
            self._other(other, f"the state of {self._names[module]!r}")
        source = carrier.source if carrier else None
        if function := self._functions.get(source):  # type: ignore[arg-type]
            function.fed[module] = None
            source = None
        shape = tuple(data.shape) if isinstance(data, Tensor) else ()
        steps = len(read.batch_sizes) if isinstance(read, PackedSequence) else None
        self.seen.calls[module].append(Call(shape, source, steps))

    def _note_sequence(self, module: nn.Module, read: Any) -> None:
        if isinstance(read, PackedSequence):
            self.seen.sequences.add((len(read.batch_sizes), int(read.batch_sizes[0])))
        elif isinstance(read, Tensor) and isinstance(module, nn.RNNBase) and read.dim() == 3:
            first, second, _ = read.shape
            self.seen.sequences.add((second, first) if module.batch_first else (first, second))
        elif isinstance(read, Tensor) and isinstance(module, nn.RNNCellBase) and read.dim() == 2:
            self._cell_calls[module, read.shape[0]] += 1

    def finish(self, output: Any) -> None:
        """Looks at what is left of the dropouts' outputs once the model has returned."""
        for carrier in self._carried(output):
            self._other(carrier, "what the model returns")
        for module, name in self._names.items():
            for key, value in vars(module).items():
                for carrier in self._carried(value):
                    self._other(carrier, f"the attribute {'.'.join(filter(None, (name, key)))!r}")
        for carrier in self._carriers.values():
            if not carrier.uses:
                self._other(carrier, "nothing that convert can see")
        self.seen.sequences |= {(calls, rows) for (_, rows), calls in self._cell_calls.items()}
        # A batch may shrink from step to step.
        for cell in {cell for cell, _ in self._cell_calls}:
            own = {rows: calls for (each, rows), calls in self._cell_calls.items() if each is cell}
            self.seen.sequences.add((sum(own.values()), max(own)))

    def _carry(self, tensor: Tensor, source: nn.Module, to_be_packed: bool = False) -> None:
        self._carriers[id(tensor)] = _Carrier(tensor, source, to_be_packed)

    def _carried(self, value: Any) -> Iterator[_Carrier]:
        for tensor in tensors(value):
            if carrier := self._carriers.get(id(tensor)):
                yield carrier

    def _used(self, carrier: _Carrier) -> None:
        carrier.uses += 1
        if carrier.uses > 1:
            self.seen.together.add(carrier.source)

    def _other(self, carrier: _Carrier, use: str) -> None:
        carrier.uses += 1
        if function := self._functions.get(carrier.source):
            function.other_use = function.other_use or use
        else:
            self.seen.other_uses.setdefault(carrier.source, use)

    def _where(self) -> str:
        name = self._names[self._running[-1]] if self._running else ""
        return f" in {name!r}" if name else ""
