"""The pages in docs/athena/zh say what the English ones say: the same headings, examples, tables, code and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ATHENA = Path(__file__).parents[2] / "docs" / "athena"
CHINESE = ATHENA / "zh"
PAGES = sorted(page.name for page in ATHENA.glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"[ \t]*(?:^|(?<=\s))# .*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """Return the page without its blocks of code."""
    return BLOCK.sub("", page.read_text())


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Return the blocks of code with their languages; comments of TOML and the shell may be translated."""
    translated = {"sh", "bash", "toml"}
    return [
        (language, COMMENT.sub("", code) if language in translated else code)
        for language, code in BLOCK.findall(page.read_text())
    ]


def headings_of(page: Path) -> list[tuple[str, str]]:
    """Return the level and anchor of each heading: what GitHub derives from it, or what is written before it."""
    found = re.findall(r"^(#{2,}) (?:<a id=\"([^\"]+)\"></a>)?(.+)$", text_of(page), re.MULTILINE)
    return [(level, anchor or re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")) for level, anchor, text in found]


def links_of(page: Path) -> Counter[str]:
    """Return the targets of the links as paths, as if all pages were in one language."""
    return Counter(_target(page, link) for link in LINK.findall(text_of(page)))


def _target(page: Path, link: str) -> str:
    if "://" in link:
        return link
    path, mark, anchor = link.partition("#")
    target = (page.parent / path).resolve()
    assert target.exists(), f"{page.name}: there is nothing at {link}"
    found = ATHENA / target.name if target.parent == CHINESE else target
    return f"{found}{mark}{anchor}"


def code_in(text: str) -> set[str]:
    """Return the pieces of code in the text; in English, some continue on the next line."""
    return set(re.findall(r"`([^`]+)`", re.sub(r"\s+", " ", text)))


def numbers_in(text: str) -> Counter[str]:
    return Counter(re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?!\w)", text, re.ASCII))


def test_every_page_has_both_languages() -> None:
    assert sorted(page.name for page in CHINESE.glob("*.md")) == PAGES
    assert len(PAGES) > 8


@pytest.mark.parametrize("name", PAGES)
def test_headings_and_anchors_are_the_same(name: str) -> None:
    assert headings_of(CHINESE / name) == headings_of(ATHENA / name)


@pytest.mark.parametrize("name", PAGES)
def test_examples_are_the_same(name: str) -> None:
    assert blocks_of(CHINESE / name) == blocks_of(ATHENA / name)


@pytest.mark.parametrize("name", PAGES)
def test_links_are_the_same(name: str) -> None:
    assert links_of(CHINESE / name) == links_of(ATHENA / name)


@pytest.mark.parametrize("name", PAGES)
def test_tables_and_lists_have_the_same_rows(name: str) -> None:
    chinese, english = (
        [re.match(r"\||- |\d\. ", line) is not None and line[0] for line in text_of(folder / name).splitlines()]
        for folder in (CHINESE, ATHENA)
    )
    assert [one for one in chinese if one] == [one for one in english if one]


@pytest.mark.parametrize("name", PAGES)
def test_names_and_values_are_the_same(name: str) -> None:
    """A setting, option, field or code that only one language mentions is a change that the other page lacks."""
    assert code_in(text_of(CHINESE / name)) == code_in(text_of(ATHENA / name))


@pytest.mark.parametrize("name", PAGES)
def test_numbers_are_the_same(name: str) -> None:
    """Limits, codes and time limits are digits in both languages, or words in both."""
    assert numbers_in(text_of(CHINESE / name)) == numbers_in(text_of(ATHENA / name))


@pytest.mark.parametrize("name", PAGES)
def test_each_page_links_to_the_other_language_first(name: str) -> None:
    """Links between pages stay in one language, except that one; the index names the pages in both."""
    assert LINK.search(text_of(ATHENA / name)).group(1) == f"zh/{name}"  # type: ignore[union-attr]
    links = LINK.findall(text_of(CHINESE / name))
    assert links[0] == f"../{name}"
    if name != "README.md":
        assert [link for link in links[1:] if re.fullmatch(r"\.\./[\w-]+\.md.*", link)] == []
