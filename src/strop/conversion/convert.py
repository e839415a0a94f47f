"""``strop.convert`` and ``strop.revert``.

A layer gets another class, as torch's own parametrizations and FSDP do it, instead of being replaced. So it
stays the same object with the same parameters, hooks, mode and attributes wherever it is referred to: by
parents that share it, by optimisers, by DataParallel and DistributedDataParallel, or by nobody but the
caller, as a model that is itself a recurrent layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from strop.conversion.kinds import TO_TORCH, Kind, is_dropout, is_recurrent, kind_of, unknown
from strop.conversion.refusals import check_model
from strop.conversion.report import Entry, Report
from strop.conversion.takeover import Takeover, settle
from strop.conversion.watch import run
from strop.nn.masks import pattern_template
from strop.pattern import Pattern, check_probability

Filter = Callable[[nn.Module, str], bool]

# In an nn.Identity that was an nn.Dropout: the names of the layers that took it over.
_TAKEN_BY = "_strop_taken_by"


def convert(
    model: nn.Module,
    *,
    recurrent_dropout: float | None = None,
    pattern: str | Pattern = "structured",
    example_inputs: Any = None,
    filter_fn: Filter | None = None,
) -> Report:
    """Turns the recurrent layers of a model into strop's, in place.

    A layer keeps its identity: parameters, hooks, mode, names, device and dtype stay, and with them the
    optimisers and wrappers made before. Only its class changes, to strop's; ``revert`` changes it back.

    Args:
        model: any module; also one wrapped in DataParallel or DistributedDataParallel, and a recurrent layer.
        recurrent_dropout: of all layers that are swapped, in [0, 1); None for none.
        pattern: of all layers that are swapped, as in ``strop.LSTM``.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments. The model is run
            on it once in training mode, which leaves no trace in it or in random generators. An
            ``nn.Dropout`` whose output goes into one recurrent layer or ``nn.Linear``, and nowhere else, is
            then taken over by that layer, and becomes an ``nn.Identity``. None leaves all of them.
        filter_fn: of a module and its name, whether convert may change it; None for all.

    Returns:
        What became of every layer, and why. ``print`` shows a table.

    Raises:
        TypeError, ValueError: an argument is out of range, the model cannot be converted (scripted, compiled,
            quantised, on the meta device, inside an autograd graph), or it fails on ``example_inputs``.
            Nothing was changed then.
    """
    check_model("convert", model)
    if recurrent_dropout is not None:
        recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
    template = pattern_template(pattern, 1)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn must be callable or None, got {filter_fn!r}")
    names = {module: name for name, module in model.named_modules()}
    excluded = {module for module, name in names.items() if filter_fn and not filter_fn(module, name)}
    plan = _Plan(names, excluded, {"recurrent_dropout": recurrent_dropout or 0.0, "pattern": template})
    for layer in filter(is_recurrent, names):
        plan.swap(layer)
    if example_inputs is not None:
        plan.take_over(model, example_inputs)
    report = plan.report()  # before the classes change
    plan.apply()
    return report


@dataclass
class _Plan:
    """What convert will do; every constructor is called, and checks its arguments, before a layer changes.

    Attributes:
        names: of all modules.
        excluded: those that may not be changed.
        settings: of strop's layers.
        twins: what layers become, without storage.
        reasons: why other layers stay.
        taken: the dropouts that their consumers take over.
    """

    names: dict[nn.Module, str]
    excluded: set[nn.Module]
    settings: dict[str, Any]
    twins: dict[nn.Module, nn.Module] = field(default_factory=dict)
    reasons: dict[nn.Module, str] = field(default_factory=dict)
    taken: Takeover = field(default_factory=Takeover)

    def swap(self, layer: nn.Module) -> None:
        if type(layer) in TO_TORCH:
            self.reasons[layer] = "is strop's already"
        elif reason := self._obstacle(layer):
            self.reasons[layer] = reason
        else:
            self.twins[layer] = self._twin(layer, 0.0)

    def take_over(self, model: nn.Module, example_inputs: Any) -> None:
        dropouts = {
            module: name
            for module, name in self.names.items()
            if isinstance(module, nn.Dropout) and self._stays(module) is None
        }
        consumers = {
            module: name
            for module, name in self.names.items()
            if is_recurrent(module) or isinstance(module, nn.Linear)
        }
        seen = run(model, example_inputs, set(dropouts), set(consumers))
        self.taken = settle(dropouts, consumers, seen, self._obstacle)
        for layer, p in self.taken.p.items():
            axes = {"batch_first": layer in self.taken.batch_first} if isinstance(layer, nn.Linear) else {}
            self.twins[layer] = self._twin(layer, p, **axes)
        self.reasons |= self.taken.refused

    def apply(self) -> None:
        for layer, twin in self.twins.items():
            kind = kind_of(layer)
            assert kind is not None
            known = vars(layer)
            layer.__class__ = type(twin)
            known.update({key: value for key, value in vars(twin).items() if key not in known})
            for name in (kind.input_dropout, "batch_first"):
                if hasattr(twin, name):
                    setattr(layer, name, getattr(twin, name))
        for dropout, layers in self.taken.fed.items():
            dropout.__class__ = nn.Identity
            vars(dropout)[_TAKEN_BY] = tuple(self.names[layer] for layer in layers)

    def report(self) -> Report:
        return Report([self._entry(layer, name) for layer, name in self.names.items() if _is_listed(layer)])

    def _obstacle(self, layer: nn.Module, input_dropout: float = 0.0, stepwise: bool = False) -> str | None:
        """Why a layer cannot become strop's with so much dropout on its input; None if it can.

        ``stepwise``: it is called once a step, as cells are.
        """
        if reason := unknown(layer):
            return reason
        if layer in self.excluded:
            return "filter_fn excludes it"
        kind = kind_of(layer)
        assert kind is not None
        if input_dropout and type(layer) is kind.strop and getattr(layer, kind.input_dropout):
            return "drops its input already"
        given = self._given(layer)
        pattern, drops = given["pattern"], input_dropout or given.get("recurrent_dropout")
        if drops and pattern.time_extent is None and (stepwise or isinstance(layer, nn.RNNCellBase)):
            return f"draws a mask at each call, and pattern {pattern.name!r} has one for all steps"
        try:
            self._twin(layer, input_dropout)
        except ValueError as error:
            return str(error)
        if type(layer) is kind.torch and (own := sorted(_added(kind, layer) & vars(layer).keys())):
            return f"it has an attribute {own[0]!r} of its own, which strop's layer would use"
        return None

    def _given(self, layer: nn.Module) -> dict[str, Any]:
        """The settings that strop's layer gets, or has already."""
        kind = kind_of(layer)
        settings = self.settings if kind and type(layer) is kind.torch else vars(layer)
        names = ("recurrent_dropout", "pattern") if is_recurrent(layer) else ("pattern",)
        return {name: settings[name] for name in names}

    def _twin(self, layer: nn.Module, input_dropout: float, **axes: bool) -> nn.Module:
        kind = kind_of(layer)
        assert kind is not None
        return kind.strop_twin(layer, **self._given(layer), **{kind.input_dropout: input_dropout}, **axes)

    def _stays(self, dropout: nn.Module) -> str | None:
        """Why a dropout cannot be taken over, whatever it feeds; None if it may."""
        if type(dropout) is not nn.Dropout:
            return "only nn.Dropout itself can be taken over"
        if dropout in self.excluded:
            return "filter_fn excludes it"
        if "forward" in vars(dropout):
            return "its forward was replaced"
        if dropout.inplace:
            return "works in place, on a tensor that others may read"
        if not 0 < dropout.p < 1:
            return f"drops {'nothing' if dropout.p == 0 else 'everything'}"
        return None

    def _entry(self, layer: nn.Module, name: str) -> Entry:
        before = _class_name(type(layer))
        if layer in self.taken.fed:
            by = _quoted(self.names[each] for each in self.taken.fed[layer])
            return Entry(name, before, "Identity", "taken over", f"p={layer.p:g} now dropped by {by}")
        if layer in self.twins:
            twin = self.twins[layer]
            return Entry(name, before, _class_name(type(twin)), "swapped", _dropped(twin))
        if is_dropout(layer):
            unseen = "example_inputs would tell what it feeds"
            why = self.reasons.get(layer) or self._stays(layer) or unseen
            return Entry(name, before, before, "left", why)
        if is_recurrent(layer):
            return Entry(name, before, before, "left", self.reasons[layer])
        return Entry(name, before, before, "left", "no dropout to take over", concerned=False)


