"""`strop bench train`: whole training steps of a language model, against the same model on torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from strop.bench import command, machine, records
from strop.bench.check import STEPS, discrepancies
from strop.bench.command import CommonOptions, Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, Sample, interleave, now
from strop.bench.presets import IMPLS, TRAIN_PRESETS, Impl, TrainPreset
from strop.bench.records import Work
from strop.tasks.language.model import LanguageModel
from strop.tasks.language.presets import Dropout, ZarembaName
from strop.training.gradients import clipped_step, gradient_norm

_WINDOWS = 8  # of text, used in turn
_DROPOUTS: dict[Impl, Dropout] = {
    "torch": "nr-random",
    "dense": "nr-st",
    "nr-st": "nr-st",
    "nr-rh-st": "nr-rh-st",
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time whole training steps of a language model, embedding to optimiser, against torch."""

    preset: ZarembaName = "zaremba-medium"
    """Whose sizes and dropout."""

    seconds: float = 60.0
    """How long to measure, roughly; at least 5 rounds are run."""


def run(options: Options) -> int:
    preset = TRAIN_PRESETS[options.preset]
    return command.run(
        options,
        lambda device: check(preset, device),
        lambda device: [measure(preset, device, options.seconds)],
        lambda timings, where, notes: show(preset, timings[0], where, notes),
    )


def check(preset: TrainPreset, device: torch.device) -> list[str]:
    """What strop computes wrongly at the preset's sizes."""
    short = replace(preset, model=replace(preset.model, steps=min(preset.model.steps, STEPS)))
    torch.manual_seed(0)
    x, y = _windows(short, device)[0]

    def loss(model: nn.Module) -> tuple[Tensor, Tensor]:
        assert isinstance(model, LanguageModel)
        mean, _ = model(x, model.first_state(x.shape[1]), y)
        return mean, mean

    faults = []
    for impl in IMPLS:
        if impl != "torch":
            faults += discrepancies(impl, _model(short, impl).to(device), loss)
    return faults


def measure(preset: TrainPreset, device: torch.device, seconds: float) -> Timing:
    torch.manual_seed(0)
    text = _windows(preset, device)
    optimisers: dict[str, str] = {}
    cases: dict[str, Case] = {impl: _case(preset, impl, text, device, optimisers) for impl in IMPLS}
    cases["peak"] = lambda _: {"gflops": machine.peak_gflops(device)}
    samples = interleave(cases, seconds)
    peak = Percentiles.of(samples.pop("peak")["gflops"]).p50
    work = {}
    for impl in IMPLS:
        ideal = None if impl == "torch" else preset.operations("dense") / preset.operations(impl)
        work[impl, "overall"] = Work(preset.operations(impl), ideal)
    made = records.summarise("train", preset.name, device.type, samples, work, peak)
    note = f"torch steps by its {optimisers['torch']} SGD, strop as strop train lm does."
    return Timing(made, len(samples["torch"]["overall"]), peak, (note,))


def _model(preset: TrainPreset, impl: Impl) -> LanguageModel:
    """The model that users train, with the same initial weights whatever `impl` is."""
    own = preset.model
    p = 0.0 if impl == "dense" else own.p
    model = LanguageModel(preset.words, own.units, own.layers, p, _DROPOUTS[impl])
    model.initialise(own.init, seed=0)
    return model


def _windows(preset: TrainPreset, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Words and the next words [steps, batch], each as frequent as its rank says (Zipf)."""
    steps, batch = preset.model.steps, preset.model.batch
    frequencies = 1 / torch.arange(1, preset.words + 1)
    count = (_WINDOWS * steps + 1) * batch
    ids = torch.multinomial(frequencies, count, replacement=True).view(-1, batch).to(device)
    starts = range(0, _WINDOWS * steps, steps)
    return [(ids[i : i + steps], ids[i + 1 : i + 1 + steps]) for i in starts]


def _case(
    preset: TrainPreset,
    impl: Impl,
    text: list[tuple[Tensor, Tensor]],
    device: torch.device,
    optimisers: dict[str, str],
) -> Callable[[int], Sample]:
    """One training step as Zaremba et al. take it: truncated BPTT, SGD with a clipped gradient of the loss
    summed over steps. torch's is as its documentation has it, with the fastest of its optimisers; strop's is
    that of `strop train lm`."""
    model = _model(preset, impl).to(device)
    parameters = list(model.parameters())
    if impl == "torch":
        optimisers[impl], optimiser = _fastest_sgd(parameters, device)
    else:
        optimiser = torch.optim.SGD(parameters, lr=1.0)
        model.embedding.sparse = device.type == "cpu"
    state = model.first_state(preset.model.batch)

    def once(repetition: int) -> Sample:
        nonlocal state
        x, y = text[repetition % len(text)]
        start = now(device)
        mean, (h, c) = model(x, state, y)
        state = h.detach(), c.detach()
        loss = mean * len(x)
        optimiser.zero_grad()
        loss.backward()
        if impl == "torch":
            nn.utils.clip_grad_norm_(parameters, preset.model.clip)
            optimiser.step()
        else:
            clipped_step(optimiser, parameters, gradient_norm(parameters), preset.model.clip)
        return {"overall": now(device) - start}

    return once


def _fastest_sgd(parameters: list[nn.Parameter], device: torch.device) -> tuple[str, torch.optim.Optimizer]:
    """torch's foreach or its fused SGD, whichever steps faster over these parameters here."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    seconds = {}
    for kind in ("foreach", "fused"):
        optimiser = torch.optim.SGD(parameters, lr=1.0, **{kind: True})
        times = []
        for _ in range(4):
            start = now(device)
            optimiser.step()
            times.append(now(device) - start)
        seconds[kind] = min(times)
    best = min(seconds, key=seconds.__getitem__)
    return best, torch.optim.SGD(parameters, lr=1.0, **{best: True})


def show(preset: TrainPreset, timing: Timing, where: Provenance, notes: list[str]) -> None:
    header = [
        "",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "tokens/s",
        "vs torch",
        "vs dense",
        "ideal",
        "GFLOP/s",
        "of peak",
    ]
    layers = preset.layers
    rows = []
    for record in timing.records:
        if record.ms_p50 is not None:
            rows.append(
                [
                    record.impl,
                    *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
                    f"{layers.batch * layers.steps / record.ms_p50 * 1e3:,.0f}",
                    records.cell(record.speedup_vs_torch, ".2f", "x"),
                    records.cell(record.speedup_vs_dense, ".2f", "x"),
                    records.cell(record.ideal, ".2f", "x"),
                    records.cell(record.gflops, ".0f"),
                    records.cell(record.peak_fraction, ".0%"),
                ]
            )
    shape = (
        f"Embedding of {preset.words:,} words, LSTM stack {' → '.join(map(str, layers.sizes))}, softmax; "
        f"batch {layers.batch}, {layers.steps} steps, dropout {layers.nr} (NR) and {layers.rh} (RH)."
    )
    records.show(f"strop bench train: {preset.name} on {where.cpu}", header, [rows], [shape, *notes])
