"""Render the Markdown pages of all commands from the templates in `templates/`."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import jinja2

from passk.text import Form, Table, number_cell

if TYPE_CHECKING:  # `passk explain` does without
    import pandas as pd

_NOT_PROSE = ("|", "#", "- ", "```", "![")  # how blocks of tables, headings and the like begin


def markdown_page(name: str, **facts: Any) -> str:
    """Render `templates/NAME.md.j2`, in which a paragraph may have line breaks, and gaps be wide.

    Raises:
        jinja2.UndefinedError: the template names a fact that is missing.
    """
    blocks = (block.strip() for block in re.split(r"\n\s*\n", template_text(name, **facts)))
    return "\n\n".join(_unwrapped(block) for block in blocks if block) + "\n"


def template_text(name: str, **facts: Any) -> str:
    """Render `templates/NAME.md.j2` with its line breaks, but for `{% filter paragraph %}`."""
    return environment().get_template(f"{name}.md.j2").render(facts)


def _unwrapped(block: str) -> str:
    return block if block.startswith(_NOT_PROSE) else _paragraph(block).strip()


def _paragraph(text: str) -> str:
    """Put a paragraph on a line."""
    return " ".join(text.split()) + "\n"


def _table(
    rows: "pd.DataFrame", headings: Mapping[str, str], forms: Mapping[str, Form] | None = None
) -> str:
    """Format as Markdown the columns that `rows` has of `headings`; nothing for no rows."""
    known = {name: heading for name, heading in headings.items() if name in rows}
    return Table.of(rows.to_dict("records"), known, forms).markdown() if len(rows) else ""


@cache
def environment() -> jinja2.Environment:
    """Return what renders the files of `templates/`; text in HTML pages is escaped."""
    found = jinja2.Environment(
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        loader=jinja2.PackageLoader("passk.report", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number_cell, "repr": repr, "paragraph": _paragraph}
    found.filters["table"] = _table
    found.filters["json"] = partial(json.dumps, ensure_ascii=False)
    found.tests["finite"] = math.isfinite
    return found
