"""The English text that every Python installation carries, for runs without a data set.

Documents are the language reference's topics (`pydoc_data.topics`) and the docstrings of each module of
the standard library, read from the sources by `ast`, so nothing is imported and nothing depends on what
else is installed or on the hash seed. The text follows the Python version.
"""

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

# Packages that some distributions leave out (the text shall be the same), and generated tables.
_MODULES = sys.stdlib_module_names - {"distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "tkinter"}
_TESTS = {"test", "tests"}
_TOPICS = "pydoc_data/topics.py"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+")
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_HELD_OUT = 1 / 12  # of all words, for valid and for test each: the proportion of Penn Treebank
_ENOUGH_WORDS = 50_000


class NoSourcesError(Exception):
    """This Python was installed without the sources of its standard library."""


def documentation(root: Path | None = None) -> dict[str, list[list[str]]]:
    """Lines (one sentence each) of lower-cased words, numbers as `N`, for "train", "valid" and "test".

    Whole documents are held out. A paragraph that stands in several documents is kept in the first only,
    valid and test before train, so that no held-out paragraph is trained on. `root` is the standard
    library's folder.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    # Ordered by a digest of their names: topics and modules are mixed, the same way everywhere.
    documents = sorted(_documents(folder), key=lambda item: sha256(item[0].encode()).digest())
    sizes = [len(_WORD.findall(text.lower())) for _, text in documents]
    if sum(sizes) < _ENOUGH_WORDS:
        raise NoSourcesError(f"{folder}: the standard library's sources hold only {sum(sizes)} words")
    room = {"valid": int(sum(sizes) * _HELD_OUT), "test": int(sum(sizes) * _HELD_OUT)}
    members: dict[str, list[str]] = {"valid": [], "test": [], "train": []}
    for (_, text), size in zip(documents, sizes, strict=True):
        split = next((split for split, left in room.items() if size <= left), "train")
        if split in room:
            room[split] -= size
        members[split].append(text)
    seen: set[str] = set()
    return {
        split: [line for text in texts for line in _lines(text, seen)] for split, texts in members.items()
    }


def _documents(folder: Path) -> Iterator[tuple[str, str]]:
    for file in _sources(folder):
        parts = file.relative_to(folder).parts
        if not _TESTS.isdisjoint(parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler thinks of its own library's escapes
            tree = ast.parse(file.read_bytes())
        name = "/".join(parts)
        if name == _TOPICS:
            yield from _topics(tree)
        elif text := "\n\n".join(_docstrings(tree)):
            yield name, text


def _sources(folder: Path) -> Iterator[Path]:
    """The modules' files, without a walk through all that is installed beside them."""
    for name in {*_MODULES, _TOPICS.partition("/")[0]}:
        file = folder / f"{name}.py"
        if file.is_file():
            yield file
        if (folder / name).is_dir():
            yield from (folder / name).rglob("*.py")


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for name, text in ast.literal_eval(node.value).items():
                yield f"topics/{name}", text


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module and of all that it defines, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
        text := ast.get_docstring(node)
    ):
        yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _docstrings(child)


def _lines(text: str, seen: set[str]) -> Iterator[list[str]]:
    for paragraph in _PARAGRAPH.split(text):
        if ">>>" in paragraph:  # a doctest, not English
            continue
        key = " ".join(_WORD.findall(paragraph.lower()))
        if key in seen:
            continue
        seen.add(key)
        for sentence in _SENTENCE.split(paragraph.lower()):
            if words := ["N" if word[0].isdecimal() else word for word in _WORD.findall(sentence)]:
                yield words
