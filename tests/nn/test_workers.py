"""Worker processes of a DataLoader, while the main process trains."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import strop
from strop.ops import memory


def trained(lstm: strop.LSTM, x: torch.Tensor) -> torch.Tensor:
    """The gradient of a weight after a pass with fixed masks."""
    masks = lstm.draw(*x.shape[:2], generator=torch.Generator().manual_seed(5))
    lstm(x, masks=masks)[0].sum().backward()
    gradient, lstm.weight_hh_l0.grad = lstm.weight_hh_l0.grad, None
    assert gradient is not None
    return gradient


class Gradients(Dataset):
    """Made by a layer in the worker."""

    def __init__(self, lstm: strop.LSTM, x: torch.Tensor) -> None:
        self.lstm, self.x = lstm, x

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return trained(self.lstm, self.x * index)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_layers_run_in_workers_while_the_main_process_trains(method, workers):
    lstm = strop.LSTM(128, 160, recurrent_dropout=0.5)  # large enough for all threads and the pool of memory
    x = torch.randn(35, 20, 128)
    expected = [trained(lstm, x * index) for index in range(4)]
    assert torch.get_num_threads() == 1 or memory.pool is None or memory.pool.held > 0
    data = Gradients(copy.deepcopy(lstm), x)
    loader = DataLoader(data, None, num_workers=workers, multiprocessing_context=method, timeout=60)
    for found, gradient in zip(loader, expected, strict=True):
        torch.testing.assert_close(trained(lstm, x), expected[1])
        torch.testing.assert_close(found, gradient)


@pytest.mark.skipif(not hasattr(os, "fork") or memory.pool is None, reason="needs fork and the pool")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_takes_memory():
    with memory.pool._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)
            memory.empty((1 << 20,), torch.float32)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
