"""Runs the trainings of the plan whose data is given, one after another or several at once. Finished ones are
passed over; those that were stopped, or trained for fewer epochs than are asked for now, go on.

python benchmarks/train.py ptb=FOLDER conll2003=FOLDER
python benchmarks/train.py conll2003=FOLDER --jobs 2
python benchmarks/train.py ptb=FOLDER --only zaremba-medium-nr-rh-st --epochs 15
python benchmarks/train.py ptb=FOLDER --only zaremba- --device cuda --runs runs/gpu

The tables of the documentation are of trainings on a CPU; what runs elsewhere leaves its folders alone.
"""

import argparse
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from collect import RESULTS, collect, write_tables
from plan import DROPOUTS, TABLES, folder_name

from strop.training import DESCRIPTION, RESULT, read_curve

PICTURES = RESULTS.parent.parent / "docs"


def planned(
    data: dict[str, str],
    runs: Path,
    only: str,
    dropouts: Sequence[str] = DROPOUTS,
    device: str = "cpu",
    epochs: int | None = None,
) -> Iterator[tuple[str, Path, list[str], bool]]:
    """Every training whose name has `only` in it: data set, folder, command, whether it has all its epochs.

    Those are the preset's, or `epochs` if these are fewer.
    """
    for table in TABLES:
        for training in table.trainings:
            if training.data not in data:
                continue
            whole: int = table.presets[training.preset].epochs
            wanted = min(whole, epochs or whole)
            for seed in range(training.seeds):
                for dropout in dropouts:
                    name = folder_name(training.data, training.preset, dropout, seed)
                    if only not in name:
                        continue
                    out = runs / name
                    words = ["strop", *table.command.split(), "--out", str(out)]
                    if (out / "run.json").exists():
                        words += ["--resume", "--epochs", str(wanted)]
                    else:
                        words += ["--preset", training.preset, "--dropout", dropout]
                        words += ["--data", data[training.data], "--seed", str(seed)]
                        words += ["--epochs", str(wanted)] if wanted < whole else []
                    words += ["--device", device] if device != "cpu" else []
                    yield training.data, out, words, finished(out, wanted)


def finished(folder: Path, epochs: int) -> bool:
    """Whether the run there was tested after so many epochs, or is beyond them."""
    curve = folder / "curve.csv"
    done = max((row["epoch"] for row in read_curve(curve)), default=0.0) if curve.exists() else 0.0
    return done > epochs or (done == epochs and (folder / "result.json").exists())


def train(words: Sequence[str], log: Path | None) -> int:
    """Runs one training, its output in the file `log` if there is one; the exit status.

    Without tyro, which the command line needs, its options are read here.
    """
    program = ["-m", *words] if find_spec("tyro") else [str(Path(__file__).parent / "options.py"), *words[1:]]
    print(" ".join(words), *(["in", str(log)] if log else []), flush=True)
    with nullcontext() if log is None else log.open("a") as stream:
        return subprocess.run([sys.executable, *program], stdout=stream, stderr=stream).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="the data sets that are at hand")
    parser.add_argument("--only", default="", help="part of the names of the trainings to run")
    parser.add_argument("--epochs", type=int, help="at most so many, where the whole is not affordable")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at once, which share the CPU's threads"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--dropouts", nargs="+", choices=DROPOUTS, default=DROPOUTS, help="which kinds")
    parser.add_argument("--device", default="cpu", help="where to train, e.g. cuda")
    parser.add_argument("--archive", type=Path, help="a .tgz for curves and results, in place of the tables")
    given = parser.parse_args()
    known = {training.data for table in TABLES for training in table.trainings}
    data = dict(pair.partition("=")[::2] for pair in given.data)
    for name, folder in data.items():
        if name not in known or not folder:
            parser.error(
                f"{name}={folder}: NAME=FOLDER is needed, NAME being one of {', '.join(sorted(known))}"
            )
    if given.jobs < 1:
        parser.error(f"--jobs {given.jobs}: at least 1 is needed")
    if given.epochs is not None and given.epochs < 1:
        parser.error(f"--epochs {given.epochs}: at least 1 is needed")
    options = []
    if given.jobs > 1:
        options = ["--threads", str(max(1, torch.get_num_threads() // given.jobs))]
        given.runs.mkdir(parents=True, exist_ok=True)
    trainings = list(planned(data, given.runs, given.only, given.dropouts, given.device, given.epochs))

    def record(name: str, out: Path) -> None:
        if given.device == "cpu" and given.archive is None:
            write_tables(collect([out], name, RESULTS), RESULTS, PICTURES)

    for name, out, _, complete in trainings:
        if complete:
            record(name, out)
    with ThreadPoolExecutor(given.jobs) as pool:
        running = {
            pool.submit(train, words + options, Path(f"{out}.log") if given.jobs > 1 else None): (name, out)
            for name, out, words, complete in trainings
            if not complete
        }
        try:
            for done in as_completed(running):
                if code := done.result():
                    return code
                record(*running[done])
        except KeyboardInterrupt:  # reaches those that run too: they save what they have, and are waited for
            return 130
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if given.archive is not None:
                archive(given.runs, given.archive)
    return 0


def archive(runs: Path, file: Path) -> None:
    """One file of all that tells of the runs: curves, pictures, descriptions and results, no weights."""
    with tarfile.open(file, "w:gz") as whole:
        for kept in sorted(runs.glob("*/*")):
            if kept.name.startswith("curve.") or kept.name in (RESULT, DESCRIPTION):
                whole.add(kept, kept.relative_to(runs))


if __name__ == "__main__":
    sys.exit(main())
