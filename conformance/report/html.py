"""The HTML report: one self-contained file, a pure function of the record.

No clock, no environment and no request to anywhere: the same record gives the same bytes, and the file reads
the same from a disk, in a mail or behind a server. Everything that comes from the record is escaped by the
template engine; the content security policy of the page allows its own style and script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from conformance.ratio import LEVEL
from conformance.record import Record
from conformance.report import chart, heat, speed_chart
from conformance.report.bench import make_speed, make_speed_page
from conformance.report.speed import is_benchmark
from conformance.report.terms import differing
from conformance.report.view import make_page
from conformance.report.wording import block, exact, number, share, visible

_PACKAGE: Final = "conformance.report"


def render_html(record: Record) -> str:
    """The report as one HTML document."""
    style, script = part("report.css"), part("report.js")
    alone = is_benchmark(record)
    template = page_environment().get_template("bench_page.html.j2" if alone else "report.html.j2")
    return template.render(
        page=make_speed_page(record) if alone else make_page(record),
        speed=make_speed(record),
        speed_level=f"{LEVEL:.0%}",
        speed_size=(speed_chart.WIDTH, speed_chart.NAME, speed_chart.TOP),
        growth_size=(
            *(speed_chart.WIDTH, speed_chart.HEIGHT, speed_chart.LEFT, speed_chart.WIDTH - speed_chart.RIGHT),
            *(speed_chart.TOP, speed_chart.HEIGHT - speed_chart.BOTTOM),
        ),
        style=Markup(style),  # noqa: S704  our own file
        script=Markup(script),  # noqa: S704  our own file
        policy=f"default-src 'none'; style-src '{style_digest(style)}'; script-src '{style_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        chart_size=(chart.WIDTH, chart.HEIGHT),
        chart_edges=(chart.LEFT, chart.WIDTH - chart.RIGHT, chart.TOP, chart.HEIGHT - chart.BOTTOM),
        heat_edges=(heat.LEFT, heat.TOP),
        gauge_size=(chart.GAUGE_WIDTH, chart.GAUGE_BOUND),
    )


@cache
def page_environment() -> Environment:
    """The template engine of reports: everything from a record is escaped, and a missing name is an error."""
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "num": _num,
        "exactly": _exactly,
        "share": _share,
        "block": block,
        "breakable": _breakable,
        "differing": _differing,
        "quoted": _quoted,
    }
    return environment


def _final(value: Any) -> Any:
    """What may be written: text made harmless, and whole numbers; any other number must say how."""
    match value:
        case Markup():
            return value
        case str():
            return visible(value)
        case int() if not isinstance(value, bool):
            return value
        case _:
            raise TypeError(f"a report cannot show {type(value).__name__} as it stands")


def _num(value: float | None, digits: int = 6) -> Markup:
    """A number that shows some digits and holds all of them."""
    return Markup('<data value="{}">{}</data>').format(exact(value), number(value, digits))


def _exactly(text: str, value: float | None) -> Markup:
    """A number already written as `text` that holds all digits of `value`."""
    return Markup('<data value="{}">{}</data>').format(exact(value), text)


def _share(value: float | None) -> Markup:
    """A residual as a multiple of its bound."""
    return Markup('<data value="{}">{}</data>').format(exact(value), share(value))


def _breakable(name: str) -> Markup:
    """A name that may be broken where a reader would break it."""
    pieces = re.split(r"(?<=[_:=@/-])(?=[^_:=@/-])", visible(name))
    return Markup("<wbr>").join(pieces)


def _quoted(text: str) -> Markup:
    """A sentence whose `commands` stand between backticks."""
    code = Markup('<code class="id">{}</code>')
    pieces = visible(text).split("`")
    paired = pieces if len(pieces) % 2 else [*pieces[:-2], f"{pieces[-2]}`{pieces[-1]}"]
    return Markup().join(code.format(piece) if place % 2 else escape(piece) for place, piece in enumerate(paired))


def _differing(text: str, other: str) -> Markup:
    """An equation with the terms marked that another one does not have."""
    marked = Markup('<mark class="term">{}</mark>')
    pieces = (marked.format(piece) if differs else escape(piece) for piece, differs in differing(text, other))
    return Markup().join(pieces)


@cache
def part(name: str) -> str:
    """A file that stands beside the templates."""
    return resources.files(_PACKAGE).joinpath("templates", name).read_text(encoding="utf-8").strip()


def style_digest(text: str) -> str:
    """The digest by which a content security policy knows a style or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