def revert(model: nn.Module) -> Report:
    """Turns strop's layers back into torch's, in place, with the weights that they have now.

    A dropout that convert had moved into a layer goes back to where it was. What torch's layers cannot do
    (recurrent dropout, dropout of the input that no ``nn.Dropout`` did before) is lost, and reported.

    Args:
        model: what ``convert`` was given, or any other module with strop's layers.

    Returns:
        What became of every layer.

    Raises:
        TypeError, ValueError: as ``convert``; nothing was changed then.
    """
    check_model("revert", model)
    names = {module: name for name, module in model.named_modules()}
    put_back = {layer: vars(layer)[_TAKEN_BY] for layer in names if _TAKEN_BY in vars(layer)}
    took = {name for layers in put_back.values() for name in layers}
    added = {layer: _added(TO_TORCH[type(layer)], layer) for layer in names if type(layer) in TO_TORCH}
    entries = []
    for layer, name in names.items():
        before = _class_name(type(layer))
        if layer in put_back:
            why = f"p={layer.p:g}, no longer dropped by {_quoted(put_back[layer])}"
            entries.append(Entry(name, before, "Dropout", "put back", why))
        elif layer in added:
            after = _class_name(TO_TORCH[type(layer)].torch)
            # Named from the model that was converted, which may be a part of this one.
            moved = any(name == part or name.endswith(f".{part}") for part in took)
            entries.append(Entry(name, before, after, "swapped", _lost(layer, moved)))
        elif _is_listed(layer):
            concerned = is_recurrent(layer) or is_dropout(layer)
            entries.append(Entry(name, before, before, "left", "is not strop's", concerned))
    for layer, attributes in added.items():
        layer.__class__ = TO_TORCH[type(layer)].torch
        for key in attributes:
            vars(layer).pop(key, None)
    for layer in put_back:
        layer.__class__ = nn.Dropout
        del vars(layer)[_TAKEN_BY]
    return Report(entries)


