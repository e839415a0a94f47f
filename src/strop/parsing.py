"""A command's words become its dataclass `Options`, and `--help` tells of its fields, by tyro.

Where `Options` has `groups`, fields by the title of their group, these are shown one after another;
`table()` is a table that the help begins with. Field docs are those of `Attributes:` in the docstrings."""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

_WIDEST = 100
_ATTRIBUTE = re.compile(r"^(\w+): (.*)$")


def parse(kind: Any, prog: str, arguments: Sequence[str], default: Any = None) -> Any:
    """The options in `arguments`, all others as in `default` or in the class. Ends the process for
    `--help`, and with status 2 for words that are no options. Raises ValueError for an empty word."""
    _expect_values(arguments)
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(describe(kind), end="\n\n")  # tyro would make one line of each paragraph
    groups: Mapping[str, Sequence[str]] | None = getattr(kind, "groups", None)
    # None is the absence of an option: in usage and messages it would only puzzle.
    settings: Any = {
        "description": "",
        "prog": prog,
        "args": list(arguments),
        "config": (tyro.conf.DisallowNone,),
    }
    if groups is None:
        return tyro.cli(kind, **settings, **({} if default is None else {"default": default}))
    parts = tyro.cli(_grouped(kind, groups, default), **settings)
    chosen = {name: getattr(getattr(parts, group), name) for group, names in groups.items() for name in names}
    return kind(**chosen)


def _expect_values(arguments: Sequence[str]) -> None:
    """Raises ValueError for an empty word: as a path it would be the current folder, which nobody named."""
    for before, word in pairwise(["", *arguments]):
        if word == "" or (word.startswith("--") and word.endswith("=")):
            name = word.removesuffix("=") or (before if before.startswith("--") else "argument")
            raise ValueError(f"{name}: empty; give a value, or leave it out")


def describe(kind: Any) -> str:
    """The help's first lines: the class's docstring up to its fields, and its table, as wide as the
    terminal."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    text = textwrap.dedent("    " + (kind.__doc__ or "")).partition("\nAttributes:")[0]
    parts = [_wrapped(paragraph, width) for paragraph in text.strip().split("\n\n")]
    table = getattr(kind, "table", None)
    return "\n\n".join([*parts, *([] if table is None else [table()])])


def _wrapped(paragraph: str, width: int) -> str:
    """Lines that end in a colon introduce a command, which is a line of its own; code is indented."""
    if paragraph.startswith(" "):
        return paragraph
    lines: list[str] = []
    for line in re.split(r"(?<=:)\n", paragraph):
        lines += textwrap.wrap(" ".join(line.split()), width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _grouped(kind: Any, groups: Mapping[str, Sequence[str]], default: Any) -> type:
    """A dataclass with a dataclass for each group of fields."""
    own: dict[str, Field[Any]] = {each.name: each for each in fields(kind)}
    missing = own.keys() ^ {name for names in groups.values() for name in names}
    assert not missing, f"{kind}: in groups or fields alone: {missing}"
    hints, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    parts = []
    for group, names in groups.items():
        members = []
        for name in names:
            value = own[name].default if default is None else getattr(default, name)
            hint = hints[name]
            if value is None:  # "(default: None)" says nothing
                hint = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
            members.append((name, hint) if value is MISSING else (name, hint, field(default=value)))
        part = make_dataclass(group, members, frozen=True)
        lines = (f"    {name}: {docs[name]}" for name in names)
        part.__doc__ = "\n".join(["Options.", "", "Attributes:", *lines])
        parts.append(
            (
                group,
                tyro.conf.OmitArgPrefixes[Annotated[part, tyro.conf.arg(help="")]],
                field(default_factory=part),
            )
        )
    return dataclass(make_dataclass(kind.__name__, parts))


def _docs(kind: Any) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field, on one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        text = textwrap.dedent("    " + (each.__doc__ or "")).partition("\nAttributes:\n")[2]
        name = ""
        for line in textwrap.dedent(text).splitlines():
            if match := _ATTRIBUTE.match(line):
                name = match[1]
                found[name] = match[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found
