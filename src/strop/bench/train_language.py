"""Whole training steps of a language model, to be timed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from strop.bench.check import STEPS, discrepancies
from strop.bench.measure import Sample, now
from strop.bench.presets import DROPOUTS, IMPLS, Impl, TrainPreset
from strop.tasks.language.model import LanguageModel
from strop.training.gradients import clipped_step, gradient_norm

_WINDOWS = 8  # of text, used in turn


@dataclass(frozen=True)
class LanguageSteps:
    """Steps of `strop train lm`, against the same model on torch's layers."""

    preset: TrainPreset

    def describe(self) -> str:
        layers = self.preset.layers
        return (
            f"Embedding of {self.preset.words:,} words, LSTM stack {' → '.join(map(str, layers.sizes))}, "
            f"softmax; batch {layers.batch}, {layers.steps} steps, dropout {layers.nr} (NR) and "
            f"{layers.rh} (RH)."
        )

    def operations(self, impl: Impl) -> int:
        return self.preset.operations(impl)

    def check(self, device: torch.device) -> list[str]:
        """What strop computes wrongly at the preset's sizes."""
        model = self.preset.model
        short = replace(self.preset, model=replace(model, steps=min(model.steps, STEPS)))
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

    def case(self, impl: Impl, device: torch.device) -> tuple[Callable[[int], Sample], str]:
        """One training step as Zaremba et al. take it: truncated BPTT, SGD with a clipped gradient of the
        loss summed over steps. torch's is as its documentation has it, with the fastest of its optimisers;
        strop's is that of `strop train lm`."""
        preset, note = self.preset, ""
        torch.manual_seed(0)
        text = _windows(preset, device)
        model = _model(preset, impl).to(device)
        parameters = list(model.parameters())
        if impl == "torch":
            kind, optimiser = _fastest_sgd(parameters, device)
            note = f"torch steps by its {kind} SGD, strop as strop train lm does."
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

        return once, note


def _model(preset: TrainPreset, impl: Impl) -> LanguageModel:
    """The model that users train, with the same initial weights whatever `impl` is."""
    own = preset.model
    p = 0.0 if impl == "dense" else own.p
    model = LanguageModel(preset.words, own.units, own.layers, p, DROPOUTS[impl])
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
