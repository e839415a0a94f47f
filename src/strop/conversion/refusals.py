"""The models that convert and revert refuse, before anything is changed."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def check_model(function: str, model: nn.Module) -> None:
    """Refuse what cannot be exchanged layer by layer.

    Raises:
        TypeError: not a module.
        ValueError: scripted, compiled or quantised modules, parameters without storage, or weights that are
            results of autograd.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if fault := _fault(function, module):
            raise ValueError(f"model: {f'{name!r} ' if name else ''}{fault}")


def _fault(function: str, module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return (
            f"is a {type(module).__name__}, whose code is fixed: {function} before torch.jit.script or trace"
        )
    if _is_compiled(module):
        return f"is compiled: {function} before torch.compile, or give the module that was compiled"
    if type(module).__module__.startswith(("torch.ao.", "torch.nn.quantized", "torchao.")):
        return f"is a {type(module).__name__}, which is quantised: {function} before quantising"
    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and (fault := _tensor_fault(function, tensor)):
            return f"has {key!r}, {fault}"
    return None


def _is_compiled(module: nn.Module) -> bool:
    # torch._dynamo takes a second to import; without it nothing is compiled.
    dynamo = sys.modules.get("torch._dynamo")
    return module._compiled_call_impl is not None or (
        dynamo is not None and isinstance(module, dynamo.OptimizedModule)
    )


def _tensor_fault(function: str, tensor: Tensor) -> str | None:
    if is_lazy(tensor):
        return "which has no size yet: run the model once, on an input of the right size"
    if tensor.is_meta:
        return f"which is on the meta device, without values: {function} after to_empty() and loading weights"
    if tensor.is_quantized or type(tensor.data).__module__.startswith("torchao."):
        return f"which is quantised: {function} before quantising"
    if tensor.grad_fn is not None:
        return (
            f"which is in the middle of an autograd graph ({tensor.grad_fn.name()}): "
            f"{function} the model whose weights are its parameters"
        )
    return None
