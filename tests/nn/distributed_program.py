"""Run by torchrun in two processes: DDP and FSDP2 of a bidirectional, packed layer, against one process.

Structured masks are shared by the batch, so that the same seed draws the same ones whatever the batch.
"""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence

import strop

LENGTHS = (5, 2, 4, 3, 5, 1)  # both halves have the longest


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        drops = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}
        self.rnn = strop.LSTM(6, 8, 2, bidirectional=True, **drops)
        self.head = nn.Linear(16, 3)

    def forward(self, sequences: list[Tensor], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        masks = self.rnn.draw(max(map(len, sequences)), len(sequences), generator=generator)
        y, _ = self.rnn(pack_sequence(sequences, enforce_sorted=False), masks=masks)
        return self.head(y.data).pow(2).sum()


def model() -> Tagger:
    torch.manual_seed(0)
    return Tagger()


def every(value: Tensor) -> list[Tensor]:
    """Of all ranks."""
    found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(found, value)
    return found


dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(1)
sequences = [torch.randn(length, 6) for length in LENGTHS]
own = sequences[rank * 3 : rank * 3 + 3]

alone = model()
(alone(sequences, 7) / size).backward()
expected = [parameter.grad for parameter in alone.parameters()]

ddp = DistributedDataParallel(model())
ddp(own, 7).backward()
for parameter, gradient in zip(ddp.parameters(), expected, strict=True):
    torch.testing.assert_close(parameter.grad, gradient)
    assert all(torch.equal(parameter.grad, other) for other in every(parameter.grad))

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    sharded, mesh = model(), init_device_mesh("cpu", (size,))
    fully_shard(sharded.rnn, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded(own, 7).backward()
for parameter, gradient in zip(sharded.parameters(), expected, strict=True):
    torch.testing.assert_close(parameter.grad.full_tensor(), gradient)

# Streams of their own: other masks with as many columns.
torch.manual_seed(rank)
for mask in (*ddp.module.rnn.draw(5, 3).input, *ddp.module.rnn.draw(5, 3).recurrent):
    assert mask.count is None
    first, second = every(mask.index)
    assert not torch.equal(first, second)
optimizer = torch.optim.SGD(ddp.parameters(), 0.1)
for step in range(2):
    optimizer.zero_grad()
    ddp(own, 100 * rank + step).backward()
    optimizer.step()
assert all(torch.equal(*every(parameter.detach())) for parameter in ddp.parameters())

dist.barrier()
print(f"rank {rank} is done", flush=True)
# torch 2.13 keeps the groups of DDP and FSDP2, destroyed or not, and with them gloo's threads; where one of
# these still frees a tensor while the interpreter shuts down, the process aborts. So it does not shut down.
os._exit(0)
