"""The rows of a record as files: CSV, JSON, Parquet.

CSV is for spreadsheets, which run what begins like a formula: such text gets an apostrophe before it, and control
characters become visible escapes. JSON is ASCII and Parquet is typed; both hold every string as it stands.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, get_type_hints

from msgspec import structs

from conformance.errors import ConformanceError
from conformance.record import Record
from conformance.report.answer import answer
from conformance.report.outcome import results
from conformance.report.rows import FindingRow, Row, TrialRow, finding_rows, trial_rows
from conformance.report.wording import visible

FORMAT: Final = "rnn-conformance-report-1"
INSTALL: Final = "pip install 'rnn-conformance[notebook]'"
# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What a spreadsheet's cell holds.
_LONGEST: Final = 32_000


def columns(kind: type[Row]) -> tuple[str, ...]:
    """The columns of a table, in order."""
    return tuple(field.name for field in structs.fields(kind))


def rows_of(record: Record, kind: type[Row]) -> tuple[Row, ...]:
    """The rows of one kind."""
    return finding_rows(record) if kind is FindingRow else trial_rows(record)


def csv_text(record: Record, kind: type[Row]) -> str:
    """RFC 4180, with a header; several faults in one field are separated by a space."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(columns(kind))
    for row in rows_of(record, kind):
        writer.writerow([_field(value) for value in structs.astuple(row)])
    return stream.getvalue()


def _field(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return repr(value)
        case tuple():
            return _text(" ".join(map(str, value)))
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    """Text that a spreadsheet shows and does not run."""
    harmless = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    if len(harmless) > _LONGEST:
        harmless = f"{harmless[:_LONGEST]}... [{len(harmless) - _LONGEST} characters left out]"
    return f"'{harmless}" if text.lstrip(" ").startswith(_FORMULA) else harmless


def json_text(record: Record, kind: type[Row]) -> str:
    """One object: the answer, the candidates, and the rows."""
    said = answer(record)
    told = {
        "format": FORMAT,
        "record": record.path,
        "problem": record.problem,
        "harness": record.header.harness,
        "started": record.header.started,
        "seed": record.header.seed,
        "examples": record.header.examples,
        "exit_code": said.exit_code,
        "headline": said.sentence,
        "candidates": [
            {
                "name": result.name,
                "outcome": result.outcome,
                "version": "" if result.line is None else result.line.version,
                "facts": {} if result.line is None else dict(sorted(result.line.facts.items())),
            }
            for result in results(record)
        ],
        "merged": [structs.asdict(source) for source in record.header.merged],
        "trials" if kind is TrialRow else "findings": [structs.asdict(row) for row in rows_of(record, kind)],
    }
    return f"{json.dumps(told, indent=1, allow_nan=False)}\n"


def parquet_bytes(record: Record, kind: type[Row]) -> bytes:
    """A Parquet file with the columns of `kind`.

    Raises
    ------
    ConformanceError: pyarrow is not installed.
    """
    pa = _module("pyarrow", "Parquet is written")
    kinds = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), tuple: pa.list_(pa.string())}
    schema = pa.schema([(name, kinds[own]) for name, own in types(kind).items()])
    table = pa.Table.from_pylist([structs.asdict(row) for row in rows_of(record, kind)], schema=schema)
    stream = io.BytesIO()
    _module("pyarrow.parquet", "Parquet is written").write_table(table, stream)
    return stream.getvalue()


def types(kind: type[Row]) -> dict[str, type]:
    """The type of every column: str, bool, int, float, or tuple (of strings); any of them may be None."""
    return {name: _plain(hint) for name, hint in get_type_hints(kind).items() if name in columns(kind)}


def _plain(hint: Any) -> type:
    text = str(hint)
    for own in (tuple, bool, int, float):
        if own.__name__ in text:
            return own
    return str


def frame(rows: Sequence[Row], kind: type[Row]) -> Any:
    """The rows as a pandas DataFrame with typed columns, also where there are none.

    Raises
    ------
    ConformanceError: pandas is not installed.
    """
    pandas = _module("pandas", "DataFrames are made")
    names = {str: "string", bool: "bool", int: "Int64", float: "Float64", tuple: "object"}
    values = {name: [getattr(row, name) for row in rows] for name in columns(kind)}
    return pandas.DataFrame(
        {name: pandas.Series(values[name], dtype=names[own]) for name, own in types(kind).items()},
        columns=list(columns(kind)),
    )


def _module(name: str, what: str) -> Any:
    library = name.partition(".")[0]
    try:
        return import_module(name)
    except ImportError as error:
        raise ConformanceError(
            f"{what} with {library}, which is not installed here",
            got=str(error),
            hint=f"{INSTALL}; without it: --format csv or json",
        ) from None
