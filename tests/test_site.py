"""The site as a reader gets it: built strictly, no dead link or anchor, nothing fetched from elsewhere."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import PAGES, ROOT, prose

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.config.schema import FIELDS

LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
"""What a browser fetches by itself, by the tag's attribute."""


class Page(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, html):
        super().__init__()
        self.links, self.loads, self.anchors, self.text = [], [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in LOADED and attributes.get(LOADED[tag]) and attributes.get("rel") != "canonical":
            self.loads.append(attributes[LOADED[tag]])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page by its path; the check has built them already."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    place = os.environ.get("DREAMER_JAX_DOCS")
    if place is None:
        place = tmp_path_factory.mktemp("site")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr  # --quiet would let warnings pass
    return {path: Page(path.read_text()) for path in sorted(Path(place).rglob("*.html")) if path.name != "404.html"}


def test_no_link_and_no_anchor_is_dead(site):
    dead = defaultdict(list)
    for path, page in site.items():
        for link in [*page.links, *page.loads]:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (url.fragment and target in site and url.fragment not in site[target].anchors):
                dead[path.name].append(link)
    assert not dead, dict(dead)
    assert sum(len(page.links) for page in site.values()) > 1000


def test_nothing_is_fetched_from_elsewhere(site):
    elsewhere = {link for page in site.values() for link in page.loads if urlsplit(link).netloc}
    assert not elsewhere
    (top,) = {path.parent for path in site if (path.parent / "search").is_dir()}
    styles = list(top.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style


def test_every_command_and_setting_has_an_entry(site):
    pages = {path.relative_to(next(iter(site)).parent).as_posix(): page for path, page in site.items()}
    pages = {name.rpartition("reference/")[2]: page for name, page in pages.items() if "reference/" in name}
    (commands,) = [action for action in make_parser()._actions if action.dest == "command"]
    assert set(commands.choices) <= pages["commands.html"].anchors
    words = " ".join(pages["commands.html"].text)
    flags = [a.option_strings[-1] for sub in commands.choices.values() for a in sub._actions if a.option_strings]
    assert [flag for flag in flags if flag not in words and flag != "--help"] == []
    assert [name for name in FIELDS if name not in pages["settings.html"].anchors] == []
    assert "dreamer_jax.train" in pages["api/index.html"].anchors


def test_pages_can_be_read_as_files():
    """Their links lead to files, but for those to pages that the code writes."""
    generated = {ROOT / "docs" / "reference" / name for name in ("commands.md", "settings.md", "presets.md", "api")}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            target = (page.parent / urlsplit(link).path).resolve()
            known = urlsplit(link).scheme or target.exists() or generated & {target, *target.parents}
            assert known, f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_the_site(name):
    from markdown.extensions.toc import slugify

    for link in re.findall(r"\]\(([^)\s]+)\)", prose(ROOT / name)):
        url = urlsplit(link)
        if url.scheme:
            continue
        target = ROOT / url.path if url.path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if url.fragment:
            heads = re.findall(r"^#+ (.*)$", prose(target), flags=re.MULTILINE)
            assert url.fragment in {slugify(head, "-") for head in heads}, f"{name}: {link}"
