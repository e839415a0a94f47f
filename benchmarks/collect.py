"""Results of finished `strop train lm` runs as results/NAME.csv, with a copy of each learning curve."""

import argparse
import csv
import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from strop.bench.machine import cpu_model
from strop.tasks.language import DROPOUTS, PRESETS, Options

RESULTS = Path(__file__).parent / "results"

# Sarma et al. (NeurIPS 2021), Table 1: valid and test perplexity on the Penn Treebank.
PAPER = {
    ("zaremba-medium", "nr-random"): ("86.20", "82.70"),
    ("zaremba-medium", "nr-st"): ("86.60", "83.01"),
    ("zaremba-medium", "nr-rh-st"): ("83.64", "80.84"),
    ("zaremba-large", "nr-random"): ("82.20", "78.40"),
    ("zaremba-large", "nr-st"): ("85.42", "82.39"),
    ("zaremba-large", "nr-rh-st"): ("79.38", "76.05"),
}
# Options that change neither the model nor its training.
INCIDENTAL = {"data", "out", "resume", "threads", "evaluations", "checkpoint_seconds", "tensorboard"}


def collect(run: Path, name: str, results: Path) -> dict[str, str]:
    """The table's row of a finished run; its learning curve is copied."""
    options = json.loads((run / "run.json").read_text())["options"]
    result = json.loads((run / "result.json").read_text())
    valid, test = PAPER.get((options["preset"], options["dropout"]), ("", "")) if name == "ptb" else ("", "")
    curve = results / f"{name}-{options['preset']}-{options['dropout']}-curve.csv"
    shutil.copyfile(run / "curve.csv", curve)
    return {
        "preset": options["preset"],
        "dropout": options["dropout"],
        "epochs": f"{result['rows'][-1]['epoch']:g}",
        "valid": f"{result['best']['valid_perplexity']:.2f}",
        "test": f"{result['test']['perplexity']:.2f}",
        "paper's valid": valid,
        "paper's test": test,
        "hours of training": f"{result['train_seconds'] / 3600:.2f}",
        "on": cpu_model(),
        "command": f"`{command(options, name)}`",
    }


def command(options: dict[str, Any], name: str) -> str:
    """What was typed, without what does not matter."""
    words = ["strop train lm", f"--preset {options['preset']}", f"--dropout {options['dropout']}"]
    words.append(f"--data {name}")
    shown = INCIDENTAL | {"preset", "dropout"}
    for field in fields(Options):
        value = options.get(field.name, field.default)
        if field.name not in shown and value != field.default:
            flag = "--" + field.name.replace("_", "-")
            words.append(flag if value is True else f"{flag} {value}")
    return " ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs; unfinished ones are left out")
    parser.add_argument("--name", required=True, help="of the text and of the CSV file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    given = parser.parse_args()
    rows = [collect(run, given.name, given.results) for run in given.runs if (run / "result.json").is_file()]
    if not rows:
        print("none of these runs is finished", file=sys.stderr)
        return 1
    order = [f"{preset} {dropout}" for preset in PRESETS for dropout in DROPOUTS]
    rows.sort(key=lambda row: order.index(f"{row['preset']} {row['dropout']}"))
    file = given.results / f"{given.name}.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{file}: {len(rows)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
