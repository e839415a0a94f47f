"""README and documentation: their Python runs, tables and pictures are current, links lead somewhere.

Links to headings are checked by `make docs`.
"""

import inspect
import re
import runpy
from pathlib import Path

import pytest
from torch import nn

import strop
from strop import cli, hardware
from strop.bench import report

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
TABLE = re.compile(r"<!-- table:([\w-]+) -->\n(.*?)<!-- /table -->", re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=name)
def test_python_blocks_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in BLOCK.finditer(text):
        # Blank lines in front, so that a traceback tells the page's own line.
        lines = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_fits_a_page(page):
    lines = [line for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    assert [line for line in lines if len(line) > 80] == []


def test_the_readmes_figures_are_measured():
    text = (ROOT / "README.md").read_text()
    tables = "".join(shown for page in PAGES for _, shown in TABLE.findall(page.read_text()))
    figures = re.findall(r"\*\*([\d.]+x)\*\*", text)
    assert len(figures) >= 3
    assert [figure for figure in figures if f" {figure} " not in tables] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if TABLE.search(page.read_text())], ids=name)
def test_tables_are_current(page):
    for table, shown in TABLE.findall(page.read_text()):
        try:
            assert shown == report.render(table, ROOT / "benchmarks" / "results"), (
                f"{table}: run strop bench tables {name(page)}"
            )
        except LookupError:
            assert shown == "", f"{table}: shown, but not measured"


def test_pictures_are_current():
    pictures = runpy.run_path(str(ROOT / "docs" / "draw_masks.py"))["pictures"]()
    for file, drawn in pictures.items():
        assert (ROOT / "docs" / file).read_text() == drawn, f"{file}: run python docs/draw_masks.py"


def test_predictions_are_current():
    made = runpy.run_path(str(ROOT / "docs" / "draw_hardware.py"))["results"]()
    for file, text in made.items():
        current = (ROOT / "benchmarks" / "results" / file).read_text()
        assert current == text, f"{file}: run python docs/draw_hardware.py"


REFERENCE_PAGE = (ROOT / "docs" / "reference.md").read_text()
REFERENCE = re.findall(r"^   (strop\.[\w.]+)$", REFERENCE_PAGE, re.MULTILINE)


def test_the_reference_has_all_that_is_public():
    modules = ("functional", "backends")  # the second has a table
    public = [f"strop.{name}" for name in strop.__all__ if name not in modules]
    assert all(f"`strop.backends.{name}" in REFERENCE_PAGE for name in strop.backends.__all__)
    public += [f"strop.functional.{name}" for name in strop.functional.__all__]
    results = ["strop.conversion.Report", "strop.conversion.Entry"]  # of convert
    # What is no table of presets.
    results += [f"strop.hardware.{name}" for name in hardware.__all__ if not name.isupper()]
    assert sorted(REFERENCE) == sorted([*public, *results])


def test_the_reference_has_every_command(capsys):
    cli.main(["--help"])
    lines = re.findall(r"^  strop (.{14})", capsys.readouterr().out, re.MULTILINE)
    commands = [line.strip() for line in lines]
    told = re.findall(r"^\| `strop ([^`]+)`", REFERENCE_PAGE, re.MULTILINE)
    assert sorted(told) == sorted(commands)


def documented(name: str) -> object:
    found: object = strop
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", REFERENCE)
def test_docstrings_tell_every_argument(name):
    found = documented(name)
    text = inspect.getdoc(found) or ""
    assert text
    layer = inspect.isclass(found) and issubclass(found, nn.Module)  # torch's arguments come first
    parameters = inspect.signature(found).parameters.values()
    asked = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY or not layer]
    assert not [argument for argument in asked if not re.search(rf"^ +{argument}: ", text, re.MULTILINE)]
    if not inspect.isclass(found):
        return
    members = {key: member for base in found.__mro__[::-1] for key, member in vars(base).items()}
    for key, member in members.items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and not key.startswith("_") and function.__module__[:6] == "strop.":
            assert function.__doc__, f"{name}.{key}"
