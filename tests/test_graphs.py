"""On a GPU: a capture that fails costs nothing but itself."""

from __future__ import annotations

import pytest
import torch

from strop.graphs import capturing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def test_after_a_capture_that_failed_everything_goes_on():
    x = torch.zeros(1000, device="cuda")
    torch.rand_like(x)
    earlier = torch.cuda.CUDAGraph()
    with capturing(earlier):
        x.copy_(torch.rand_like(x))
    here = torch.cuda.current_stream()
    with pytest.raises(RuntimeError), capturing(torch.cuda.CUDAGraph()):
        torch.rand_like(x).sum().item()
    assert torch.cuda.current_stream() == here
    drawn = [torch.rand_like(x) for _ in range(2)]
    assert not torch.equal(*drawn)
    earlier.replay()
    assert 0.4 < x.mean().item() < 0.6
    again = torch.cuda.CUDAGraph()
    with capturing(again):
        x.copy_(torch.rand_like(x))
    means = []
    for _ in range(2):
        again.replay()
        means.append(x.mean().item())
    assert means[0] != means[1]
