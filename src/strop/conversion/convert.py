"""``strop.convert`` and ``strop.revert``.

A layer gets another class, as torch's own parametrizations and FSDP do it, instead of being replaced. So it
stays the same object with the same parameters, hooks, mode and attributes wherever it is referred to: by
parents that share it, by optimisers, by DataParallel and DistributedDataParallel, or by nobody but the
caller, as a model that is itself a recurrent layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from strop.conversion import gains
from strop.conversion.dropouts import may_drop, plain_class, put_back, share_of, take_over, taken_by
from strop.conversion.gains import Times
from strop.conversion.kinds import (
    Kind,
    before,
    is_dropout,
    is_recurrent,
    is_strops,
    kind_of,
    on_strop,
    unknown,
)
from strop.conversion.refusals import check_model
from strop.conversion.report import Entry, Report
from strop.conversion.takeover import Takeover, settle
from strop.conversion.verify import unchanged_results
from strop.conversion.watch import Call, Function, run
from strop.functional import routes
from strop.nn.masks import pattern_template
from strop.nn.taken_over import Source, source_of
from strop.pattern import Pattern, check_probability

Filter = Callable[[nn.Module, str], bool]

_NOT_SLOWER = 0.99  # a sum of predictions, rounded


def convert(
    model: nn.Module,
    *,
    recurrent_dropout: float | None = None,
    pattern: str | Pattern = "structured",
    example_inputs: Any = None,
    filter_fn: Filter | None = None,
    dropouts: Mapping[type[nn.Module], str] | None = None,
    only_if_faster: bool = True,
) -> Report:
    """Turns the recurrent layers of a model into strop's, in place.

    A layer keeps its identity: parameters, hooks, mode, names, device and dtype stay, and with them the
    optimisers and wrappers made before. Only its class changes, to strop's; ``revert`` changes it back.

    Args:
        model: any module; also one wrapped in DataParallel or DistributedDataParallel, and a recurrent layer.
        recurrent_dropout: of all layers that are swapped, in [0, 1), and of those that are strop's already;
            None for none, or for the share that they have.
        pattern: of all layers that are swapped, as in ``strop.LSTM``.
        example_inputs: a tensor, a tuple or list of positional or a mapping of keyword arguments. The model
            is run on it in training mode and in evaluation, before and after, which leaves no trace in it or
            in random generators. A dropout whose output goes into recurrent layers or ``nn.Linear``, and
            nowhere else, is then taken over by these layers. None leaves all of them.
        filter_fn: of a module and its name, whether convert may change it; None for all.
        dropouts: classes of dropouts of your own, and what attribute holds their share: ``{LockedDropout:
            "p"}``. Those that show in the run that they scale and drop single units are known without.
        only_if_faster: whether a dropout stays where the rule by which layers choose how to run expects a
            recurrent layer that takes it over to be slower, or linear layers alone not to be faster, at the
            sizes of ``example_inputs``, on this CPU with torch's threads. False takes over all that can be.

    Returns:
        What became of every layer, why, and how much faster it is expected to train. ``print`` shows a table.

    Raises:
        TypeError, ValueError: an argument is out of range, the model cannot be converted (scripted, compiled,
            quantised, on the meta device, inside an autograd graph), or it fails on ``example_inputs``, or
            gives other results in evaluation afterwards. Nothing is changed then.

    Warns:
        UserWarning: there was nothing to convert.
    """
    check_model("convert", model)
    if recurrent_dropout is not None:
        recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
    template = pattern_template(pattern, 1)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn must be callable or None, got {filter_fn!r}")
    custom = {} if dropouts is None else dict(dropouts)
    for cls, name in custom.items():
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or not isinstance(name, str):
            raise TypeError(f"dropouts must map classes of modules to names of attributes, got {dropouts!r}")
    if not isinstance(only_if_faster, bool):
        raise TypeError(f"only_if_faster must be True or False, got {only_if_faster!r}")
    names = {module: name for name, module in model.named_modules()}
    excluded = {module for module, name in names.items() if filter_fn and not filter_fn(module, name)}
    settings = {"recurrent_dropout": recurrent_dropout, "pattern": template}
    plan = _Plan(names, excluded, settings, custom, only_if_faster)
    for layer in filter(is_recurrent, names):
        plan.swap(layer)
    if example_inputs is None:
        report = plan.report()  # before the classes change
        plan.apply()
    else:
        plan.take_over(model, example_inputs)
        report = plan.report()
        with unchanged_results(model, example_inputs, plan.twins or plan.taken.fed):
            plan.apply()
    if not (report.swapped or report.changed or any(is_strops(layer) for layer in names)):
        warnings.warn(f"strop.convert has changed nothing:\n{report}", stacklevel=2)
    return report


@dataclass
class _Plan:
    """What convert will do; every constructor is called, and checks its arguments, before a layer changes.

    Attributes:
        names: of all modules.
        excluded: those that may not be changed.
        settings: of strop's layers; a recurrent_dropout of None leaves what they have.
        custom: classes of other dropouts than torch's, and what holds their share.
        only_if_faster: whether dropouts stay where taking them over is not expected to pay.
        changed: the recurrent dropout that layers get which are strop's already.
        twins: what layers become, without storage.
        reasons: why other layers stay.
        taken: the dropouts that their consumers take over.
        functions: where functions drop in the code of modules.
        gains: how many times as fast as torch's each layer is expected to train.
    """

    names: dict[nn.Module, str]
    excluded: set[nn.Module]
    settings: dict[str, Any]
    custom: dict[type[nn.Module], str]
    only_if_faster: bool
    changed: dict[nn.Module, float] = field(default_factory=dict)
    twins: dict[nn.Module, nn.Module] = field(default_factory=dict)
    reasons: dict[nn.Module, str] = field(default_factory=dict)
    taken: Takeover = field(default_factory=Takeover)
    functions: list[Function] = field(default_factory=list)
    gains: dict[nn.Module, float] = field(default_factory=dict)

    def swap(self, layer: nn.Module) -> None:
        wanted = self.settings["recurrent_dropout"]
        if is_strops(layer):
            self.reasons[layer] = "is strop's already"
            if wanted is not None and wanted != layer.recurrent_dropout and layer not in self.excluded:
                reason = self._obstacle(layer, recurrent_dropout=wanted)
                self.reasons[layer] += f", and keeps its share: {reason}" if reason else ""
                if reason is None:
                    self.changed[layer] = wanted
        elif reason := self._obstacle(layer):
            self.reasons[layer] = reason
        else:
            self.twins[layer] = self._twin(layer, 0.0)

    def take_over(self, model: nn.Module, example_inputs: Any) -> None:
        dropouts = {module: name for module, name in self.names.items() if self._stays(module) is None}
        consumers = {
            module: name
            for module, name in self.names.items()
            if is_recurrent(module) or isinstance(module, nn.Linear)
        }
        shares = {each: partial(share_of, each, self.custom.get(type(each))) for each in dropouts}
        seen = run(model, example_inputs, shares, set(consumers))
        self.taken = settle(dropouts, consumers, seen, self._obstacle, partial(self._worthless, seen.calls))
        self.functions = seen.functions
        for layer, p in self.taken.p.items():
            self.twins[layer] = self._taking(layer, p, layer in self.taken.batch_first)
        self.reasons |= self.taken.refused
        for layer, twin in self.twins.items():
            p = self.taken.p.get(layer, 0.0)
            if times := gains.expected(layer, seen.calls.get(layer, ()), p, twin):
                self.gains[layer] = times.gain

    def _worthless(
        self, calls: Mapping[nn.Module, list[Call]], layers: Mapping[nn.Module, tuple[float, bool]]
    ) -> str | None:
        """Why these layers are not to take over the dropouts that feed them; None if they are."""
        if not self.only_if_faster:
            return None
        names = _quoted(self.names[layer] for layer in layers)
        found: dict[nn.Module, Times] = {}
        twins = {layer: self._taking(layer, *how) for layer, how in layers.items()}
        for layer, twin in twins.items():
            if reason := gains.without_kernels(layer):
                return f"{names} would train no faster: {reason}"
            times = gains.expected(layer, calls[layer], layers[layer][0], twin)
            if times is None:
                return None
            found[layer] = times
        # Layers that drop states run on the kernels in any case: what they take over costs nothing.
        free = {layer for layer in found if getattr(twins[layer], "recurrent_dropout", 0.0)}
        own = [times for layer, times in found.items() if layer not in free]
        # Where its kernels would be slower a recurrent layer runs torch's operator on a masked input. Linear
        # layers alone have to gain from a mask.
        least = routes.PAYS if all(isinstance(layer, nn.Linear) for layer in layers) else _NOT_SLOWER
        if not own or max(gains.ratio(own), gains.ratio([*found.values()])) >= least:
            return None
        first = next(iter(found))
        reads = gains.sizes_read(calls[first], twins[first])
        times = gains.ratio([*found.values()])
        return f"would not pay: {names} would train {times:.2f} times as fast on {reads}"

    def _taking(self, layer: nn.Module, p: float, batch_first: bool) -> nn.Module:
        """strop's layer in place of ``layer``, which takes over a dropout of p."""
        axes = {"batch_first": batch_first} if isinstance(layer, nn.Linear) else {}
        return self._twin(layer, p, **axes)

    def apply(self) -> None:
        for layer, twin in self.twins.items():
            kind = kind_of(layer)
            assert kind is not None
            known = vars(layer)
            if not is_strops(layer):
                layer.__class__ = on_strop(type(layer), kind)
            known.update({key: value for key, value in vars(twin).items() if key not in known})
            for name in (kind.input_dropout, "batch_first"):
                if hasattr(twin, name):
                    setattr(layer, name, getattr(twin, name))
        for layer, p in self.changed.items():
            vars(layer)["recurrent_dropout"] = p
        for dropout, layers in self.taken.fed.items():
            take_over(dropout, self.custom.get(type(dropout)), tuple(self.names[layer] for layer in layers))
            vars(dropout)["shared"] = len(layers) > 1 and dropout in self.taken.together
            for layer in layers:
                vars(layer)["_source"] = (dropout,)

    def report(self) -> Report:
        entries = [self._entry(layer, name) for layer, name in self.names.items() if _is_listed(layer)]
        for function in self.functions:
            why = f"p={function.p:g} in its code, which convert cannot change: "
            if function.other_use is None:
                fed = _quoted(self.names[layer] for layer in function.fed)
                why += f"an nn.Dropout in its place could be taken over by {fed}"
            else:
                why += f"its output goes into {function.other_use}"
            entries.append(Entry(self.names[function.module], "F.dropout", "F.dropout", "left", why))
        return Report(entries)

    def _obstacle(
        self,
        layer: nn.Module,
        input_dropout: float = 0.0,
        stepwise: bool = False,
        recurrent_dropout: float | None = None,
    ) -> str | None:
        """Why a layer cannot become strop's with so much dropout on its input; None if it can.

        ``stepwise``: it is called once a step, as cells are.
        """
        if reason := unknown(layer):
            return reason
        if layer in self.excluded:
            return "filter_fn excludes it"
        kind = kind_of(layer)
        assert kind is not None
        if input_dropout and is_strops(layer) and getattr(layer, kind.input_dropout):
            return "drops its input already"
        given = self._given(layer)
        if recurrent_dropout is not None:
            given["recurrent_dropout"] = recurrent_dropout
        pattern, drops = given["pattern"], input_dropout or given.get("recurrent_dropout")
        if drops and pattern.time_extent is None and (stepwise or isinstance(layer, nn.RNNCellBase)):
            return f"draws a mask at each call, and pattern {pattern.name!r} has one for all steps"
        try:
            kind.strop_twin(layer, **given, **{kind.input_dropout: input_dropout})
            on_strop(type(layer), kind) if not is_strops(layer) else None
        except (TypeError, ValueError) as error:
            return str(error)
        if not is_strops(layer) and (own := sorted(_added(kind, layer) & vars(layer).keys())):
            return f"it has an attribute {own[0]!r} of its own, which strop's layer would use"
        return None

    def _given(self, layer: nn.Module) -> dict[str, Any]:
        """The settings that strop's layer gets, or has already."""
        settings = vars(layer) if is_strops(layer) else self.settings
        names = ("recurrent_dropout", "pattern") if is_recurrent(layer) else ("pattern",)
        return {name: settings[name] or 0.0 if name != "pattern" else settings[name] for name in names}

    def _twin(self, layer: nn.Module, input_dropout: float, **axes: bool) -> nn.Module:
        kind = kind_of(layer)
        assert kind is not None
        return kind.strop_twin(layer, **self._given(layer), **{kind.input_dropout: input_dropout}, **axes)

    def _stays(self, dropout: nn.Module) -> str | None:
        """Why a module cannot be taken over as a dropout, whatever it feeds; None if it may."""
        if isinstance(dropout, Source):
            return "is taken over already"
        if type(dropout) is not nn.Dropout and type(dropout) not in self.custom and not may_drop(dropout):
            return "drops in a way of its own, which no layer of strop's has"
        if dropout in self.excluded:
            return "filter_fn excludes it"
        if "forward" in vars(dropout):
            return "its forward was replaced"
        if getattr(dropout, "inplace", False):
            return "works in place, on a tensor that others may read"
        p = share_of(dropout, self.custom.get(type(dropout)))
        if p is not None and not 0 < p < 1:
            return f"drops {'nothing' if p == 0 else 'everything'}"
        return None

    def _entry(self, layer: nn.Module, name: str) -> Entry:
        was = _class_name(layer)
        if layer in self.taken.fed:
            by = _quoted(self.names[each] for each in self.taken.fed[layer])
            why = f"p={self.taken.share[layer]:g} now dropped by {by}"
            if note := self.taken.notes.get(layer):
                why += f" ({note})"
            return Entry(name, was, "strop.TakenOver", "taken over", why)
        if layer in self.changed:
            p = self.changed[layer]
            return Entry(
                name, was, was, "changed", f"recurrent_dropout={p:g}, it was {layer.recurrent_dropout:g}"
            )
        if layer in self.twins:
            twin = self.twins[layer]
            now, gain = f"strop.{type(layer).__name__}", self.gains.get(layer)
            return Entry(name, was, now, "swapped", _dropped(twin), gain=gain)
        if is_dropout(layer) or layer in self.reasons:
            unseen = "example_inputs would tell what it feeds"
            return Entry(name, was, was, "left", self.reasons.get(layer) or self._stays(layer) or unseen)
        if is_recurrent(layer):
            return Entry(name, was, was, "left", self.reasons[layer])
        return Entry(name, was, was, "left", "no dropout to take over", concerned=False)


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
    sources = [layer for layer in names if isinstance(layer, Source)]
    classes = {layer: cls for layer in names if (cls := before(layer)) is not None}
    entries = []
    for layer, name in names.items():
        was = _class_name(layer)
        if isinstance(layer, Source):
            why = f"p={layer.p:g}, no longer dropped by {_quoted(taken_by(layer))}"
            entries.append(Entry(name, was, plain_class(layer).__name__, "put back", why))
        elif layer in classes:
            moved = source_of(layer) in sources
            entries.append(Entry(name, was, classes[layer].__name__, "swapped", _lost(layer, moved)))
        elif _is_listed(layer):
            concerned = is_recurrent(layer) or is_dropout(layer)
            entries.append(Entry(name, was, was, "left", "is not strop's", concerned))
    for layer, cls in classes.items():
        kind = kind_of(layer)
        assert kind is not None
        for key in (*_added(kind, layer), "_source"):
            vars(layer).pop(key, None)
        layer.__class__ = cls
    for layer in sources:
        put_back(layer)
    return Report(entries)


