"""Memory of large results."""

from __future__ import annotations

import copy
import io
import os
import threading

import pytest
import torch

import strop
from strop.ops import dispatch, memory

MB = 1 << 20


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> memory.Pool:
    fresh = memory.Pool()
    monkeypatch.setattr(memory, "pool", fresh)
    return fresh


def large(megabytes: float = 4) -> torch.Tensor:
    return memory.empty((int(megabytes * MB) // 4,), torch.float32)


def test_memory_is_taken_again_once_its_tensor_is_gone(pool):
    first = large()
    address = first.data_ptr()
    del first
    assert large().data_ptr() == address
    assert pool.held == 4 * MB


@pytest.mark.parametrize("keep", [lambda t: t[3:], lambda t: t.view(2, -1), lambda t: t.untyped_storage()])
def test_memory_in_use_is_never_given_twice(pool, keep):
    tensor = large()
    kept = keep(tensor)
    address = tensor.data_ptr()
    del tensor
    assert large().data_ptr() != address
    del kept
    assert address in {t.data_ptr() for t in [large(), large()]}


def test_autograd_keeps_what_it_saved(pool):
    x = large().fill_(3).requires_grad_()
    y = (x * x).sum()
    address = x.data_ptr()
    del x
    other = large().fill_(7)
    assert other.data_ptr() != address
    y.backward()


def test_gradients_are_taken_over_and_not_copied(pool):
    class Pooled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            result = large().fill_(1)
            addresses.append(result.data_ptr())
            return result

    addresses: list[int] = []
    p = torch.nn.Parameter(torch.zeros(MB))
    Pooled.apply(p).backward()
    assert p.grad is not None
    assert p.grad.data_ptr() == addresses[0]
    assert not p.grad._is_view()


@pytest.mark.parametrize("shape", [(3, 5), (0,), (1 << 18,), (513, 1027), (7, 5, 3, 4099)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_an_ordinary_tensor(pool, shape, dtype):
    tensor = memory.empty(shape, dtype)
    expected = torch.empty(shape, dtype=dtype)
    assert (tensor.shape, tensor.stride(), tensor.dtype, tensor.device) == (
        expected.shape,
        expected.stride(),
        expected.dtype,
        expected.device,
    )
    assert tensor.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    tensor.fill_(2)
    stream = io.BytesIO()
    torch.save(tensor, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream), tensor)
    assert torch.equal(copy.deepcopy(tensor), tensor)


def test_small_results_come_from_the_allocator(pool):
    large(0.5)
    assert pool.held == 0


def test_no_more_is_held_than_twice_what_was_in_use(pool):
    for megabytes in (4, 9, 3, 8, 5, 1, 7, 2):
        large(megabytes)
        assert pool.held <= 2 * 9 * MB
    both = large(9), large(8)
    del both
    for megabytes in (3, 4, 5, 6, 7):
        large(megabytes)
        assert pool.held <= 2 * 17 * MB


def test_the_least_recently_used_goes_first(pool):
    addresses = [large(megabytes).data_ptr() for megabytes in (2, 4)]
    large(2)
    large(3)  # in the place of the 4: 9 would be more than twice the 4
    assert large(2).data_ptr() == addresses[0]
    assert pool.held == 5 * MB


@pytest.mark.skipif(not dispatch.available("native"), reason="plain PyTorch asks torch for memory")
def test_a_training_step_finds_the_memory_of_the_one_before(pool):
    model = strop.LSTM(400, 400, 2, dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5)
    x = torch.randn(35, 20, 400, requires_grad=True)
    made = []
    for _ in range(4):
        model.zero_grad()
        x.grad = None
        model(x)[0].sum().backward()
        made.append(pool.made)
    assert made[0] > 0
    assert made[1:] == made[:1] * 3


def test_idle_memory_can_be_given_back(pool):
    kept, idle = large(4), large(4)
    del idle
    strop.empty_cache()
    assert pool.held == 4 * MB
    kept.fill_(1)


def test_no_default_of_torch_changes_it(pool):
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        tensor = large()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert tensor.device.type == "cpu"
    assert tensor.dtype == torch.float32


def test_threads_never_share(pool):
    failures: list[str] = []

    def work(value: int) -> None:
        for _ in range(200):
            tensor = large(1).fill_(value)
            if not bool((tensor == value).all()):
                failures.append("overwritten")
            del tensor

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_its_own_copy(pool):
    tensor = large().fill_(1)
    child = os.fork()
    if child == 0:
        tensor[:8].fill_(2)  # too few for several threads, which do not survive a fork
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bool((tensor == 1).all())
