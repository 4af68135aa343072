"""HTML of a page that loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

_CSS = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;
color:#1c1917}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}p{max-width:75ch}
table{border-collapse:collapse}.wide{overflow-x:auto}
td,th{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #e7e5e4}
td:first-child,th:first-child,.text td,.text th{text-align:left}th{font-weight:600;color:#57534e}
.text td{vertical-align:top;overflow-wrap:anywhere}.text td:first-child{white-space:nowrap}
.grid td,.grid th{padding:.15rem;border:0;text-align:center;font-size:.8rem}
.grid img{display:block;border-radius:3px}
.grid td:first-child{font-size:.75rem;color:#57534e;width:8rem;text-align:left;
overflow-wrap:anywhere}
.key span{display:inline-block;margin:0 .9rem .3rem 0}
.key i{display:inline-block;width:.9em;height:.9em;border-radius:2px;margin-right:.35em;
vertical-align:-.1em}
figure{margin:0}figure svg{max-width:100%;height:auto}small{color:#57534e}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A page of parts, which are escaped HTML; the title is escaped here."""
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_CSS}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """HTML of a table; what it says is escaped here.

    Args:
        head: titles of the columns; without any text, there is no row of titles.
        body: rows of cells.
        text: whether the cells are text, not numbers.
    """
    names = "".join(f"<th>{html.escape(column)}</th>" for column in head)
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    titles = f"<tr>{names}</tr>" if any(head) else ""
    kind = " class=text" if text else ""
    return f"<div class=wide><table{kind}>{titles}{cells}</table></div>"
