import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from strop.bench import report
from strop.bench.machine import Provenance
from strop.bench.peers import PeerRecord
from strop.bench.records import Record, append_csv

HERE = Provenance(
    "2026-01-02T00:00:00Z", "abc", "Some CPU", 2, 2, "3.11.7", "2.13.0", "0.1.0", "native avx512"
)
OVERALL = Record(
    "layer", "zaremba-large", "cpu", "nr-rh-st", "overall", 199, 200, 201.04, 3.25, 2.5, 2.857, 400, 0.8
)
TEXT = "# Title\n\n<!-- table:layer -->\nold\n<!-- /table -->\n\nText.\n"


def rows(file: Path, where: Provenance = HERE, *more: Record) -> None:
    append_csv(file, where, 9, 500.0, [OVERALL, replace(OVERALL, phase="fp", speedup_vs_dense=2.4), *more])


def options(tmp_path: Path, text: str = TEXT, check: bool = False) -> report.Options:
    file = tmp_path / "README.md"
    if not file.exists():
        file.write_text(text)
    return report.Options((file,), results=tmp_path, check=check)


def test_writes_then_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows(tmp_path / "layer.csv")
    assert report.run(options(tmp_path, check=True)) == 1
    assert "README.md: not up to date: layer; run strop bench tables" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == TEXT
    assert report.run(options(tmp_path)) == 0
    text = (tmp_path / "README.md").read_text()
    heading = "Some CPU, 2 threads, fp32, AVX-512 in strop, torch 2.13.0, Python 3.11.7, 2026-01-02; p50"
    assert text.startswith(f"# Title\n\n<!-- table:layer -->\n{heading}")
    assert (
        "| zaremba-large | strop NR+RH+ST | 2.86x | 200.0 (199.0 to 201.0) | 3.25x | 80% |\n"
        "<!-- /table -->\n\nText.\n"
    ) in text
    assert report.run(options(tmp_path, check=True)) == 0
    assert report.run(options(tmp_path)) == 0
    assert "up to date" in capsys.readouterr().out


