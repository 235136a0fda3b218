"""Files of records: lines are appended, and read back and validated.

Every line is flushed as it is written, so an interrupted run leaves a readable record; one without a footer is
incomplete, and says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from conformance.errors import RecordError
from conformance.record import (
    FORMAT,
    BenchLine,
    BlockLine,
    CandidateLine,
    Finding,
    Footer,
    Gate,
    HarnessLine,
    Header,
    Incident,
    KnownList,
    Line,
    Probe,
    Record,
    ScanLine,
    Trial,
)

# A case of 512 steps, with all its arrays, takes a few megabytes; what is longer would fill the memory.
LONGEST_LINE: Final = 64 * 2**20
# gzip, zstandard, xz, zip
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"PK")
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


@cache
def _decoder() -> msgspec.json.Decoder[Line]:
    """Made when something is read: it takes as long as a good part of the imports."""
    return msgspec.json.Decoder(Line)


class RecordWriter:
    """Appends lines to a new record file, each flushed at once; safe to call from several threads.

    kept: lines of an earlier record of this name, after its header: the file is replaced when they have been written.
    """

    def __init__(self, path: Path, header: Header, kept: Iterable[Line] = ()) -> None:
        self._lock = threading.Lock()
        self.path = path
        lines = b"".join(_ENCODER.encode(line) + b"\n" for line in (header, *kept))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f"{path.name}.partial")
            self._file: IO[bytes] = fresh.open("wb")
            self._file.write(lines)
            self._file.flush()
            fresh.replace(path)
        except OSError as error:
            raise RecordError(
                "cannot write the record",
                where=str(path),
                got=error.strerror or str(error),
                hint="choose another folder with --output",
            ) from None

    def write(self, line: Line) -> None:
        """Append one line and flush it."""
        data = _ENCODER.encode(line) + b"\n"
        with self._lock:
            try:
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise RecordError(
                    "cannot write the record",
                    where=str(self.path),
                    got=error.strerror or str(error),
                    hint="what was written before stays readable",
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_record(path: Path) -> Record:
    """Read and validate a record.

    A last line that was cut off, or a missing footer, makes the record incomplete (see `Record.problem`).

    Raises
    ------
    RecordError: no such file, another format, or a malformed line other than a truncated last one.
    """
    lines: list[Line] = []
    truncated = False
    for number, (chunk, whole) in enumerate(_chunks(path), start=1):
        if not whole and (number > 1 or chunk[:1] in (b"", b"{")):
            truncated = bool(chunk.strip())
            break
        try:
            line = _decoder().decode(chunk)
            _check(line)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            # What it quotes comes from anybody, and may go to a terminal or a log that is read for commands.
            said = str(error)[:300].encode("unicode_escape").decode("ascii")
            first = number == 1
            raise RecordError(
                "not a record" if first else "malformed line in the record",
                where=f"{path}, line {number}",
                got=said,
                wanted=f"{'a header' if first else 'a line'} of format {FORMAT}; see `rnn-conformance schema`",
                hint="decompress it" if chunk.startswith(_COMPRESSED) else "",
            ) from None
        lines.append(line)
    return gather(path, lines, truncated=truncated)


def _chunks(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The lines of a file, none longer than `LONGEST_LINE`, and whether each came to its end."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                chunk = file.readline(LONGEST_LINE + 1)
                if len(chunk) > LONGEST_LINE:
                    raise RecordError(
                        "a line of the record is too long to be one",
                        where=f"{path}, line {number}",
                        got=f"more than {LONGEST_LINE} bytes",
                    )
                if not chunk:
                    return
                yield chunk.removesuffix(b"\n"), chunk.endswith(b"\n")
    except OSError as error:
        raise RecordError("cannot read the record", where=str(path), got=error.strerror or str(error)) from None


def _check(line: Line) -> None:
    """What the types of a line leave open; ValueError says what is wrong."""
    for entry in line.entries if isinstance(line, KnownList) else ():
        try:
            SpecifierSet(entry.versions)
        except InvalidSpecifier as error:
            raise ValueError(str(error)) from None


def gather(path: Path, lines: Sequence[Line], *, truncated: bool = False) -> Record:
    """The record that these lines make, the first of which is its header; RecordError where they make none."""
    header = lines[0] if lines else None
    if not isinstance(header, Header):
        got = "an empty file" if header is None else f"type: {type(header).__name__}"
        raise RecordError("the record does not begin with a header", where=str(path), got=got, wanted="type: header")
    if header.format != FORMAT:
        raise RecordError("the record has another format", where=str(path), got=header.format, wanted=FORMAT)
    footers = [line for line in lines if isinstance(line, Footer)]
    misplaced = any(isinstance(line, Header) for line in lines[1:]) or len(footers) > 1
    if sum(isinstance(line, Gate) for line in lines) > 1 or sum(isinstance(line, KnownList) for line in lines) > 1:
        raise RecordError("the record has two gates, or two lists of known divergences", where=str(path))
    if misplaced or (footers and not isinstance(lines[-1], Footer)):
        raise RecordError("the record has lines after its footer, or two headers", where=str(path))
    known = next((line for line in lines if isinstance(line, KnownList)), None)
    if known is not None:
        _check_dates(path, header)
    problem = _problem(header, truncated=truncated, ended=bool(footers))
    return Record(
        path=path.name,
        header=header,
        candidates=tuple(line for line in lines if isinstance(line, CandidateLine)),
        trials=tuple(line for line in lines if isinstance(line, Trial)),
        blocks=tuple(line for line in lines if isinstance(line, BlockLine)),
        incidents=tuple(line for line in lines if isinstance(line, Incident)),
        findings=tuple(line for line in lines if isinstance(line, Finding)),
        benches=tuple(line for line in lines if isinstance(line, BenchLine)),
        scans=tuple(line for line in lines if isinstance(line, ScanLine)),
        harness=tuple(line for line in lines if isinstance(line, HarnessLine)),
        probes=tuple(line for line in lines if isinstance(line, Probe)),
        gate=next((line for line in lines if isinstance(line, Gate)), None),
        known=known,
        footer=footers[0] if footers else None,
        problem=problem,
        lines=len(lines),
        body=tuple(lines[1:]),
    )


def _check_dates(path: Path, header: Header) -> None:
    """A list of known divergences expires: what is held to one must say when it was made."""
    for started in (header.started, *(source.started for source in header.merged)):
        try:
            datetime.fromisoformat(started)
        except ValueError as error:
            raise RecordError(
                "the record is held to a list of known divergences and does not say when it was made",
                where=str(path),
                got=str(error)[:300],
                wanted="header: started: a date of ISO 8601",
            ) from None


def _problem(header: Header, *, truncated: bool, ended: bool) -> str:
    """Why a record is incomplete, "" when it is whole."""
    if truncated:
        return "incomplete: the last line was cut off"
    partial = [f"{source.name} is {source.problem}" for source in header.merged if source.problem]
    if partial:
        return f"incomplete: {'; '.join(partial)}"
    return "" if ended else "incomplete: the run did not come to its end"
