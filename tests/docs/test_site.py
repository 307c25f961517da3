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
            for name in ("REPOSITORY_URL", "EDIT_URL"):
                patch.setenv(name, f"https://git.example/a/b{'/edit/main/docs/' if name == 'EDIT_URL' else ''}")
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


def test_pages_can_be_edited_where_the_site_is_published(site, monkeypatch):
    from mkdocs.config import load_config

    page = (site / "how_to" / "lora.html").read_text(encoding="utf-8")
    assert "https://git.example/a/b/edit/main/docs/how_to/lora.md" in page
    # The workflow that publishes says where; nobody else does
    workflow = (REPOSITORY / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8")
    assert re.search(
        r"EDIT_URL: \$\{\{ github.server_url \}\}/\$\{\{ github.repository \}\}/edit/main/docs/", workflow
    )
    for name in ("REPOSITORY_URL", "EDIT_URL"):
        monkeypatch.delenv(name, raising=False)
    config = load_config(str(REPOSITORY / "mkdocs.yml"))
    assert config.repo_url is None and not config.edit_uri


def test_the_changelog_is_a_page(site):
    page = (site / "changelog.html").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings and all(heading in page for heading in headings)


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