def test_takes_the_newest_of_each_machine(tmp_path: Path):
    rows(tmp_path / "a.csv", replace(HERE, date="2026-03-01T00:00:00Z"))
    append_csv(tmp_path / "b.csv", HERE, 9, 500.0, [replace(OVERALL, speedup_vs_torch=9.87)])
    append_csv(
        tmp_path / "b.csv", replace(HERE, threads=1), 9, 500.0, [replace(OVERALL, speedup_vs_torch=4.56)]
    )
    report.run(options(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert "3.25x" in text
    assert "9.87x" not in text
    assert "1 thread, fp32" in text
    assert "4.56x" in text


def test_phases_have_a_table(tmp_path: Path):
    rows(tmp_path / "layer.csv")
    assert report.run(options(tmp_path, TEXT.replace("layer", "layer-phases"))) == 0
    assert (
        "| zaremba-large | strop NR+RH+ST | 200.0 (199.0 to 201.0) | 3.25x | 2.40x |  |  | 2.86x | 80% |\n"
    ) in (tmp_path / "README.md").read_text()


def test_instruction_sets_stand_side_by_side(tmp_path: Path):
    """Of one machine: another with the same name has caches of other sizes, and a table of its own."""
    sizes = {"l1d_kb": 48, "l2_kb": 2048, "l3_kb": 3072}
    wide = replace(HERE, isa="avx512", torch_isa="onednn avx512, aten avx512, mkl avx2", **sizes)
    limited = replace(wide, date="2026-01-03T00:00:00Z", backend="native avx2", isa="avx2", torch_isa="avx2")
    other = replace(limited, l2_kb=512)
    rows(tmp_path / "layer.csv", wide, replace(OVERALL, preset="nmt-luong"))
    rows(tmp_path / "layer.csv", limited)
    append_csv(tmp_path / "layer.csv", limited, 9, 500.0, [replace(OVERALL, speedup_vs_torch=1.25)])
    rows(tmp_path / "layer.csv", other)
    assert report.run(options(tmp_path)) == 0
    large, small = (tmp_path / "README.md").read_text().split("Some CPU, ")[1:]
    assert small.startswith(
        "L1d 48 KB a core, L2 512 KB a core, L3 3 MB, 2 threads, fp32, AVX2 on both sides,"
    )
    assert large.startswith(
        "L1d 48 KB a core, L2 2 MB a core, L3 3 MB, 2 threads, fp32, AVX-512 in strop "
        "(onednn AVX-512, aten AVX-512, mkl AVX2 in torch) and AVX2 on both sides, torch 2.13.0, "
        "Python 3.11.7, 2026-01-02 and 2026-01-03; p50 (p20 to p80):\n"
    )
    three = "forward + backward, ms | over `nn.LSTM` | of peak"
    assert f"| preset |  | ideal | AVX-512: {three} | AVX2: {three} |\n" in large
    assert f"| preset |  | ideal | AVX2: {three} |\n" in small
    time = "200.0 (199.0 to 201.0)"
    assert (
        f"| zaremba-large | strop NR+RH+ST | 2.86x | {time} | 3.25x | 80% | {time} | 1.25x | 80% |\n" in large
    )
    assert f"| nmt-luong | strop NR+RH+ST | 2.86x | {time} | 3.25x | 80% |  |  |  |\n" in large


def test_rows_of_older_versions_are_read(tmp_path: Path):
    file, new = tmp_path / "layer.csv", ("isa", "torch_isa", "l1d_kb", "l2_kb", "l3_kb")
    rows(file)
    lines = list(csv.DictReader(file.read_text().splitlines()))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [name for name in lines[0] if name not in new], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    before = report.render("layer", tmp_path)
    append_csv(file, replace(HERE, date="2025-01-01T00:00:00Z"), 9, 500.0, [OVERALL])  # adds the columns
    assert report.render("layer", tmp_path) == before


def test_instruction_sets_that_were_asked_for_have_tables_of_their_own(tmp_path: Path):
    slower, newer = replace(OVERALL, speedup_vs_torch=1.25), "2026-06-01T00:00:00Z"
    rows(tmp_path / "a.csv", replace(HERE, backend="native avx512"))
    avx2 = replace(HERE, backend="native avx2", date=newer)
    append_csv(tmp_path / "b.csv", avx2, 9, 500.0, [slower, replace(slower, preset="nmt-luong")])
    other = replace(avx2, cpu="Old CPU", date=HERE.date)
    append_csv(tmp_path / "b.csv", other, 9, 500.0, [replace(OVERALL, speedup_vs_torch=1.75)])
    text = TEXT.replace("layer", "layer-phases") + TEXT.replace("layer", "layer-avx2")
    assert report.run(options(tmp_path, text)) == 0
    default, asked = (tmp_path / "README.md").read_text().split("layer-avx2")
    assert "3.25x" in default
    assert "1.75x" in default  # the best that the old CPU has
    assert "1.25x" not in default
    assert asked.count("1.25x") == 2
    assert "3.25x" not in asked


def test_what_ran_in_bfloat16_has_a_table_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = TEXT + TEXT.replace("layer", "layer-bf16")
    rows(tmp_path / "layer.csv")
    assert report.run(options(tmp_path, text)) == 1
    assert "run strop bench layer --bf16" in capsys.readouterr().err
    rounded = replace(OVERALL, bench="layer-bf16", speedup_vs_torch=5.25)
    append_csv(tmp_path / "layer-bf16.csv", HERE, 9, 500.0, [rounded])
    assert report.run(options(tmp_path, text)) == 0
    plain, own = (tmp_path / "README.md").read_text().split("layer-bf16")
    assert "3.25x" in plain
    assert "fp32" in plain
    assert "5.25x" not in plain
    assert "2 threads, autocast to bfloat16, AVX-512 in strop, torch" in own
    assert "5.25x" in own


def test_peers_have_a_table(tmp_path: Path):
    own = {"software": "jax 1.0", "first_seconds": 12.34, "best": "jax", "speedup_vs_best": 1.0}
    jax = replace(OVERALL, bench="peers", preset="lstm-650", impl="jax")
    peer = PeerRecord(**asdict(jax), **own)
    ours = replace(peer, impl="rh-st", first_seconds=0.04, speedup_vs_best=4.5)
    append_csv(tmp_path / "peers.csv", HERE, 9, 500.0, [ours, peer])
    assert report.run(options(tmp_path, TEXT.replace("layer", "peers"))) == 0
    assert (
        "| lstm-650 | JAX `lax.scan` | 200.0 (199.0 to 201.0) | 12.3 | 1.00x | 80% |\n"
        "| lstm-650 | strop RH+ST | 200.0 (199.0 to 201.0) | 0.0 | 4.50x | 80% |\n"
    ) in (tmp_path / "README.md").read_text()


def test_an_empty_table_waits_for_its_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows(tmp_path / "layer.csv")
    empty = "<!-- table:peers -->\n<!-- /table -->\n"
    assert report.run(options(tmp_path, TEXT + empty)) == 0
    assert (tmp_path / "README.md").read_text().endswith(empty)
    captured = capsys.readouterr()
    assert "layer written" in captured.out
    assert "no row of peers; run strop bench peers --csv" in captured.err


def test_other_names_show_their_file(tmp_path: Path):
    (tmp_path / "perplexity.csv").write_text('model,valid\n"a, b",83.6\n')
    text = "<!-- table:perplexity -->\n<!-- /table -->\n"
    assert report.run(options(tmp_path, text)) == 0
    assert "| model | valid |\n| --- | --- |\n| a, b | 83.6 |\n" in (tmp_path / "README.md").read_text()


def test_what_ran_with_nothing_dropped_is_summed_up(tmp_path: Path):
    of_gru = "GRU,{p},0.0,training,{isa},{torchs},{kernels}"
    lines = [
        "cell,input_p,recurrent_p,phase,isa,operator_ms,kernels_ms",
        *(of_gru.format(p=0.0, isa="avx2", torchs=torchs, kernels=2) for torchs in (1, 2, 3, 4, 9)),
        of_gru.format(p=0.0, isa="avx512", torchs=3, kernels=1),
        of_gru.format(p=0.5, isa="avx512", torchs=90, kernels=1),  # drops
        of_gru.format(p=0.0, isa="avx512", torchs="", kernels=1),  # one of the times alone
    ]
    (tmp_path / "routes.csv").write_text("\n".join(lines))
    assert report.render("nothing-dropped", tmp_path).splitlines() == [
        "| layer |  | times measured | AVX-512: over torch's | AVX2: over torch's |",
        "| --- | --- | --- | --- | --- |",
        "| `nn.GRU` | forward + backward | 6 | **3.00x** (3.00 to 3.00) | **1.50x** (0.90 to 2.50) |",
    ]
    (tmp_path / "routes.csv").write_text("\n".join((lines[0], lines[7])))
    with pytest.raises(LookupError, match="nothing is dropped"):
        report.render("nothing-dropped", tmp_path)


def test_train_table_counts_tokens(tmp_path: Path):
    rows(tmp_path / "x.csv", HERE, replace(OVERALL, bench="train", impl="torch"))
    text = TEXT.replace("layer", "train")
    assert report.run(options(tmp_path, text)) == 0
    assert (
        "| zaremba-large | `torch.nn.LSTM` | 200.0 (199.0 to 201.0) | 3,500 | 3.25x |"
        in (tmp_path / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT, "no row of layer; run strop bench layer --csv"),
        (
            TEXT.replace("layer", "absent"),
            "absent.csv: no such file, and table:absent is none of layer, layer-phases, train",
        ),
        (TEXT.replace("<!-- /table -->", ""), "a table has no end"),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str):
    assert report.run(options(tmp_path, text)) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == text


def test_missing_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert report.run(report.Options((tmp_path / "none.md",), results=tmp_path)) == 1
    assert "none.md" in capsys.readouterr().err
