"""Self-contained HTML pages people open from disk, from a bucket or inside the Kubeflow UI: no script, no link out.

They stay far below a megabyte whatever is in them, as the Kubeflow UI wants it: long tables and texts are cut, and say so.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

MAXIMUM_ROWS = 300
MAXIMUM_CELL = 300
MAXIMUM_TEXT = 2_000

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink:#1d2430; --soft:#5d6878; --line:#dfe4ea; --good:#11734b; --bad:#b3261e; --warn:#8a5a00; --accent:#2457c5;
  --paper:#fff; --tint:#f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa5b4; --line:#343c48; --good:#5cc99a; --bad:#ff8f85;
  --warn:#e6b450; --accent:#8fb2ff; --paper:#14181f; --tint:#1c222b; } .figure { background:#fff; border-radius:6px } }
* { box-sizing:border-box }
body { margin:0 auto; padding:2rem 1.25rem 4rem; max-width:70rem; color:var(--ink); background:var(--paper);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
h1 { font-size:1.7rem; line-height:1.2; margin:0 0 .4rem } h2 { font-size:1.15rem; margin:2.2rem 0 .6rem }
.lead { font-size:1.05rem; margin:.2rem 0 1rem; max-width:50rem } .note { color:var(--soft); font-size:.9rem; max-width:50rem }
.badge { display:inline-block; padding:.1rem .6rem; border-radius:1rem; font-weight:600; font-size:.85rem;
  border:1px solid currentColor; vertical-align:middle; margin-left:.6rem }
.good { color:var(--good) } .bad { color:var(--bad) } .warn { color:var(--warn) }
.scroll { overflow-x:auto } table { border-collapse:collapse; font-size:.92rem; min-width:24rem; margin:.3rem 0 }
th,td { padding:.38rem .6rem; border-bottom:1px solid var(--line); text-align:left; vertical-align:top }
td:last-child:not(.number) { min-width:11rem }
th { color:var(--soft); font-weight:600; white-space:nowrap } td.number,th.number { text-align:right;
  font-variant-numeric:tabular-nums; white-space:nowrap } tbody tr:hover { background:var(--tint) }
.figure { padding:.4rem } .figure svg { max-width:100%; height:auto }
footer { margin-top:3rem; padding-top:.8rem; border-top:1px solid var(--line); color:var(--soft); font-size:.85rem }
</style></head><body>
<h1>{{ title }}{% if badge %}<span class="badge {{ badge.kind }}">{{ badge.text }}</span>{% endif %}</h1>
{% for text in lead %}<p class="lead">{{ text }}</p>{% endfor %}
{% for section in sections %}
{% if section.title %}<h2>{{ section.title }}</h2>{% endif %}
{% for text in section.text %}<p>{{ text }}</p>{% endfor %}
{% for table in section.tables %}<div class="scroll"><table><thead><tr>
{% for head in table.headers %}<th{% if loop.index0 in table.numbers %} class="number"{% endif %}>{{ head }}</th>{% endfor %}
</tr></thead><tbody>{% for row in table.rows %}<tr>
{% for cell in row %}<td class="{% if loop.index0 in table.numbers %}number{% endif %}{% if cell.kind %} {{ cell.kind }}{% endif %}">
{{- cell.text -}}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% if table.left_out %}<p class="note">… and {{ "{:,}".format(table.left_out) }} more rows: the whole is in the JSON file beside this page.</p>{% endif %}
{% endfor %}
{% for svg in section.figures %}<div class="figure">{{ svg }}</div>{% endfor %}
{% for text in section.notes %}<p class="note">{{ text }}</p>{% endfor %}
{% endfor %}
{% if footer %}<footer>{{ footer }}</footer>{% endif %}
</body></html>
"""


@dataclass(frozen=True)
class Cell:
    """A table cell or badge; `kind` is `good`, `bad`, `warn` or empty."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells or plain values; `numbers` are the indices of right-aligned columns."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables, figures (Matplotlib) and small print, in this order."""

    title: str = ""
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A page: title with an optional badge, a lead a hurried reader stops after, sections, a footer."""

    title: str
    lead: Sequence[str] = ()
    badge: Cell | None = None
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""

    def html(self) -> str:
        """The page as one self-contained HTML document; every text is escaped."""
        sections = [
            {
                "title": s.title,
                "text": [_cut(text) for text in s.text],
                "tables": [_table(t) for t in s.tables],
                "figures": [Markup(_svg(f)) for f in s.figures],
                "notes": [_cut(text) for text in s.notes],
            }
            for s in self.sections
        ]
        template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
        return template.render(
            title=self.title,
            lead=[_cut(text) for text in self.lead],
            badge=self.badge,
            sections=sections,
            footer=self.footer,
        )


def new_figure(width: float = 7.5, height: float = 3.2) -> Any:
    """A Matplotlib figure that needs no display; use its `subplots()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _table(table: Table) -> dict[str, Any]:
    rows = [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in table.rows[:MAXIMUM_ROWS]]
    rows = [[Cell(_cut(cell.text, MAXIMUM_CELL), cell.kind) for cell in row] for row in rows]
    left_out = max(0, len(table.rows) - MAXIMUM_ROWS)
    return {"headers": table.headers, "rows": rows, "numbers": set(table.numbers), "left_out": left_out}


def _cut(text: str, most: int = MAXIMUM_TEXT) -> str:
    return text if len(text) <= most else text[:most] + " …"


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date make equal figures equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "limaml", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
