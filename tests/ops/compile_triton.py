"""Compiles the kernels for GPUs that need not be there: what the interpreter accepts, Triton may not.

A process of its own, without the interpreter. Prints a line of JSON for each kernel: what the compiler says
of its resources, and its machine code. Without --quick all presets' layers in all precisions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from strop.ops.triton import columns, gathered, launch, steps_backward, steps_forward, tiles
from strop.ops.triton.steps import ANY_SIZE
from strop.ops.triton.tiles import Tiles

FLOAT32 = {"partial", "carry"}
INT32 = {"index", "count", "offsets", "arrived", "entered"}
INTS = {"steps", "batch", "row_tiles", "hidden", "width", "mask_stride", "gate_tiles", "product_tiles"}
INTS |= {"first", "last", "columns", "outputs", "panels"}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
DTYPES = {"bf16": (torch.bfloat16, "tf32"), "tf32": (torch.float32, "tf32"), "fp32": (torch.float32, "ieee")}
# Processors and shared memory of an A100 and an H100.
GPUS = {80: (108, 163 * 1024), 90: (132, 227 * 1024)}
# Hidden units, batch, and kept units of the presets' layers.
LAYERS = {
    "zaremba-medium": (650, 20, 325),
    "zaremba-large": (1500, 20, 525),
    "awd-lstm": (1150, 80, 575),
    "nmt-luong": (512, 64, 358),
    "ner-bilstm": (200, 10, 100),
}
# What a recurrence may be asked for beside a plain sequence, all at once.
ALL = dict.fromkeys(("REVERSE", "PACKED", "COUNTED", "BIASED", "HAS_DH", "HAS_DC"), True)
PLAIN = dict.fromkeys(ALL, False)


def plan_for(
    cell: str, sizes: tuple[int, int, int], precision: str, capability: int, way: str, backward: bool
) -> Tiles | None:
    """How a layer is cut on a GPU of this capability."""
    processors, memory = GPUS[capability]
    launch.processors = lambda device: processors
    launch.shared_memory = lambda device: memory - 4096
    dtype, float32 = DTYPES[precision]
    torch.backends.cuda.matmul.fp32_precision = float32
    hidden, batch, width = sizes
    place = (dtype, torch.device("cpu"))
    if way == "on-chip":
        return tiles.on_chip(GATES[cell], hidden, batch, *place, backward=backward)
    return tiles.reading(GATES[cell], hidden, batch, width, *place, backward=backward)


def constants(cell: str, plan: Tiles, precision: str, way: str, flags: dict[str, bool]) -> dict[str, Any]:
    sizes = {"U": plan.lanes, "ROWS": plan.rows, "CHUNK": plan.chunk, "SHARES": plan.shares}
    sizes |= {"KEPT": plan.kept, "SPLITS": plan.splits, "RESIDENT": plan.resident}
    whole = way != "steps"
    how = {"LISTED": True, "MASKED": False, "HAS_DY": True, "PERSISTENT": whole, "TRAPS": whole}
    how |= {"GATES": True, "PRODUCT": True, "PREVIOUS": True}
    gates = {"CELL": cell, "G": GATES[cell], "P": tiles.padded(GATES[cell])}
    return flags | sizes | how | gates | {"PRECISION": DTYPES[precision][1], "COLUMNS": 128, "BLOCK": 128}


def build(
    kernel: Any, dtype: str, capability: int, known: dict[str, Any], warps: int, stages: int = 3
) -> dict[str, Any]:
    """What the compiler makes of a kernel; sizes in ``known`` are constants."""
    used = {name: known[name] for name in kernel.arg_names if name in known}
    signature = {}
    for name in kernel.arg_names:
        kind = "fp32" if name in FLOAT32 or (name == "cells" and dtype != "fp32") else dtype
        kind = "i32" if name in INT32 else "i8" if name == "kept" else kind
        signature[name] = "constexpr" if name in used else f"*{kind}"
        if name not in used:
            signature[name] = "i32" if name in INTS else "fp32" if name == "scale" else signature[name]
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=used,
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"enable_fp_fusion": True, "num_warps": warps, "num_stages": stages},
    )
    return {"shared": compiled.metadata.shared} | machine_code(compiled.asm["cubin"])


def machine_code(cubin: bytes) -> dict[str, Any]:
    """Registers, bytes on the stack (what did not fit them), and the instructions, in their order."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def say(*command: str | Path) -> str:
            return subprocess.run([*command, file.name], capture_output=True, text=True).stdout

        found = re.search(r"REG:(\d+) STACK:(\d+)", say(tools / "cuobjdump", "-res-usage"))
        listing = say(tools / "nvdisasm", "-c")
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", listing, re.MULTILINE)
    return {
        "registers": int(found[1]) if found else None,
        "stack": int(found[2]) if found else None,
        "instructions": names,
    }


