"""CUDA graphs whose capture may fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """``torch.cuda.graph``; but if what is inside cannot be captured, everything else goes on as before.

    torch then leaves the capture's stream the current one, and its generator in the middle of the capture:
    every later draw would fail ("Offset increment outside graph capture").
    """
    here = torch.cuda.current_stream(None if stream is None else stream.device)
    generator = torch.cuda.default_generators[here.device_index]
    own = generator.graphsafe_get_state()
    generator.graphsafe_set_state(own.clone_state())
    with torch.cuda.device(here.device):  # torch captures on the current one
        try:
            # torch's own default is one stream for all devices.
            with torch.cuda.graph(graph, stream=stream or torch.cuda.Stream(here.device)):
                yield
        except BaseException:
            torch.cuda.set_stream(here)
            generator.graphsafe_set_state(own)
            raise
