from pathlib import Path

import pytest
import torch

from strop.bench import isa, machine
from strop.ops import dispatch, native

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", dispatch.BACKENDS)
def test_the_backend_that_runs_is_recorded(name):
    if not dispatch.available(name):
        pytest.skip(f"{name} cannot run here")
    with dispatch.use(name):
        assert machine.backend(CPU) == (f"native {native.isa()}" if name == "native" else name)


def test_cache_sizes(tmp_path: Path):
    caches = [
        ("1", "Data", "48K"),
        ("1", "Instruction", "32K"),
        ("2", "Unified", "2048K"),
        ("3", "Unified", "?"),
    ]
    for number, cache in enumerate(caches):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), cache, strict=True):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "index9").mkdir()
    assert machine.cache_sizes(tmp_path) == (48, 2048, None)
    assert machine.cache_sizes(tmp_path / "absent") == (None, None, None)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "aten AVX512\nMKL_VERBOSE oneMKL 2024 for Intel(R) Advanced Vector Extensions 512, Lnx\n"
            "onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with AVX512BW\n",
            "avx512",
        ),
        (
            "aten AVX512\nMKL_VERBOSE oneMKL 2024 for Intel(R) Advanced Vector Extensions 2 (Intel(R) AVX2)\n"
            "onednn_verbose,v1,info,cpu,isa:Intel AVX 10.1\n",
            "onednn avx512, aten avx512, mkl avx2",
        ),
        ("aten AVX2\nonednn_verbose,v1,info,cpu,isa:Intel AVX2\n", "avx2"),
        ("aten DEFAULT\nonednn_verbose,v1,info,cpu,isa:Intel SSE4.1\n", "portable"),
        ("aten SVE256\n", "sve256"),
        ("", ""),
    ],
)
def test_what_torchs_libraries_tell(lines, expected):
    assert isa.told(lines) == expected
