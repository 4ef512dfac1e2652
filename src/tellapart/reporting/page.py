"""The report of a run as one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tellapart.reporting import (
    answer,
    classes,
    confusion,
    curves,
    data_section,
    gallery,
    model_section,
    reliability,
    robustness,
)
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, environment

if TYPE_CHECKING:
    from markupsafe import Markup

STYLE = "style.css"

MakeSection = Callable[[RunFacts, Pictures], Section | None]


# The page's sections in their order.
SECTIONS: tuple[MakeSection, ...] = (
    answer.section,
    curves.section,
    confusion.section,
    classes.section,
    gallery.section,
    reliability.section,
    robustness.section,
    data_section.section,
    model_section.section,
)


def render_page(facts: RunFacts, pictures: Pictures | None = None) -> str:
    """Return the report of a run as HTML: one file, no address outside of it, the same bytes for the same facts.

    Args:
        facts: what is reported.
        pictures: what makes its pictures; by default with the usual budget.
    """
    shown = Pictures.of(facts) if pictures is None else pictures
    found = [make(facts, shown) for make in SECTIONS]
    return frame(
        title=facts.name,
        subtitle=subtitle(facts),
        sections=[section for section in found if section is not None],
        notes=[facts.source_problem] if facts.source_problem else [],
        is_pixelated=shown.is_pixelated,
        made_by="tellapart report",
        styles=(STYLE, "figures.css"),
    )


def frame(
    *,
    title: str,
    subtitle: str,
    sections: list[Section],
    notes: list[str],
    made_by: str,
    is_pixelated: bool = False,
    styles: Sequence[str] = (STYLE,),
) -> str:
    """Return a whole page around sections: head, style, navigation, script.

    Args:
        title: the page's heading; anybody's words.
        subtitle: a line below it.
        sections: in their order.
        notes: sentences that stand above all sections.
        made_by: the command that makes this page.
        is_pixelated: whether pictures are so small that their pixels are to be seen.
        styles: files of `templates/` whose rules apply, in this order.
    """
    script, style = _template_text("script.js"), "".join(map(_template_text, styles))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            notes=notes,
            made_by=made_by,
            is_pixelated=is_pixelated,
            script=_markup(script),
            script_hash=f"sha256-{digest}",
            style=_markup(style),
        )
    )


def subtitle(facts: RunFacts) -> str:
    """Return the line below the run's name: what was trained on what.

    A path is shortened to its last part, which is what people call their data.
    """
    config = facts.config
    source = config.data.source
    data = "arrays" if source == "<arrays>" else source.rstrip("/").rpartition("/")[2] or source
    counts = ", ".join(
        f"{facts.split.num_given(name):,} {name}" for name in ("train", "val", "test") if facts.split.num_given(name)
    )
    return f"{config.model.name} at {config.preprocess.size_px} px on {data} ({counts} images)"


def _template_text(name: str) -> str:
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]


def _markup(text: str) -> Markup:
    """Return our own style or script as it is: quotes in it are no one else's."""
    from markupsafe import Markup

    return Markup(text)
