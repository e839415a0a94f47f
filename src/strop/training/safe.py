"""safetensors, which whoever has no run to read or write does without: benchmarks of a bare checkout."""

from pathlib import Path
from typing import Any

from torch import Tensor


def failure() -> type[Exception]:
    """What it raises for a file that it cannot read or write."""
    import safetensors

    return safetensors.SafetensorError


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(tensors, metadata)


def save(tensors: dict[str, Tensor], path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(tensors, path)


def load(path: Path) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load_file(path)


def opened(path: Path) -> Any:
    """A context: its value has `metadata`, `keys` and `get_tensor`."""
    import safetensors

    return safetensors.safe_open(path, framework="pt")
