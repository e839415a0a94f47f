"""Runs the trainings of the plan whose data is given, one after another or several at once. Finished ones are
passed over, those that were stopped go on.

python benchmarks/train.py ptb=FOLDER conll2003=FOLDER
python benchmarks/train.py conll2003=FOLDER --jobs 2
python benchmarks/train.py ptb=FOLDER --only zaremba-medium-nr-rh-st --epochs 15
python benchmarks/train.py ptb=FOLDER --only zaremba- --device cuda --runs runs/gpu

The tables of the documentation are of trainings on a CPU; what runs elsewhere leaves its folders alone.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path

import torch
from collect import RESULTS, collect, write_tables
from plan import DROPOUTS, TABLES, folder_name

PICTURES = RESULTS.parent.parent / "docs"


def planned(
    data: dict[str, str], runs: Path, only: str, dropouts: Sequence[str] = DROPOUTS, device: str = "cpu"
) -> Iterator[tuple[str, Path, list[str]]]:
    """Data set, folder and command of every training whose name has `only` in it."""
    for table in TABLES:
        for training in table.trainings:
            if training.data not in data:
                continue
            for seed in range(training.seeds):
                for dropout in dropouts:
                    name = folder_name(training.data, training.preset, dropout, seed)
                    if only not in name:
                        continue
                    out = runs / name
                    words = ["strop", *table.command.split(), "--out", str(out)]
                    if (out / "run.json").exists():
                        words.append("--resume")
                    else:
                        words += ["--preset", training.preset, "--dropout", dropout]
                        words += ["--data", data[training.data], "--seed", str(seed)]
                    words += ["--device", device] if device != "cpu" else []
                    yield training.data, out, words


def finished(folder: Path) -> bool:
    return (folder / "result.json").exists()


def train(words: Sequence[str], log: Path | None) -> int:
    """Runs one training, its output in the file `log` if there is one; the exit status."""
    print(" ".join(words), *(["in", str(log)] if log else []), flush=True)
    with nullcontext() if log is None else log.open("a") as stream:
        return subprocess.run([sys.executable, "-m", *words], stdout=stream, stderr=stream).returncode


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
    options = ["--epochs", str(given.epochs)] if given.epochs else []
    if given.jobs > 1:
        options += ["--threads", str(max(1, torch.get_num_threads() // given.jobs))]
        given.runs.mkdir(parents=True, exist_ok=True)
    trainings = list(planned(data, given.runs, given.only, given.dropouts, given.device))

    def record(name: str, out: Path) -> None:
        if given.device == "cpu":
            write_tables(collect([out], name, RESULTS), RESULTS, PICTURES)

    for name, out, _ in trainings:
        if finished(out):
            record(name, out)
    with ThreadPoolExecutor(given.jobs) as pool:
        running = {
            pool.submit(train, words + options, Path(f"{out}.log") if given.jobs > 1 else None): (name, out)
            for name, out, words in trainings
            if not finished(out)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
