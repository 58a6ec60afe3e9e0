"""Pages of HTML that need nothing else: no network, no script; for a phone, the dark, and paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:auto;max-width:62rem;padding:1rem;color:#1b1b1b}
h1{font-size:1.5rem}h2{margin-top:2rem;border-bottom:1px solid #ccc}p.what{color:#555;max-width:45rem}
table{border-collapse:collapse;margin:.6rem 0;display:block;overflow-x:auto}
td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
td:first-child,th:first-child,.words td:nth-child(2),.words th:nth-child(2){text-align:left}
.words td:nth-child(2),th{white-space:normal}img{max-width:100%}.bad{color:#b00020;font-weight:600}.good{color:#0a6b2b}
figure{margin:1rem 0}.row{display:flex;flex-wrap:wrap;gap:1rem}.row figure{flex:1 1 20rem;max-width:40rem}
figcaption{color:#555;font-size:.9rem}nav a{margin-right:1rem}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#333}
p.what,figcaption{color:#aaa}a{color:#8ab4f8}img{background:#fff}}
@media print{body{max-width:none}h2{break-after:avoid}figure,tr{break-inside:avoid}table{display:table;font-size:.8rem}
td,th{white-space:normal}nav{display:none}}
"""
KINDS = {".png": "png", ".gif": "gif"}
"""Pictures that a page can hold."""


def page(title: str, parts: Sequence[str], *, refresh: int = 0) -> str:
    """The whole page; with ``refresh`` a browser asks for it again after so many seconds."""
    title = html.escape(title)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    head += f"<title>{title}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading that links can point at, and what is below it."""
    return f'<h2 id="{_anchor(title)}">{html.escape(title)}</h2>{"".join(parts)}'


def contents(titles: Sequence[str]) -> str:
    """Links to sections."""
    links = (f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title in titles)
    return f"<nav>{''.join(links)}</nav>"


def escaped(text: str) -> str:
    """Text as HTML shows it."""
    return html.escape(text)


def what(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="what">{html.escape(text)}</p>'


def warning(text: str) -> str:
    return f'<p class="bad">{html.escape(text)}</p>'


def row(parts: Sequence[str]) -> str:
    """Pictures beside each other, as far as there is room."""
    return f'<div class="row">{"".join(parts)}</div>'


def more(summary: str, lines: Sequence[str]) -> str:
    """Lines that a click unfolds."""
    items = "".join(f"<li>{html.escape(line.strip())}</li>" for line in lines)
    return f"<details><summary>{html.escape(summary)}</summary><ul>{items}</ul></details>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], raw: bool = False, words: bool = False) -> str:
    """Cells of text, or if ``raw`` of HTML; with ``words`` the second column has no numbers."""

    def escape(text: str) -> str:
        return text if raw else html.escape(text)

    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    kind = ' class="words"' if words else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(path: Path, caption: str = "") -> str:
    """A picture of one of ``KINDS``, in the page itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/{KINDS[path.suffix]};base64,{data}"
    return f'<figure><img alt="{html.escape(caption or path.stem)}" src="{source}">{below}</figure>'


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())
