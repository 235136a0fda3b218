"""What commands that write a record share: its name, progress, minimal cases, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from rich.console import Console

from conformance.case import Case
from conformance.display import Display, Lines
from conformance.errors import ConformanceError, RecordError
from conformance.examine import slug
from conformance.kept import Failure, write_kept
from conformance.plan import Group
from conformance.run import Progress, Silent


def new_record(folder: Path, command: str) -> Path:
    """A record file of this command alone, named after it and the time, and after a number where two begin at once."""
    stamp = datetime.now(UTC).strftime(f"{command}-%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in chain((stamp,), (f"{stamp}-{number}" for number in count(2))):
            path = folder / f"{name}.jsonl"
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                if not path.exists():
                    raise
            else:
                return path
    except OSError as error:
        raise RecordError(
            "cannot write the record",
            where=str(folder),
            got=error.strerror or str(error),
            hint="choose another folder with --output",
        ) from None
    raise AssertionError("numbers do not end")


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def display(groups: Sequence[Group], console: Console, *, quiet: bool) -> AbstractContextManager[Progress]:
    """How progress is shown."""
    if quiet:
        return nullcontext(Silent())
    return Display(groups, console) if console.is_terminal else Lines()


def keeper(record: Path) -> Callable[[Group, Case, Failure], Path]:
    """Writes minimal cases, with what they showed, into a folder beside the record."""
    folder = record.with_name(f"{record.stem}-cases")
    return lambda group, case, failure: write_kept(folder / f"{slug(group)}.json", case, failure)


def written(path: Path, text: str, what: str, *, append: bool = False) -> None:
    """Write a report; a ConformanceError says what could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConformanceError(f"cannot write {what}", where=str(path), got=error.strerror or str(error)) from None
