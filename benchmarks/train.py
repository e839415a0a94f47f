"""Runs the trainings of the plan whose data is given, one after another; those that were stopped go on.

python benchmarks/train.py ptb=FOLDER conll2003=FOLDER
python benchmarks/train.py ptb=FOLDER --only zaremba-medium-nr-rh-st --epochs 15
python benchmarks/train.py ptb=FOLDER --only zaremba- --device cuda --runs runs/gpu

The tables of the documentation are of trainings on a CPU; what runs elsewhere leaves its folders alone.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from collect import RESULTS, collect, write_tables
from plan import DROPOUTS, TABLES, folder_name


def commands(
    data: dict[str, str], runs: Path, only: str, dropouts: Sequence[str] = DROPOUTS, device: str = "cpu"
) -> Iterator[tuple[str, Path, list[str]]]:
    """Data set, folder and command of every training that is not finished."""
    for table in TABLES:
        for training in table.trainings:
            if training.data not in data:
                continue
            for seed in range(training.seeds):
                for dropout in dropouts:
                    name = folder_name(training.data, training.preset, dropout, seed)
                    out = runs / name
                    if only not in name or (out / "result.json").exists():
                        continue
                    words = ["strop", *table.command.split(), "--out", str(out)]
                    if (out / "run.json").exists():
                        words.append("--resume")
                    else:
                        words += ["--preset", training.preset, "--dropout", dropout]
                        words += ["--data", data[training.data], "--seed", str(seed)]
                    words += ["--device", device] if device != "cpu" else []
                    yield training.data, out, words


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="the data sets that are at hand")
    parser.add_argument("--only", default="", help="part of the names of the trainings to run")
    parser.add_argument("--epochs", type=int, help="at most so many, where the whole is not affordable")
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
    for name, out, words in commands(data, given.runs, given.only, given.dropouts, given.device):
        words += ["--epochs", str(given.epochs)] if given.epochs else []
        print(" ".join(words), flush=True)
        done = subprocess.run([sys.executable, "-m", *words])
        if done.returncode:
            return done.returncode
        if given.device == "cpu":
            write_tables(collect([out], name, RESULTS), RESULTS, RESULTS.parent.parent / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