def _added(kind: Kind, layer: nn.Module) -> set[str]:
    """The attributes that strop's constructor sets and torch's does not."""
    return vars(kind.strop_twin(layer)).keys() - vars(kind.torch_twin(layer)).keys()


def _class_name(layer: nn.Module) -> str:
    name = type(layer).__name__
    if isinstance(layer, Source):
        return "strop.TakenOver"
    return f"strop.{name}" if is_strops(layer) else name


def _is_listed(module: nn.Module) -> bool:
    """Containers are not, unless they are recurrent."""
    return is_recurrent(module) or next(module.children(), None) is None


def _dropped(layer: nn.Module) -> str:
    """The shares that one of strop's layers drops."""
    names = [_input_share(layer), "recurrent_dropout"]
    if getattr(layer, "num_layers", 1) > 1:
        names.insert(1, "dropout")
    shares = {name: getattr(layer, name, 0.0) for name in names}
    dropped = ", ".join(f"{name}={p:g}" for name, p in shares.items() if p)
    if isinstance(layer, nn.Linear) and layer.batch_first:
        dropped += ", batch_first"
    return dropped or "nothing dropped"


def _input_share(layer: nn.Module) -> str:
    kind = kind_of(layer)
    assert kind is not None
    return kind.input_dropout


def _lost(layer: nn.Module, moved: bool) -> str:
    """What torch's layer cannot drop. ``moved``: an nn.Dropout drops the input again."""
    names = {"recurrent_dropout"} if moved else {"recurrent_dropout", _input_share(layer)}
    shares = {name: getattr(layer, name, 0.0) for name in sorted(names)}
    lost = ", ".join(f"{name}={p:g}" for name, p in shares.items() if p)
    return f"loses {lost}" if lost else ""


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(repr(name) if name else "the model" for name in dict.fromkeys(names))
