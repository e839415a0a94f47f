"""Compiles the kernels for GPUs that need not be there: what the interpreter accepts, Triton may not.

A process of its own, without the interpreter. Prints for each kernel what the compiler says of its resources.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from strop.ops.triton import columns, gathered, launch, steps_backward, steps_forward, tiles
from strop.ops.triton.steps import ANY_SIZE

FLOAT32 = {"partial", "carry"}
INT32 = {"index", "count", "offsets", "arrived", "entered"}
INTS = {"steps", "batch", "total", "hidden", "width", "mask_stride", "tiles", "gate_tiles", "product_tiles"}
INTS |= {"first", "last", "columns", "outputs", "panels"}


def constants(cell: str, gates: int, dtype: str, precision: str) -> dict[str, object]:
    """The most that a kernel that reads its weights is ever asked for at once."""
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
        "RESIDENT": 0,
        "TRAPS": True,
    }


def on_chip(cell: str, gates: int, hidden: int, dtype: str, precision: str, capability: int, backward: bool):
    """What keeps the weights of a layer on an H100 or A100, whose batch is 20."""
    processors, memory = {80: (108, 163 * 1024), 90: (132, 227 * 1024)}[capability]
    launch.processors = lambda device: processors
    launch.shared_memory = lambda device: memory - 4096
    cpu, of = torch.device("cpu"), {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    plan = tiles.on_chip(gates, hidden, 20, of, cpu, backward=backward)
    assert plan is not None
    sizes = {"ROWS": plan.rows, "CHUNK": plan.chunk, "KEPT": plan.kept, "SPLITS": plan.splits}
    plain = dict.fromkeys(("REVERSE", "PACKED", "COUNTED"), False)
    return constants(cell, gates, dtype, precision) | plain | sizes | {"RESIDENT": plan.resident}


def build(kernel, dtype: str, capability: int, known: dict[str, object], ones: bool = False) -> None:
    """``ones``: sizes are 1, which Triton takes for constants where it is not told otherwise."""
    known = known | (dict.fromkeys(INTS - {*ANY_SIZE}, 1) if ones else {})
    used = {name: known[name] for name in kernel.arg_names if name in known}
    signature = {}
    for name in kernel.arg_names:
        kind = "fp32" if name in FLOAT32 or (name == "cells" and dtype != "fp32") else dtype
        kind = "i32" if name in INT32 else "i8" if name == "kept" else kind
        signature[name] = "constexpr" if name in used else f"*{kind}"
        if name in used:
            continue
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
        options={
            "enable_fp_fusion": True,
            "num_warps": 8 if "ROWS" in used else 4,
            "num_stages": 1 if used.get("RESIDENT") else 3,
        },
    )
    label = f"{kernel.fn.__name__} {used.get('CELL', '')} {dtype} sm_{capability}"
    if used.get("RESIDENT"):
        label += f", {used['RESIDENT']} chunks of {used['CHUNK']} on the chip"
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
            for kernel in (steps_forward.forward, steps_backward.backward):
                build(kernel, dtype, capability, known | {"ROWS": 16, "CHUNK": 16, "KEPT": 16}, ones=True)
            build(steps_backward.initial_grad, dtype, capability, known)
            build(columns._drop, dtype, capability, known)
            build(columns._pack, dtype, capability, known)
            build(gathered._forward, dtype, capability, known)
            build(gathered._input_grad, dtype, capability, known)
    kept = [("lstm", 4, 300, "bf16", "tf32", 90)]
    if not quick:
        kept += [("lstm", 4, 1500, "bf16", "tf32", 90), ("lstm", 4, 650, "fp32", "tf32", 90)]
        kept += [("gru", 3, 650, "bf16", "tf32", 80), ("lstm", 4, 300, "fp32", "ieee", 80)]
        kept += [("rnn_tanh", 1, 650, "bf16", "tf32", 90)]
    for cell, gates, hidden, dtype, precision, capability in kept:
        for kernel in (steps_forward.forward, steps_backward.backward):
            backward = kernel is steps_backward.backward
            known = on_chip(cell, gates, hidden, dtype, precision, capability, backward)
            build(kernel, dtype, capability, known)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
