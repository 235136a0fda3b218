"""rnn-conformance: tells whether two RNN implementations compute the same thing, and if not, what is wrong.

`load_record` gives a record's findings and trials as tables; it is imported when it is first used, since workers import
this package in every framework's interpreter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.frames import load_record

__version__ = "0.1.0"
__all__ = ["__version__", "load_record"]


def __getattr__(name: str) -> Any:
    if name != "load_record":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("conformance.frames").load_record
