"""README and documentation: their Python runs, their tables are current, their links lead somewhere."""

import re
from pathlib import Path

import pytest

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
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if TABLE.search(page.read_text())], ids=name)
def test_tables_are_current(page):
    for table, shown in TABLE.findall(page.read_text()):
        try:
            assert shown == report.render(table, ROOT / "benchmarks" / "results"), (
                f"{table}: run strop report --file {name(page)}"
            )
        except LookupError:
            assert shown == "", f"{table}: shown, but not measured"
