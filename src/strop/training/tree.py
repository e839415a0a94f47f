"""Nested state (dicts, lists, tuples, numbers, strings, tensors) as one safetensors file, and back.

The tensors are safetensors; the shape of the nest is JSON in the file's metadata. Reading runs no code
from the file, as unpickling would.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strop.training import safe

_KEY = "tree"


def to_bytes(tree: Any) -> bytes:
    """`tree` as the bytes of a safetensors file. Raises TypeError, naming the place, for other types."""
    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_pack(tree, "state", tensors))
    return safe.to_bytes(tensors, {_KEY: shape})


def from_file(path: Path) -> Any:
    """What `to_bytes` was given. Raises ValueError or safetensors' error for other files."""
    with safe.opened(path) as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise ValueError(f"{path}: holds no nested state")
        # Copies: fresh allocations are aligned, and a product's last bit may depend on alignment.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _unpack(json.loads(metadata[_KEY]), tensors)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` with every tensor replaced by `function` of it."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        items = [map_tensors(function, item) for item in tree]
        return tuple(items) if isinstance(tree, tuple) else items
    return tree


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of `tree`, in its order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)
    return found


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"{len(tensors)}:{place}"
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"{place}: key {key!r}; only str and int keys can be saved")
        return {"dict": [[key, _pack(item, f"{place}.{key}", tensors)] for key, item in value.items()]}
    raise TypeError(
        f"{place}: {type(value).__name__}; only tensors, numbers, strings, lists, tuples and dicts are saved"
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
