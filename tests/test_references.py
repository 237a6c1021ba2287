"""Links, file names and section numbers in documentation and code refer to things that exist."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("libs", "tools", "benchmarks", "tests", "configs", "docs", "data", "ckpt")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / folder / "README.md" for folder in ("data", "ckpt"))]
CODE = [*ROOT.glob("*.py"), *(path for folder in FOLDERS[:4] for path in (ROOT / folder).rglob("*.py"))]
TEXTS = [*PAGES, *CODE, *(ROOT / "configs").rglob("*.yaml"), ROOT / "Makefile", ROOT / ".ci/run"]
FILE = re.compile(
    r"(?<![\w./<-])(?:(?:libs|tools|benchmarks|tests|configs|docs)/[\w./-]*\w\.[a-z]+|[A-Z]{5,}\.(?:md|cff))\b"
)
CREATED_BY_EXAMPLES = {
    *(f"configs/{name}.yaml" for name in ("mine", "more", "music", "NAME", "ablations/no_label_smoothing")),
    "libs/media/encoders/mean.py",
    "libs/ops/_nms.so",
}


def find_anchors(page: Path) -> set[str]:
    """Find the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in find_anchors(target), f"{page}: {link}"


def test_mentioned_files_exist():
    mentions = {(path, name) for path in TEXTS for name in FILE.findall(path.read_text(encoding="utf-8"))}
    dead = [f"{path}: {name}" for path, name in mentions if not (ROOT / name).exists() | (name in CREATED_BY_EXAMPLES)]
    assert dead == []


def test_sections_of_method_exist():
    """`method.md §3.4` is item 4 of the list in section 3."""
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\d)\. .*?\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    mentions = {(path, *match) for path in TEXTS for match in re.findall(r"§(\d)(?:\.(\d))?", path.read_text("utf-8"))}
    for path, section, item in mentions:
        assert section in sections, f"{path}: §{section}"
        has_item = re.search(rf"^{item}\. ", sections[section], flags=re.MULTILINE)
        assert not item or has_item, f"{path}: §{section}.{item}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_has_no_placeholder(page):
    assert not re.findall(r"@[A-Z_]{2,}@", page.read_text(encoding="utf-8"))
