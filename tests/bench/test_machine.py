import pytest
import torch

from strop.bench import machine
from strop.ops import dispatch, native

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", dispatch.BACKENDS)
def test_the_backend_that_runs_is_recorded(name):
    if not dispatch.available(name):
        pytest.skip(f"{name} cannot run here")
    with dispatch.use(name):
        assert machine.backend(CPU) == (f"native {native.isa()}" if name == "native" else name)
