"""Compiles the kernels for GPUs that need not be there: what the interpreter accepts, Triton may not.

A process of its own, without the interpreter. Prints for each kernel what the compiler says of its resources.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from strop.ops.triton import columns, gathered, steps_backward, steps_forward

FLOAT32 = {"partial", "carry"}
INT32 = {"index", "count", "offsets", "arrived", "entered"}
INTS = {"steps", "batch", "total", "hidden", "width", "mask_stride", "tiles", "gate_tiles", "product_tiles"}
INTS |= {"first", "last", "columns", "outputs", "panels"}


def constants(cell: str, gates: int, dtype: str, precision: str) -> dict[str, object]:
    """The most that a kernel is ever asked for at once."""
    flags = "REVERSE PACKED LISTED COUNTED BIASED HAS_DY HAS_DH HAS_DC GATES PRODUCT PERSISTENT PREVIOUS"
    rows = 128 if dtype == "bf16" else 64
    sizes = {
        "G": gates,
        "U": 16,
        "ROWS": rows,
        "CHUNK": 64,
        "KEPT": 64 if precision == "tf32" else 32,
        "SPLITS": 8,
    }
    return {
        **dict.fromkeys(flags.split(), True),
        "MASKED": False,
        "CELL": cell,
        "PRECISION": precision,
        **sizes,
        "COLUMNS": 128,
        "BLOCK": 128,
    }


def build(kernel, dtype: str, capability: int, known: dict[str, object]) -> None:
    used = {name: known[name] for name in kernel.arg_names if name in known}
    signature = {}
    for name in kernel.arg_names:
        kind = "fp32" if name in FLOAT32 or (name == "cells" and dtype != "fp32") else dtype
        kind = "i32" if name in INT32 else "i8" if name == "kept" else kind
        signature[name] = "constexpr" if name in used else f"*{kind}"
        signature[name] = "i32" if name in INTS else "fp32" if name == "scale" else signature[name]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=used,
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(signature.values())
            if kind.startswith("*")
        },
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": True, "num_warps": 8 if "ROWS" in used else 4},
    )
    label = f"{kernel.fn.__name__} {used.get('CELL', '')} {dtype} sm_{capability}"
    print(f"{label}: {compiled.metadata.shared} B shared, {resources(compiled.asm['cubin'])}")


def resources(cubin: bytes) -> str:
    """Registers, and bytes on the stack: what did not fit them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    return f"{found[1]} registers, {found[2]} B stack" if found else "resources unknown"


def main(quick: bool) -> None:
    for dtype, capability, precision in (("bf16", 90, "tf32"), ("fp32", 80, "ieee"), ("fp32", 90, "tf32")):
        for cell, gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1)):
            if quick and (cell, dtype) not in (("lstm", "bf16"), ("gru", "fp32")):
                continue
            if quick and precision == "tf32" and dtype == "fp32":
                continue
            known = constants(cell, gates, dtype, precision)
            build(steps_forward.forward, dtype, capability, known)
            build(steps_backward.backward, dtype, capability, known)
        known = constants("lstm", 4, dtype, precision)
        if not quick:
            build(steps_backward.initial_grad, dtype, capability, known)
            build(columns._drop, dtype, capability, known)
            build(columns._pack, dtype, capability, known)
            build(gathered._forward, dtype, capability, known)
            build(gathered._input_grad, dtype, capability, known)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
