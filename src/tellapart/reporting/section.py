"""A part of the page, and the one place where templates become HTML."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tellapart.auditing.findings import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: what the page's navigation points at; lower-case letters and dashes.
        title: its heading.
        html: what stands below the heading; everything in it is escaped already. Headings in it begin with `<h3>`.
    """

    id: str
    title: str
    html: Markup


def render(template: str, **values: Any) -> Markup:
    """Return a file of `templates/` filled in. Values are escaped, unless they are `Markup` already.

    Templates have these filters: `printable` (names and paths of strangers), `count` (1,234), `percent` (64.7%) and
    `number` (four significant digits); the last two show a dash for what is not defined (None, NaN).
    """
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(**values))


@functools.cache
def environment() -> Environment:
    """Return the environment of all templates: everything is escaped, and a name that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("tellapart.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    made.filters |= {"printable": printable, "count": count, "percent": percent, "number": number}
    return made


def count(value: int) -> str:
    """Return a whole number with commas.

    >>> count(10000)
    '10,000'
    """
    return f"{value:,}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, or a dash where it is not defined.

    >>> percent(0.6472), percent(None), percent(float("nan"))
    ('64.7%', '–', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, or a dash where it is not defined.

    >>> number(0.123456), number(1234567.0), number(None)
    ('0.1235', '1,234,567', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
