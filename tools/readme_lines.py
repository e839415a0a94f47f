"""The lines of README.md, run one after another as they stand there.

A training is stopped by Ctrl-C once it has told how far it is, and must have saved. FOLDER is a folder with a
small data set of the task's kind. `make demo`, which installs in one more way, must only say beforehand how
long it takes.
"""

import random
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INTERRUPTED = 130


def follow(sources: Path, folder: Path, variables: Mapping[str, str], install: Callable[[str], str]) -> None:
    """Runs the lines of the README in `sources`, which has data put beside it in `folder`.

    Args:
        variables: the environment's; its PATH has what was installed.
        install: runs a line that begins with `pip install`; what it prints.

    Raises:
        RuntimeError: a line fails, or does not do what it should.
    """
    text = (sources / "README.md").read_text(encoding="utf-8")
    lines = [
        line.removeprefix("$ ").partition("#")[0].strip()
        for block in CONSOLE.findall(text)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    expect({"pip", "make", "strop"} <= {line.split()[0] for line in lines}, f"README's lines: {lines}")
    for line in lines:
        print(f"check-install: $ {line}", flush=True)
        if line.startswith("pip install"):
            fetched = re.findall(r"(?:Downloading|Using cached) (\S+)", install(line))
            large = [each for each in fetched if re.search(r"(^|/)(torch|nvidia|triton)\W", each)]
            expect(not large, f"{line}: downloaded beside the torch that was there: {large}")
        elif line == "make demo":
            said = run(["make", "--dry-run", "demo"], sources, variables)
            told, begun = said.find("the demo takes at most"), said.find("/strop demo")
            expect(0 <= told < begun, f"{line}: does not say beforehand how long it takes")
        elif line.startswith("strop train"):
            train(line, folder, sources, variables)
        elif not line.startswith(". "):  # the environment is active already
            print(run(["bash", "-ec", line], sources, variables).strip(), flush=True)
    print("check-install: the README's Python", flush=True)
    run(["python", "-c", "\n".join(PYTHON.findall(text))], folder, variables)


def train(line: str, folder: Path, sources: Path, variables: Mapping[str, str]) -> None:
    """Begins a training and stops it."""
    data = folder / line.split()[2]
    if "FOLDER" in line and not data.exists():
        write(data)
    words = line.replace("FOLDER", str(data)).split()
    process = subprocess.Popen(
        words, cwd=sources, env=dict(variables), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    said = []
    for told in process.stdout:
        said.append(told)
        if re.match(r"epoch [\d.]+/\d+ · step ", told):
            process.send_signal(signal.SIGINT)
            break
    said += process.communicate()[0].splitlines(keepends=True)
    expect(
        process.returncode == INTERRUPTED and f"to go on: strop {words[1]} {words[2]} --out" in said[-1],
        f"{line}: status {process.returncode}\n{''.join(said)}",
    )
    print(said[-1].strip(), flush=True)


def write(folder: Path) -> None:
    """A small data set for `strop train` with the name of `folder`."""
    folder.mkdir()
    draw = random.Random(1)
    for split, name, count in (
        ("train", "train", 2000),
        ("valid", "val", 50),
        ("test", "test_2016_flickr", 50),
    ):
        texts = [[f"word{draw.randrange(200)}" for _ in range(draw.randint(3, 12))] for _ in range(count)]
        if folder.name == "ner":
            rows = ("".join(f"{word} {'B-PER' if word[-1] == '7' else 'O'}\n" for word in t) for t in texts)
            (folder / f"{split}.txt").write_text("\n".join(rows))
        elif folder.name == "nmt":
            for language in ("en", "de"):
                lines = (" ".join(word + language for word in t) + "\n" for t in texts)
                (folder / f"{name}.lc.norm.tok.{language}").write_text("".join(lines))
        else:
            (folder / f"{split}.txt").write_text("".join(" ".join(t) + "\n" for t in texts))


def run(words: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """What a command prints."""
    done = subprocess.run(
        words, cwd=folder, env=dict(variables), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    expect(done.returncode == 0, f"{' '.join(words)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)
