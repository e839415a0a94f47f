"""Instruction sets: limiting a process to an older one, and telling which one torch's libraries use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Literal, get_args

Isa = Literal["avx2", "portable"]
"""What a process can be limited to; ``portable`` is x86-64's SSE2 in strop and SSE4 in torch's libraries."""

ISAS: tuple[Isa, ...] = get_args(Isa)

# In turn strop's kernels; torch's own operators; nn.LSTM and convolutions; torch.mm; JAX.
_VARIABLES = (
    "STROP_ISA",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "XLA_FLAGS",
)
_LIMITS: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2", "avx2", "AVX2", "AVX2", "--xla_cpu_max_isa=AVX2"),
    "portable": ("portable", "default", "SSE41", "SSE4_2", "--xla_cpu_max_isa=SSE4_2"),
}

# The libraries tell on standard output, with their first call.
VERBOSE = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
ASK = """
import torch
print("aten", torch.backends.cpu.get_cpu_capability(), flush=True)
a = torch.zeros(8, 8)
torch.mm(a, a)
torch.nn.LSTM(8, 8)(a)
"""
_TELLS = {"aten": "aten ", "onednn": "onednn_verbose,v1,info,cpu,isa:", "mkl": "MKL_VERBOSE oneMKL"}
# What they call them; AVX 10.1 is AVX-512 under another number.
_SPELLINGS = {
    "avx512": ("avx512", "avx-512", "avx 10", "vector extensions 512"),
    "avx2": ("avx2", "vector extensions 2"),
    "portable": ("default", "sse4"),
}


def limits(isa: Isa) -> dict[str, str]:
    """The environment variables by which strop, torch with oneDNN and MKL, and JAX keep to ``isa``.

    Each is read when its library is loaded, so they have to be set before Python starts.
    """
    return dict(zip(_VARIABLES, _LIMITS[isa], strict=True))


def in_force(isa: Isa, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment has these limits."""
    return limits(isa).items() <= environment.items()


@cache
def torchs() -> str:
    """The instruction set that torch and its libraries use in processes like this one: ``avx512``, say.

    Where they differ, that of each, oneDNN's first, which runs ``nn.LSTM``; empty where none can be told. The
    libraries tell it themselves, in a process of their own.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env={**os.environ, **VERBOSE},
            capture_output=True,
            text=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told(done.stdout)


def told(output: str) -> str:
    """``torchs`` of what the libraries printed."""
    found: dict[str, str] = {}
    for library in ("onednn", "aten", "mkl"):
        lines = (line for line in output.splitlines() if line.startswith(_TELLS[library]))
        text = next(lines, "").removeprefix(_TELLS[library]).strip().lower()
        if text:
            names = (isa for isa, spellings in _SPELLINGS.items() if any(s in text for s in spellings))
            found[library] = next(names, text)
    if len(set(found.values())) == 1:
        return found.popitem()[1]
    return ", ".join(f"{library} {isa}" for library, isa in found.items())
