"""A part of the suite once more, with strop and torch limited to the instruction sets of other CPUs.

What this CPU lacks is skipped: strop is asked. Kernels alone: see ops/test_native_process.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strop.bench import isa
from strop.ops import native

ROOT = Path(__file__).parents[1]

# What differs with what torch can run on a CPU: autocast, compiled and not, bfloat16, converted modules, and
# products, cells and gradients on the way.
AUTOCAST = (
    *(
        f"tests/nn/test_rnn_training.py::test_autocast{what}"
        for what in (
            "",
            "_does_not_lower_the_weights_precision_while_something_is_dropped",
            "_of_cells",
            "_of_linear_layers",
        )
    ),
    "tests/tasks/test_translation_model.py::test_autocast_to_bfloat16_rounds_and_no_more",
)
AVX2 = (
    *AUTOCAST,
    "tests/nn/test_autocast_trial.py",
    "tests/ops/test_native_bf16.py",
    "tests/test_functional.py",
    "tests/test_cross_entropy.py",
    "tests/test_compile.py::test_autocast",
    "tests/test_docs.py::test_python_blocks_run_one_after_another",
    "tests/bench/test_layer.py",
    "tests/tasks/test_language.py::test_in_bfloat16_a_model_learns_and_resumes_exactly",
    "tests/tasks/tagging/test_tagging.py::test_a_tagger_learns_and_resumes_exactly",
)
PORTABLE = (*AUTOCAST, "tests/test_functional.py")


def python(limits: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "STROP_BACKEND"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment | limits, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.timeout(1800)  # on a busy machine; a minute or so on an idle one
@pytest.mark.skipif(native.missing is not None, reason=f"no native kernels: {native.missing}")
@pytest.mark.skipif("STROP_ISA" in os.environ, reason="the whole suite is limited already")
@pytest.mark.parametrize(("name", "part"), [("avx2", AVX2), ("portable", PORTABLE)])
def test_a_part_of_the_suite_on_older_cpus(name, part):
    limits = isa.limits(name)
    asked = python(limits, "-c", "from strop.ops import native; print(native.missing or native.isa())")
    if asked.stdout.strip() != name:
        pytest.skip(f"this CPU has no {name}: {asked.stdout.strip() or asked.stderr}")
    done = python(limits, "-m", "pytest", "-q", "-p", "no:cacheprovider", *part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("name", isa.ISAS)
def test_limits_reach_torch_and_its_libraries(name):
    found = isa.told(python({**isa.limits(name), **isa.VERBOSE}, "-c", isa.ASK).stdout)
    # What a CPU lacks, or a library has not heard of, is nothing that it uses.
    assert found
    assert "avx512" not in found
    assert name == "avx2" or "avx2" not in found


LAYOUT = (
    "import torch; from strop.functional import compiled; print(compiled.layout('cpu', torch.float32, False))"
)


@pytest.mark.skipif(native.missing is not None, reason=f"no native kernels: {native.missing}")
def test_graphs_for_one_instruction_set_are_told_from_those_for_another():
    """Caches of compiled graphs find them by what stands in them: see ``test_compile`` for backends."""
    found = [python(isa.limits(name), "-c", LAYOUT).stdout for name in ("avx2", "portable")]
    assert all(found)
    assert found[0] != found[1]
