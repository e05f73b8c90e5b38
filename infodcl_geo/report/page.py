"""One HTML page that needs nothing but itself: no script, no network, every text that comes from files escaped."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..text import csv_cell, escape
from .figures import DARK, LIGHT, Picture


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Args:
        name: letters, digits and hyphens: its id and the name of its file.
        title: what it shows.
        headers, rows: cells as text; ``rows`` have as many as ``headers``.
        caption: how to read it.
        wide: whether cells hold long texts, which wrap.
    """

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    wide: bool = False

    def csv(self) -> str:
        """The table as a file; no spreadsheet takes a cell for a formula, unless it is a number."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([csv_cell(cell) for cell in self.headers])
        # A dash alone stands for no value, and is no formula.
        writer.writerows(
            [[cell if cell == "-" or _is_number(cell) else csv_cell(cell) for cell in row] for row in self.rows]
        )
        return text.getvalue()


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    absent: str = ""
    """why there is nothing to show, if so"""


@dataclass
class Chapter:
    """What is shown of one data set."""

    title: str
    note: str = ""
    sections: list[Section] = field(default_factory=list)


def _text(value: object) -> str:
    return html.escape(escape(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _download(name: str, kind: str, content: str) -> str:
    mime = {"csv": "text/csv;charset=utf-8", "svg": "image/svg+xml"}[kind]
    data = base64.b64encode(content.encode("utf-8", "replace")).decode("ascii")
    return f'<a class="get" download="{name}.{kind}" href="data:{mime};base64,{data}">{kind.upper()}</a>'


def _table(table: Table) -> str:
    numeric = [
        all(_is_number(row[n].partition(" ±")[0].removeprefix("< ")) or row[n] in ("", "-") for row in table.rows)
        for n in range(len(table.headers))
    ]
    kinds = [' class="n"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{k}>{_text(cell)}</th>' for cell, k in zip(table.headers, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(
            f'<th scope="row"{k}>{_text(cell)}</th>' if n == 0 else f"<td{k}>{_text(cell)}</td>"
            for n, (cell, k) in enumerate(zip(row, kinds, strict=True))
        ) + "</tr>"
        for row in table.rows
    )  # fmt: skip
    caption = f"<p>{_text(table.caption)}</p>" if table.caption else ""
    title, kind = _text(table.title), "scroll wide" if table.wide else "scroll"
    return (
        f'<div class="table" id="{table.name}"><h4>{title} {_download(table.name, "csv", table.csv())}</h4>'
        f'<div class="{kind}" tabindex="0" role="region" aria-label="{title}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{caption}</div>\n"
    )


def _figure(picture: Picture) -> str:
    inline = picture.inline.replace("<svg", f'<svg role="img" aria-label="{_text(picture.title)}"', 1)
    return (
        f'<figure id="{picture.name}"><h4>{_text(picture.title)} {_download(picture.name, "svg", picture.file)}</h4>'
        f"{inline}<figcaption>{_text(picture.caption)}</figcaption></figure>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section><h3>{_text(section.title)}</h3>\n"]
    if section.absent:
        parts.append(f'<p class="absent">{_text(section.absent)}</p>\n')
    parts += map(_table, section.tables)
    if section.pictures:
        parts.append(f'<div class="figures">\n{"".join(map(_figure, section.pictures))}</div>\n')
    return "".join([*parts, "</section>\n"])


def render(title: str, subtitle: str, chapters: Sequence[Chapter], notes: Sequence[str]) -> str:
    """The page.

    Args:
        title, subtitle: of the page.
        chapters: one a data set.
        notes: what could not be used, and other things to know, a line each.
    """
    body = []
    for chapter in chapters:
        note = f'<p class="note">{_text(chapter.note)}</p>\n' if chapter.note else ""
        body.append(f"<h2>{_text(chapter.title)}</h2>\n{note}{''.join(map(_section, chapter.sections))}")
    if notes:
        lines = "".join(f"<li>{_text(line)}</li>" for line in notes)
        body.append(f"<section><h3>Notes</h3><ul>{lines}</ul></section>\n")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f'<body><main><h1>{_text(title)}</h1>\n<p class="sub">{_text(subtitle)}</p>\n'
        f"{''.join(body)}</main></body></html>\n"
    )


def _colours(series: Sequence[str], **named: str) -> str:
    pairs = {**{f"s{n}": colour for n, colour in enumerate(series)}, **named}
    return "".join(f"--{name}:{colour};" for name, colour in pairs.items())


_STYLE = (
    f"""
:root{{color-scheme:light dark;{
        _colours(LIGHT, ink="#1b1b1e", soft="#5a5a62", paper="#ffffff", card="#f6f6f8", grid="#c4c4ca", link="#005a94")
    }}}
@media (prefers-color-scheme:dark){{:root{{{
        _colours(DARK, ink="#ececef", soft="#a9a9b2", paper="#16171a", card="#202227", grid="#4a4c55", link="#7cc0f2")
    }}}}}"""
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1,h2,h3,h4,p,li,figcaption{overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0}
h2{font-size:1.35rem;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--grid)}
h3{font-size:1.1rem;margin:2rem 0 .6rem}
h4{font-size:.95rem;margin:0 0 .5rem;font-weight:600}
.sub,figcaption,.table p,.absent{color:var(--soft);font-size:.875rem;margin:.4rem 0}
.note{background:var(--card);border-left:4px solid var(--s1);padding:.6rem .8rem;margin:.5rem 0}
.table{margin:0 0 1.5rem}
.scroll{overflow-x:auto;border:1px solid var(--grid);border-radius:6px}
table{border-collapse:collapse;font-size:.875rem;width:100%}
th,td{padding:.35rem .7rem;text-align:left;vertical-align:top;border-top:1px solid var(--grid);white-space:nowrap}
thead th{border-top:0;background:var(--card);font-weight:600}
tbody th{font-weight:600}
thead th{white-space:normal;min-width:4rem}
.n{text-align:right;font-variant-numeric:tabular-nums}
.wide td,.wide th{white-space:normal;min-width:5.5rem;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:1rem}
figure{margin:0;min-width:0;padding:.9rem;background:var(--card);border-radius:8px}
svg{display:block;width:100%;height:auto;max-width:560px;margin:0 auto}
.get{font-size:.75rem;font-weight:500;color:var(--link);border:1px solid var(--grid);border-radius:4px;
padding:.1rem .45rem;margin-left:.35rem;text-decoration:none;white-space:nowrap}
.get:hover,.get:focus-visible{border-color:var(--link)}
@media print{.get{display:none}figure{break-inside:avoid}}
"""
)
