"""Converts models of projects that train recurrent networks, as installed from the package registry.

    python -m venv clients && clients/bin/pip install -r benchmarks/clients/requirements.txt
    clients/bin/pip install --no-deps joeynmt OpenNMT-py recbole supar
    clients/bin/pip install . && clients/bin/python benchmarks/clients/try_clients.py [NAME ...]

Each model of ``clients.py`` is made with its own constructor and converted by one line, once with the
dropouts that it has and once with recurrent dropout added; ``strop.convert`` itself compares the results in
evaluation. Forward and backward of all three are timed in turn, with the native kernels that ``pip install
.`` builds. Rows are appended to ``benchmarks/results/clients.csv``; ``--table`` prints what the file has last
of each project as the table of docs/convert.md. A project that cannot be imported is named and passed over.
Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
import os
import warnings
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from clients import CLIENTS, Client
from torch import nn

import strop
from strop.bench import machine
from strop.bench.measure import Case, Percentiles, interleave, now
from strop.conversion.watch import arguments, tensors

CSV = Path(__file__).parents[1] / "results" / "clients.csv"
CPU = torch.device("cpu")


def step(model: nn.Module, given: Any) -> Case:
    """Forward, and backward of all outputs."""
    args, kwargs = arguments(given)

    def once(_: int) -> dict[str, float]:
        start = now(CPU)
        outputs = [each for each in tensors(model(*args, **kwargs)) if each.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])
        taken = now(CPU) - start
        model.zero_grad()
        return {"step": taken}

    return once


def measure(client: Client, seconds: float) -> dict[str, Any] | None:
    """The row of a project; None if it is not here."""
    torch.manual_seed(0)
    try:
        model, given = client.make()
    except Exception as error:
        print(f"{client.package}: cannot be made here: {type(error).__name__}: {error}")
        return None
    models = {"own": deepcopy(model), "added": deepcopy(model)}
    report = strop.convert(models["own"], example_inputs=given)
    with_states = strop.convert(models["added"], recurrent_dropout=0.5, example_inputs=given)
    cases = {name: step(each.train(), given) for name, each in {"torch": model, **models}.items()}
    samples = interleave(cases, seconds)
    ms = {name: Percentiles.of([1e3 * each for each in own["step"]]).p50 for name, own in samples.items()}
    print(f"\n{client.package} {version(client.package)}\n{with_states}")
    row: dict[str, Any] = {"package": client.package, "version": version(client.package)}
    row |= {"what": client.what, "swapped": len(report.swapped), "taken_over": len(report.taken_over)}
    row |= {"taken_over_added": len(with_states.taken_over)}
    row |= {f"{name}_ms": f"{each:.4g}" for name, each in ms.items()}
    row |= {f"gain_{name}": f"{ms['torch'] / ms[name]:.3f}" for name in ("own", "added")}
    print(f"own dropout {row['gain_own']}x, recurrent dropout added {row['gain_added']}x")
    return {**row, **asdict(machine.provenance(CPU))}


def table() -> str:
    """The table of the documentation."""
    with CSV.open(newline="") as file:
        rows = {(row["package"], row["isa"]): row for row in csv.DictReader(file)}
    lines = [
        "| project | what | by | swapped, taken over | own dropout | recurrent dropout added |",
        "|---|---|---|---|---|---|",
    ]
    for client in CLIENTS:
        found = [rows[key] for isa in ("avx2", "avx512") if (key := (client.package, isa)) in rows]
        if found:
            last = found[-1]
            gains = [
                ", ".join(f"{float(row[f'gain_{name}']):.2f}" for row in found) for name in ("own", "added")
            ]
            done = f"{last['swapped']}, {last['taken_over']}"
            lines.append(
                f"| {client.package} {last['version']} | {client.what} | `{client.recipe}` | {done} | "
                f"{gains[0]} | {gains[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="packages; all if not given")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure each")
    parser.add_argument("--dry", action="store_true", help="do not append to the results")
    parser.add_argument("--table", action="store_true", help="print the table of the documentation alone")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    for client in CLIENTS:
        if options.names and client.package not in options.names:
            continue
        try:
            row = measure(client, options.seconds)
        except Exception as error:
            print(f"{client.package}: {type(error).__name__}: {error}")
            continue
        if row is not None and not options.dry:
            new = not CSV.exists()
            with CSV.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
