"""`strop advise`: which dropout is fastest for a recurrent stack of given sizes, on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import strop
from strop import tables
from strop.bench import command, machine, records
from strop.bench.advise_options import Cell, Options
from strop.bench.check import STEPS, discrepancies
from strop.bench.command import Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, interleave, one_pass
from strop.bench.records import Record, Work
from strop.hardware import CELLS, Drop, Layer, operations
from strop.ops import choice
from strop.pattern import check_probability

_PAYS = 1.05  # times torch's speed: below that, noise may have decided

_CELLS: dict[Cell, tuple[type[nn.RNNBase], type[nn.RNNBase]]] = {
    "lstm": (nn.LSTM, strop.LSTM),
    "gru": (nn.GRU, strop.GRU),
    "rnn": (nn.RNN, strop.RNN),
}
_MODES: dict[Cell, str] = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN_TANH"}  # as torch calls them


@dataclass(frozen=True)
class Setting:
    """How a stack drops: the share `nr` of every layer's input, `rh` of every hidden state."""

    name: str
    nr: float
    rh: float = 0.0


class Net(nn.Module):
    """A stack x `[steps, batch, input]` to y, of torch's layers if `theirs`, else of strop's."""

    def __init__(self, options: Options, setting: Setting, theirs: bool) -> None:
        super().__init__()
        torchs, strops = _CELLS[options.cell]
        between = setting.nr if options.layers > 1 else 0.0
        sizes = (options.input_size, options.hidden_size, options.layers)
        self.dropout = nn.Dropout(setting.nr) if theirs else nn.Identity()
        if theirs:
            self.rnn = torchs(*sizes, dropout=between)  # pyright: ignore[reportCallIssue,reportArgumentType]
        else:
            own = {"input_dropout": setting.nr, "recurrent_dropout": setting.rh}
            self.rnn = strops(*sizes, dropout=between, **own)  # pyright: ignore[reportCallIssue,reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.dropout(x))[0]


def run(options: Options) -> int:
    check_options(options)
    return command.run(
        options,
        lambda device: _check(options, device),
        lambda device: [_measure(options, device)],
        lambda timings, where, notes: _show(options, timings[0], where, notes),
    )


