"""Where two equations differ: the words of one that the other does not have in that place."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final

# Names with their indices, numbers, runs of spaces, and anything else one by one.
_WORD: Final = re.compile(r"\s+|[A-Za-z_][A-Za-z_0-9']*|\d+(?:\.\d+)?|.", re.DOTALL)
_LONGEST: Final = 2_000
"""Longer texts are not compared word by word, which takes a time that grows with their product."""


def differing(text: str, other: str) -> tuple[tuple[str, bool], ...]:
    """`text` in pieces, each with whether it is not in `other` in that place; the pieces joined are `text`."""
    if len(text) > _LONGEST or len(other) > _LONGEST:
        return ((text, False),)
    head, tail = _formula(text)
    theirs, _ = _formula(other)
    # What is said after the formulas is prose, which differs anyway, unless it is there alone that they differ.
    if head.strip() == theirs.strip():
        return tuple(_compared(text, other))
    return (*_compared(head, theirs), *(((tail, False),) if tail else ()))


def _formula(text: str) -> tuple[str, str]:
    """The text up to its first comma outside brackets, and the rest."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth <= 0:
            return text[:place], text[place:]
    return text, ""


def _compared(text: str, other: str) -> list[tuple[str, bool]]:
    own, theirs = _WORD.findall(text), _WORD.findall(other)
    pieces: list[tuple[str, bool]] = []
    for kind, start, end, _, _ in SequenceMatcher(None, own, theirs, autojunk=False).get_opcodes():
        if start < end:
            pieces.append(("".join(own[start:end]), kind != "equal"))
    return _joined(pieces)


def _joined(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours of one kind as one piece; space, or one sign, between two differences belongs to them."""
    joined: list[tuple[str, bool]] = []
    for index, (text, differs) in enumerate(pieces):
        bridge = 0 < index < len(pieces) - 1 and not text.strip()
        if joined and (joined[-1][1] == differs or bridge):
            joined[-1] = (joined[-1][0] + text, joined[-1][1])
        else:
            joined.append((text, differs))
    return joined
