"""Errors that a user can act on: what went wrong, where, what was found, what was wanted, what to do."""

from __future__ import annotations


class ConformanceError(Exception):
    """A bad input or an impossible request; rendered as one message, never as a traceback.

    Parameters
    ----------
    what: the problem in one sentence.
    where: the file, option or spec concerned.
    got, wanted: what was found and what would have been accepted.
    hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", got: str = "", wanted: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.wanted = wanted
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        for label in ("where", "got", "wanted", "hint"):
            text = getattr(self, label)
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class CaseError(ConformanceError):
    """A case, weights file or parameter set that is malformed."""


class ShapeError(CaseError):
    """An observation that does not have the shape of its case: a broken contract."""


class SpecError(ConformanceError):
    """A candidate spec, adapter, variant or requirement that does not exist or cannot be parsed."""


class RecordError(ConformanceError):
    """A record that cannot be read."""


class EnvironmentUnavailable(ConformanceError):
    """An environment that cannot be made: no such release, nothing can be downloaded, folder not writable."""

    exit_code = 3


class Unreachable(EnvironmentUnavailable):
    """Nothing can be downloaded: it says nothing about what there would be."""