def _added(kind: Kind, layer: nn.Module) -> set[str]:
    """The attributes that strop's constructor sets and torch's does not."""
    return vars(kind.strop_twin(layer)).keys() - vars(kind.torch_twin(layer)).keys()


def _class_name(cls: type[nn.Module]) -> str:
    return f"strop.{cls.__name__}" if cls in TO_TORCH else cls.__name__


def _is_listed(module: nn.Module) -> bool:
    """Containers are not, unless they are recurrent."""
    return is_recurrent(module) or next(module.children(), None) is None


def _dropped(layer: nn.Module) -> str:
    """The shares that one of strop's layers drops."""
    names = [TO_TORCH[type(layer)].input_dropout, "recurrent_dropout"]
    if getattr(layer, "num_layers", 1) > 1:
        names.insert(1, "dropout")
    shares = {name: getattr(layer, name, 0.0) for name in names}
    dropped = ", ".join(f"{name}={p:g}" for name, p in shares.items() if p)
    if isinstance(layer, nn.Linear) and layer.batch_first:
        dropped += ", batch_first"
    return dropped or "nothing dropped"


def _lost(layer: nn.Module, moved: bool) -> str:
    """What torch's layer cannot drop. ``moved``: an nn.Dropout drops the input again."""
    names = {"recurrent_dropout"} if moved else {"recurrent_dropout", TO_TORCH[type(layer)].input_dropout}
    shares = {name: getattr(layer, name, 0.0) for name in sorted(names)}
    lost = ", ".join(f"{name}={p:g}" for name, p in shares.items() if p)
    return f"loses {lost}" if lost else ""


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(repr(name) if name else "the model" for name in dict.fromkeys(names))
