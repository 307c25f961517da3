"""The documentation builds without a warning, whole, and asks nothing of the network."""

import logging
import re

import pytest
from helpers import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.utils import CountHandler

    folder = tmp_path_factory.mktemp("site")
    warnings = CountHandler()
    warnings.setLevel(logging.WARNING)
    logger = logging.getLogger("mkdocs")
    logger.addHandler(warnings)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)
            patch.setenv("NO_MKDOCS_2_WARNING", "1")
            config = load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True)
            build(config)  # raises at the first page's end if there was a warning
    finally:
        logger.removeHandler(warnings)
    assert warnings.get_counts() == []
    return folder


def test_every_page_is_there(site):
    excluded = re.search(r"exclude_docs: \|\n((?:  \S+\n)+)", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    excluded = excluded[1].split() if excluded else []
    for path in (REPOSITORY / "docs").rglob("*.md"):
        page = path.relative_to(REPOSITORY / "docs")
        assert page.as_posix() in excluded or (site / page.with_suffix(".html")).is_file(), page


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]* rel=\"?stylesheet\"?[^>]* href=\"?([^\" >]+)", text)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page


def test_docstrings_are_rendered(site):
    page = (site / "api" / "trainer.html").read_text(encoding="utf-8")
    assert "dropped_weight" in page
    assert "completion_rendering" in page
    # Links as TRL writes them are code, not brackets; sections are tables, not text
    assert "[<code>" not in page
    assert page.count("doc-section-title") >= 4
    types = [text for text in re.findall(r"<code>([^<]*)</code>", page) if "optional" in text]
    assert len(types) > 5
    assert not [text for text in types if "`" in text or "*" in text]
    for page in (site / "api").glob("*.html"):
        assert "doc-heading" in page.read_text(encoding="utf-8"), page
