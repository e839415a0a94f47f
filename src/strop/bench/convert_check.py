"""`strop convert-check`: what strop.convert would do to a model, and how much faster it would train."""

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import strop
from strop import tables
from strop.bench import machine, records
from strop.bench.convert_check_options import Options
from strop.bench.measure import Case, Percentiles, Sample, interleave, now
from strop.conversion.watch import arguments, tensors
from strop.limits import check_duration, use_threads
from strop.training.progress import counted


def run(options: Options) -> int:
    """The report, and the times; 1 if there is nothing to convert."""
    check_duration("seconds", options.seconds)
    use_threads(options.threads)
    load = machine.load()
    before, example_inputs = build(options.target)
    try:
        after = deepcopy(before)
    except Exception as error:
        raise ValueError(f"target: the model cannot be copied ({error}); return it freshly made") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "strop.convert has changed nothing")  # said below
            report = strop.convert(
                after,
                recurrent_dropout=options.recurrent_dropout,
                pattern=options.pattern,
                example_inputs=example_inputs,
                only_if_faster=options.only_if_faster,
            )
        args, kwargs = arguments(example_inputs)
    except TypeError as error:
        raise ValueError(f"target: what {options.target} returns cannot be used: {error}") from error
    print(report)
    if not report.swapped:
        print("Nothing to convert.", file=sys.stderr)
        return 1
    models = {"before": before, "after": after}
    cases = {name: _case(model.train(), args, kwargs) for name, model in models.items()}
    samples = interleave(cases, options.seconds)
    _show(samples, [_agreement(models, args, kwargs), *machine.load_note(load)])
    return 0


def build(target: str) -> tuple[nn.Module, Any]:
    """What the function of FILE.py:FUNCTION returns.

    Raises:
        ValueError: there is no such file or function, or it fails or returns something else.
    """
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise ValueError(f"target: {target!r}; FILE.py:FUNCTION is needed")
    if not path.exists():
        raise ValueError(f"target: {file!r} does not exist")
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"target: {file!r} is not a Python file")
    made = _call(path, name)
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], nn.Module):
        raise ValueError(
            f"target: {target} must return a model and example inputs, it returned {type(made).__name__}"
        )
    return made


def _call(path: Path, name: str) -> Any:
    """The function's result, with the file's folder on the path as for a script."""
    spec = importlib.util.spec_from_file_location("convert_check_target", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for its classes
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
        if callable(function := getattr(module, name, None)):
            return function()
    except Exception as error:
        raise ValueError(f"target: {path}:{name} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    raise ValueError(f"target: {path} has no function {name!r}")


def _case(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def once(_: int) -> Sample:
        start = now(device)
        outputs = list(_differentiable(model(*args, **kwargs)))
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        taken = now(device) - start
        model.zero_grad(set_to_none=True)
        return {"step": taken}

    return once


def _differentiable(outputs: Any) -> Iterator[Tensor]:
    found = False
    for output in tensors(outputs):
        if output.requires_grad:
            found = True
            yield output
    if not found:
        raise ValueError("target: the model returns no tensor that can be differentiated")


def _agreement(models: dict[str, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """How far apart the outputs are when nothing is dropped."""
    with torch.no_grad(), torch.random.fork_rng():
        before, after = (
            [
                output.double()
                for output in tensors(model.eval()(*args, **kwargs))
                if output.is_floating_point()
            ]
            for model in models.values()
        )
    apart = max((float((a - b).abs().max()) for a, b in zip(before, after, strict=True)), default=0.0)
    return f"In eval mode the outputs differ by {apart:.1e} at most."


def _show(samples: dict[str, dict[str, list[float]]], notes: list[str]) -> None:
    ms = {name: Percentiles.of([1e3 * value for value in values["step"]]) for name, values in samples.items()}
    rows = [
        [
            name,
            "",
            *(records.milliseconds(value) for value in (each.p20, each.p50, each.p80)),
            f"{ms['before'].p50 / each.p50:.2f}x",
        ]
        for name, each in ms.items()
    ]
    rounds = len(samples["before"]["step"])
    title = "\nA training step, forward and backward:"
    circumstances = (
        f"{rounds} interleaved rounds, {counted(torch.get_num_threads(), 'thread')}, {machine.cpu_model()}."
    )
    tables.show(
        title, ["", "", "p20 ms", "p50 ms", "p80 ms", "measured gain"], [rows], [circumstances, *notes]
    )