def check_options(options: Options) -> None:
    """Refuse sizes and shares that no layer can have; before anything is measured."""
    for name in ("input_size", "hidden_size", "layers", "batch", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: {getattr(options, name)}; at least 1 is needed")
    for p in options.p:
        if not check_probability("p", p):
            raise ValueError("p: 0 drops nothing, and is measured in any case; give shares above 0")
    if not options.p:
        raise ValueError("p: at least one share is needed")


def settings(options: Options) -> list[Setting]:
    """What strop is measured with."""
    shares = sorted(set(options.p))
    return [
        Setting("nothing dropped", 0.0),
        *(Setting(f"NR+ST p={p:g}", p) for p in shares),
        *(Setting(f"NR+RH+ST p={p:g}", p, p) for p in shares),
    ]


def work(options: Options, setting: Setting, theirs: bool = False) -> Work:
    """The operations of a pass of strop's layers, or of torch's, which drop nothing in columns."""

    def stack(nr: float, rh: float) -> list[Layer]:
        sizes = [options.input_size, *[options.hidden_size] * (options.layers - 1)]
        cell, drops = CELLS[_MODES[options.cell]], (Drop(nr) if nr else None, Drop(rh) if rh else None)
        return [Layer(units, options.hidden_size, cell, 1, *drops) for units in sizes]

    dense = operations(stack(0.0, 0.0), options.batch, options.steps)
    if theirs:
        return Work(dense)
    own = operations(stack(setting.nr, setting.rh), options.batch, options.steps)
    return Work(own, dense / own)


def _check(options: Options, device: torch.device) -> list[str]:
    torch.manual_seed(0)
    shape = (min(options.steps, STEPS), options.batch)
    x = torch.randn(*shape, options.input_size, device=device)
    grad = torch.randn(*shape, options.hidden_size, device=device)

    def loss(model: nn.Module) -> tuple[Tensor, Tensor]:
        y = model(model.get_parameter("x"))
        return (y * grad.to(y.dtype)).sum(), y

    faults = []
    for setting in settings(options):
        net = Net(options, setting, theirs=False).to(device)
        net.register_parameter("x", nn.Parameter(x.clone()))  # its gradient is compared too
        faults += discrepancies(setting.name, net, loss)
    return faults


def _measure(options: Options, device: torch.device) -> Timing:
    torch.manual_seed(0)
    shape = (options.steps, options.batch)
    x = torch.randn(*shape, options.input_size, device=device, requires_grad=True)
    grad = torch.randn(*shape, options.hidden_size, device=device)
    middle = Setting("torch", sorted(options.p)[len(options.p) // 2])
    nets = {"torch": Net(options, middle, theirs=True)}
    nets |= {setting.name: Net(options, setting, theirs=False) for setting in settings(options)}
    cases: dict[str, Case] = {
        name: one_pass(net.to(device), [(x, grad)], device) for name, net in nets.items()
    }
    samples = interleave(cases, options.seconds)
    peak = machine.peak_gflops(device)
    done = {("torch", "overall"): work(options, middle, theirs=True)}
    done |= {(setting.name, "overall"): work(options, setting) for setting in settings(options)}
    made = records.summarise("advise", options.cell, device.type, samples, done, peak)
    note = f"torch's layers drop p={middle.nr:g} of their inputs; their time does not depend on it."
    return Timing(
        [record for record in made if record.ms_p50 is not None],
        len(samples["torch"]["overall"]),
        peak,
        (note, *map(str, choice.choices())),
    )


def _show(options: Options, timing: Timing, where: Provenance, notes: list[str]) -> None:
    torchs, *ours = timing.records
    title = (
        f"strop advise: {options.cell.upper()} {options.input_size} → {options.layers} x "
        f"{options.hidden_size}, batch {options.batch}, {options.steps} steps, on {where.cpu}"
    )
    header = ["", "", "p20 ms", "p50 ms", "p80 ms", "over torch", "ideal", "of peak"]
    groups = [
        [_row(f"torch.nn.{options.cell.upper()}", torchs)],
        *(
            [_row(f"strop {record.impl}", record) for record in ours if record.impl.startswith(start)]
            for start in ("nothing", "NR+ST", "NR+RH+ST")
        ),
    ]
    legend = "ideal: the arithmetic of torch's layers over that on kept columns."
    tables.show(title, header, groups, [legend, *notes, "", *advice(ours)])


def _row(name: str, record: Record) -> list[str]:
    ratio = _speedup(record)
    verdict = "pays" if ratio >= _PAYS else "does not pay" if record.impl.startswith("NR") else ""
    times = (records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80))
    reached = (records.cell(record.ideal, ".2f", "x"), records.cell(record.peak_fraction, ".0%"))
    return [name, verdict, *times, f"{ratio:.2f}x", *reached]


def advice(ours: Sequence[Record]) -> list[str]:
    """What to take, from the records of strop's settings."""

    def best(start: str) -> Record:
        return max((record for record in ours if record.impl.startswith(start)), key=_speedup)

    lines = []
    for start, meaning in (("NR+ST", "without"), ("NR+RH+ST", "with")):
        record = best(start)
        if _speedup(record) >= _PAYS:
            speed = f"{_speedup(record):.2f}x torch's speed"
            lines.append(f"Fastest {meaning} recurrent dropout: {record.impl}, {speed}.")
    dropping = [record for record in ours if record.impl.startswith("NR")]
    useless = [record.impl for record in dropping if _speedup(record) < _PAYS]
    if useless:
        lines.append(
            f"Does not pay here (below {_PAYS}x): {', '.join(useless)}. More is gained with larger layers, "
            "larger batches and larger p."
        )
    if len(useless) == len(dropping):
        lines.append("For these sizes, stay with torch's layers if speed is what you want.")
    else:
        lines.append("Choose p by what the model needs: the fastest is not the most accurate.")
    return lines


def _speedup(record: Record) -> float:
    assert record.speedup_vs_torch is not None
    return record.speedup_vs_torch