def tell(label: str, plan: Tiles | None, made: dict[str, Any]) -> None:
    print(json.dumps({"label": label, "plan": plan._asdict() if plan else None} | made), flush=True)


def recurrence(
    cell: str,
    name: str,
    sizes: tuple[int, int, int],
    precision: str,
    capability: int,
    way: str,
    flags: dict[str, bool],
) -> None:
    """Both kernels of a layer, as far as that way is possible."""
    for kernel in (steps_forward.forward, steps_backward.backward):
        backward = kernel is steps_backward.backward
        plan = plan_for(cell, sizes, precision, capability, way, backward)
        label = f"{kernel.fn.__name__} {cell} {name} {precision} sm_{capability} {way}"
        if plan is None:
            continue
        known = constants(cell, plan, precision, way, flags)
        kind = "bf16" if precision == "bf16" else "fp32"
        tell(label, plan, build(kernel, kind, capability, known, plan.warps, plan.stages))


def others(precision: str, capability: int) -> None:
    """The kernels beside the steps, and those of the steps where sizes are 1."""
    kind = "bf16" if precision == "bf16" else "fp32"
    plan = plan_for("lstm", (70, 64, 35), precision, capability, "steps", True)
    assert plan is not None
    known = constants("lstm", plan, precision, "steps", ALL)
    kernels = [steps_forward.enter, steps_backward.initial_grad, columns._drop, columns._pack]
    for kernel in (*kernels, gathered._forward, gathered._input_grad):
        tell(
            f"{kernel.fn.__name__} {precision} sm_{capability}",
            None,
            build(kernel, kind, capability, known, 4),
        )
    ones = dict.fromkeys(INTS - {*ANY_SIZE}, 1)  # Triton takes a size of 1 for a constant
    for kernel in (steps_forward.forward, steps_backward.backward):
        made = build(kernel, kind, capability, known | ones, plan.warps)
        tell(f"{kernel.fn.__name__} ones {precision} sm_{capability}", plan, made)


def main(quick: bool) -> None:
    if quick:
        for name in ("zaremba-medium", "nmt-luong"):
            recurrence("lstm", name, LAYERS[name], "bf16", 90, "persistent", PLAIN)
        recurrence("lstm", "zaremba-large", LAYERS["zaremba-large"], "bf16", 80, "persistent", PLAIN)
        recurrence("lstm", "on-chip", (300, 20, 150), "bf16", 90, "on-chip", PLAIN)
        recurrence("gru", "all", (70, 64, 35), "fp32", 80, "persistent", ALL)
        return
    for precision, capability in (("bf16", 90), ("bf16", 80), ("tf32", 90), ("fp32", 80)):
        for cell in GATES:
            recurrence(cell, "all", (650, 20, 325), precision, capability, "persistent", ALL)
        for name, sizes in LAYERS.items():
            for way in ("persistent", "steps", "on-chip"):
                recurrence("lstm", name, sizes, precision, capability, way, PLAIN)
        others(precision, capability)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
