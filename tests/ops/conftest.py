"""The Triton kernels' tests, where Triton is."""

import importlib.util

import pytest
import torch

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_triton_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the Triton kernels run: on the CPU in Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
