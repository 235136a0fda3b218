"""How reports write numbers, counts, and strings that nobody vouches for.

Names, messages, standard error and links come from frameworks and from record files, so they are hostile until
shown otherwise: control and direction-changing characters become visible escapes, long text is cut visibly, and
a link is a link only when its scheme is http or https.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

LIMIT: Final = 20_000
LABEL: Final = 160
# `judge` writes an infinite share as this, since a record holds no infinities.
UNBOUNDED: Final = 1e300
_DEEPEST: Final = 8

# Unassigned ones, too: two of them (U+FFFE, U+FFFF) are in no XML document.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    """`text` with every invisible character but line feed and tab written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _HIDDEN else _escape(c) for c in text)


def inert(text: str) -> str:
    """Text that goes to a log in which a workflow reads commands: what looks like one is none.

    A command begins a line, whatever blanks are before it; one in the old form, ``##[``, stands anywhere.
    """
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1\\:", text).replace("##[", "##\\[")


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clipped(text: str, limit: int = LIMIT, *, tail: bool = False) -> str:
    """At most `limit` characters of `text`, from its end when `tail`; says how many are left out."""
    omitted = len(text) - limit
    if omitted <= 0:
        return text
    note = f"[{omitted} characters left out]"
    return f"{note} ...{text[omitted:]}" if tail else f"{text[:limit]}... {note}"


def one_line(text: str) -> str:
    """Text that stays on its line, harmless and of bounded length."""
    return visible(clipped(text)).replace("\n", "\\n").replace("\t", "\\t")


def label(text: str) -> str:
    """A name on one line, short enough to stand in a table."""
    return one_line(clipped(text, LABEL))


def block(text: str, *, tail: bool = False) -> str:
    """Text of several lines, harmless and of bounded length."""
    return visible(clipped(text, tail=tail))


def web_link(link: str) -> str:
    """`link` when it may become an href, else ""."""
    if len(link) > 2_000 or not link.isascii() or not link.isprintable() or " " in link:
        return ""
    try:
        parts = urlsplit(link)
    except ValueError:
        return ""
    return link if parts.scheme in ("http", "https") and parts.netloc else ""


def number(value: float | None, digits: int = 6) -> str:
    """`value` to `digits` significant digits; None is a number that was not finite."""
    if value is None:
        return "not finite"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{'-' if m[1] == '-' else ''}{m[2]}", f"{value:.{digits}g}")


def exact(value: float | None) -> str:
    """`value` to the last bit."""
    return number(value) if value is None or not math.isfinite(value) else repr(float(value))


def share(value: float | None) -> str:
    """A residual as a multiple of its bound; 1 is what decides, so nothing else is rounded to it."""
    if value is not None and value >= UNBOUNDED:
        return "infinite"
    if value is not None and math.isfinite(value) and 1000 <= value < 1e6:
        return f"{value:,.0f}"
    texts = (number(value, digits) for digits in range(3, 18))
    return next(text for text in texts if text != "1" or value == 1.0)


def apart(first: float | None, second: float | None) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart, and at least six."""
    for digits in (6, 9, 12, 15, 17):
        pair = number(first, digits), number(second, digits)
        if pair[0] != pair[1] or first == second:
            break
    return pair


def count(amount: int, noun: str, plural: str = "") -> str:
    """`amount` and its noun: "1 trial", "2 trials"."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], last: str = "and", most: int = 0) -> str:
    """Names as an English list; beyond `most` (if given) only their number."""
    shown = list(names)
    if most and len(shown) > most:
        shown = [*shown[:most], f"{len(names) - most} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def as_float(value: Any) -> float | None:
    """A number of a nested list, or what stands for one in a case; None for null and for anything that is no number."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def array_text(values: Any, depth: int = 0) -> str:
    """A nested list as aligned text, one line per row, one block per leading index; None is "not finite"."""
    if not isinstance(values, list):
        return exact(as_float(values))
    if depth > _DEEPEST:
        return "nested too deeply to be an array"
    if values and all(isinstance(row, list) and row and isinstance(row[0], list) for row in values):
        return "\n".join(f"[{index}]\n{array_text(row, depth + 1)}" for index, row in enumerate(values))
    rows = values if values and all(isinstance(row, list) for row in values) else [values]
    cells = [[exact(as_float(value)) for value in row] for row in rows]
    width = max((len(cell) for row in cells for cell in row), default=0)
    return "\n".join("  ".join(cell.rjust(width) for cell in row) for row in cells)


def elements(values: Any, index: tuple[int, ...] = ()) -> list[tuple[tuple[int, ...], float | None]]:
    """Every number of a nested list with its index; what is no number counts as None."""
    if isinstance(values, list):
        if len(index) > _DEEPEST:
            return []
        return [pair for i, value in enumerate(values) for pair in elements(value, (*index, i))]
    return [(index, as_float(values))] if index else []


def shape_text(values: Any) -> str:
    """The shape of a nested list, taken from its first elements."""
    sizes: list[str] = []
    while isinstance(values, list):
        sizes.append(str(len(values)))
        if not values:
            break
        values = values[0]
    return "(" + ", ".join(sizes) + ")" if sizes else "scalar"
