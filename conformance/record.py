"""The record: the append-only account of a run, JSON lines with header, trials, findings, timings and footer.

Every report is a pure function of records. The format is the classes of this module and of `conformance.verdict`; the
published JSON schema is generated from them. `conformance.recordfile` reads and writes it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from conformance.verdict import Owner, Size, Verdict

FORMAT: Final = "rnn-conformance-record-1"
Phase = Literal["shipped", "generated", "campaign", "shrunk", "file"]
Nested: TypeAlias = list[Any]


class _Line(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the record's lines."""


class RequirementEntry(Struct, frozen=True, kw_only=True):
    """A requirement as it stood when the record was made.

    level: ``MUST``, ``SHOULD`` or ``informational``; whatever else stands here counts as ``MUST``.
    relation: ``reference``, ``gradient``, or the relation between two ways of running; "" where it is not known.
    """

    name: str
    level: str
    statement: str
    source: str
    cell: str
    initial: str
    relation: str = ""


class FaultEntry(Struct, frozen=True, kw_only=True):
    """A fault's name, its sentence, its wrong equation, and the right equation beside it."""

    name: str
    statement: str
    equation: str
    right: str


class Source(Struct, frozen=True, kw_only=True):
    """A record that was merged into another one.

    name: of its file; machine: what its candidates say of it; harness to arguments: as they stood in its header;
    candidates: its candidates, by their names in the merged record; problem: why it is incomplete, "" when whole.
    """

    name: str
    machine: str
    harness: str
    started: str
    seed: int
    examples: int
    arguments: tuple[str, ...]
    candidates: tuple[str, ...]
    problem: str = ""


class Header(_Line, frozen=True, kw_only=True, tag="header"):
    """The first line.

    seed, examples, cases, fresh_shapes, drawn_by: what the generated cases depend on. cases: of a campaign, in all, 0
    for none; fresh_shapes: how many of its blocks have shapes of their own; drawn_by: the libraries that draw them,
    with their versions. shard: which one of how many this is, from 1.

    merged: the records that it was made of; where these were asked different things and are shown apart, each has its
    own seed and number of examples, and those of the header are the smallest.
    """

    format: str
    harness: str
    started: str
    seed: int
    examples: int
    arguments: tuple[str, ...]
    candidates: tuple[str, ...]
    requirements: tuple[RequirementEntry, ...]
    faults: dict[str, tuple[FaultEntry, ...]]
    cases: int = 0
    fresh_shapes: int = 0
    drawn_by: str = ""
    shard: tuple[int, int] = (1, 1)
    merged: tuple[Source, ...] = ()


class CandidateLine(_Line, frozen=True, kw_only=True, tag="candidate"):
    """A candidate once its worker is up.

    version: of the framework's distribution, as the worker found it installed; facts: versions, device, BLAS
        threads, as its worker says. framework: its own name, as a reader knows it, "" where it is not told.
    """

    name: str
    adapter: str
    variant: str
    title: str
    version: str
    environment: str
    facts: dict[str, str]
    framework: str = ""


class CaseSummary(Struct, frozen=True, kw_only=True):
    """A case without its numbers; shape is (B, T, D, H)."""

    digest: str
    origin: str
    shape: tuple[Size, Size, Size, Size]
    batched: bool
    initial: str


class Trial(_Line, frozen=True, kw_only=True, tag="trial"):
    """One case on one candidate. path: the attested path; seconds: the adapter's own time; block: of a campaign."""

    candidate: str
    requirement: str
    dtype: str
    phase: Phase
    case: CaseSummary
    verdict: Verdict
    path: str
    seconds: float | None
    block: int | None = None


class BlockLine(_Line, frozen=True, kw_only=True, tag="block"):
    """Many cases of a campaign on one candidate; those that do not agree have trials of their own before this line.

    block: its number; cases: how many were judged, up to one that `diverges`; agreeing: how many agree. excluded: the
    faults that it has ruled out and the ordinary cases had not; only the first blocks are asked. shape, batched,
    initial and origin are common to its cases; digest: of all their numbers. share: the largest share of the bound
    that an agreeing one used; compared: numbers, over all of these. path: the attested one; seconds: the adapter's own.
    """

    candidate: str
    requirement: str
    dtype: str
    block: int
    cases: int
    agreeing: int
    excluded: tuple[str, ...]
    digest: str
    origin: str
    shape: tuple[int, int, int, int]
    batched: bool
    initial: str
    share: float
    compared: int
    path: str
    seconds: float
    diverges: bool = False


class Incident(_Line, frozen=True, kw_only=True, tag="incident"):
    """A worker that had to be replaced, or could not be: nothing else was lost."""

    candidate: str
    what: str
    exit_code: Size | None = None
    signal: str = ""
    stderr_tail: str = ""


class ArrayPair(Struct, frozen=True, kw_only=True):
    """One array as observed and as expected, nested lists in which a number that is not finite is null."""

    name: str
    observed: Nested
    expected: Nested


class Example(Struct, frozen=True, kw_only=True):
    """The minimal case of a divergence: the case, and the observed and expected arrays.

    case: as `conformance.case.case_to_json` gives it. Arrays are (B, T, H) and (B, H); a number that is not
    finite is null. further: the memory of an LSTM (``cells``, ``final_cell``), and the gradient that diverges, under
    the name that the evidence gives it. repro: a script for the candidate's framework alone, "" where the adapter has
    none; command: what to type to see it again.
    """

    case: dict[str, Any]
    verdict: Verdict
    observed_outputs: Nested
    observed_final_state: Nested
    expected_outputs: Nested
    expected_final_state: Nested
    repro: str
    command: str
    further: tuple[ArrayPair, ...] = ()


class Finding(_Line, frozen=True, kw_only=True, tag="finding"):
    """The verdict on one candidate, requirement and dtype, over all its trials."""

    candidate: str
    requirement: str
    dtype: str
    verdict: Verdict
    trials: Size
    seconds: float
    visible: tuple[str, ...] = ()
    example: Example | None = None


class Costs(Struct, frozen=True, kw_only=True):
    """What a program costs before it runs, and its size as the framework prints it."""

    trace_seconds: float
    compile_seconds: float
    characters: int
    operations: int


class BenchSide(Struct, frozen=True, kw_only=True):
    """One side of a benchmark.

    control: the baseline once more, in a worker of its own: what it differs by is what the method cannot tell.
    left_out: why it was not run, "" where it was; verdict: on what it computes, None where it was not run.
    zeroed: parameters held at zero because it has no place for them. rows: how many batch rows were judged.
    calls: in a batch; seconds: per round, the median call of its batch, in the order of the rounds, which all sides
        share. cpu: per round, the CPU seconds of a call, of all its threads, which do not count waiting for others.
    costs: what its program costs before it runs, where that was asked.
    """

    candidate: str
    control: bool = False
    version: str = ""
    environment: str = ""
    path: str = ""
    left_out: str = ""
    verdict: Verdict | None = None
    zeroed: tuple[str, ...] = ()
    rows: int = 0
    prepare_seconds: float | None = None
    calls: int = 0
    seconds: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    costs: Costs | None = None


class Published(Struct, frozen=True, kw_only=True):
    """What somebody published for a comparison, and where: the ratio, and the seconds where they were told."""

    ratio: float
    source: str
    baseline: float | None = None
    other: float | None = None


class _Measured(_Line, frozen=True, kw_only=True):
    """Sides that took turns on one case.

    level: ``layer`` or ``cell``; shape: (B, T, D, H); baseline: the candidate that the others are compared with.
    rounds, seed: how many, and of their order; ended: why no more; budget: seconds for the rounds.
    machine: processor, cores, load before and after.
    """

    level: str
    cell: str
    dtype: str
    shape: tuple[int, int, int, int]
    initial: str
    baseline: str
    sides: tuple[BenchSide, ...]
    seed: int
    budget: float
    ended: str = ""
    machine: dict[str, str] = field(default_factory=dict)


class BenchLine(_Measured, frozen=True, kw_only=True, tag="bench"):
    """One comparison of speed.

    name, title: of the comparison; needs: hardware without which it says nothing; left_out: why it was not measured.
    """

    name: str
    title: str
    needs: str = ""
    left_out: str = ""
    published: Published | None = None


class ScanLine(_Measured, frozen=True, kw_only=True, tag="scan"):
    """What a scan costs at one number of steps: tracing, compiling, program size, running."""


class HarnessSide(Struct, frozen=True, kw_only=True):
    """One way to get an answer, timed in rounds that all sides of its kind share.

    contains: exactly what was timed. cases: in a round; a case is one set of numbers, for all candidates.
    seconds, cpu: per round; cpu: of every process that took part. left_out: why it was not timed, "" where it was.
    """

    name: str
    contains: str
    cases: int = 0
    seconds: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    left_out: str = ""


class HarnessPoint(Struct, frozen=True, kw_only=True):
    """What some cases cost where one size (``steps``, ``units``, ``cases``, ``candidates``) is `value`."""

    axis: str
    value: int
    cases: int
    seconds: float
    cpu: float


class HarnessLine(_Line, frozen=True, kw_only=True, tag="harness"):
    """What a campaign costs beside the frameworks alone, and beside a check written by hand.

    refused: what disagreed, or was not answered: then no time says anything. programs: how many shapes each candidate
    ran in the rounds, one compiled program each where it compiles. memory: the most bytes that each process held there.
    """

    requirement: str
    cell: str
    dtype: str
    candidates: tuple[str, ...]
    seed: int
    sides: tuple[HarnessSide, ...]
    points: tuple[HarnessPoint, ...] = ()
    refused: tuple[str, ...] = ()
    programs: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)


class Probe(_Line, frozen=True, kw_only=True, tag="probe"):
    """What a candidate gave, bit for bit, for the first shipped case of a plain requirement: to measure drift.

    Probes of two releases are of one case where their digests are equal. values, bounds: of every array that is
        compared, by name, slot by slot, as base64 of little-endian numbers: float64 for a float64 case, else float32,
        which hold any narrower value exactly. share: the largest residual as a multiple of its bound, None if not
        finite.
    """

    candidate: str
    requirement: str
    dtype: str
    cell: str
    initial: str
    digest: str
    share: float | None
    values: dict[str, str]
    bounds: dict[str, str]


class Pair(Struct, frozen=True, kw_only=True):
    """A candidate before and after an upgrade, by name; "" where one side has no such variant."""

    before: str
    after: str


class Gate(_Line, frozen=True, kw_only=True, tag="gate"):
    """That this record answers a gate's question, and all of a baseline that the answer needs.

    before, after: what was asked for. source: the file name of the baseline's record, "" where both sides were run;
        candidates, findings, probes: what it says, without examples.
    """

    before: str
    after: str
    pairs: tuple[Pair, ...]
    source: str = ""
    candidates: tuple[CandidateLine, ...] = ()
    findings: tuple[Finding, ...] = ()
    probes: tuple[Probe, ...] = ()


KnownOutcome = Literal["diverges", "unrepresentable", "unsupported"]
_Text = Annotated[str, Meta(min_length=1)]


class KnownEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A divergence that is known: where it must show, and as what.

    candidate: ``adapter:variant``, a shell pattern like requirement, platform, device and dtype; versions: a set of
        version specifiers, "" for every release.
    shows: the fault's name, ``none`` where the catalogue has none; the parameters that have no place; or what is
        declared unsupported. size: the largest difference as measured, and the factor by which it may be off.
    link: where upstream tracks it, or ``none: `` and why it is not tracked. expires: the last day on which it holds.
    """

    candidate: _Text
    requirement: _Text
    shows: _Text
    reason: _Text
    owner: Owner
    link: Annotated[str, Meta(pattern=r"^(https?://\S+|none: .+)$")]
    outcome: KnownOutcome = "diverges"
    versions: str = ""
    platform: _Text = "*"
    device: _Text = "*"
    dtype: _Text = "*"
    size: Annotated[float, Meta(ge=0)] | None = None
    factor: Annotated[float, Meta(ge=1)] = 4.0
    expires: date | None = None


class KnownList(_Line, frozen=True, kw_only=True, tag="known"):
    """The list of known divergences that a run is held to. dtypes: those that were selected, empty for all."""

    source: str
    dtypes: tuple[str, ...]
    entries: tuple[KnownEntry, ...]


class Footer(_Line, frozen=True, kw_only=True, tag="footer"):
    """The last line of a run that came to its end."""

    finished: str
    trials: Size
    findings: Size


Line: TypeAlias = (
    Header
    | CandidateLine
    | Trial
    | BlockLine
    | Incident
    | Finding
    | Probe
    | Gate
    | KnownList
    | BenchLine
    | ScanLine
    | HarnessLine
    | Footer
)


class Record(Struct, frozen=True, kw_only=True):
    """A record as read. problem: why it is incomplete, "" when it is whole; body: what follows the header, in order."""

    path: str
    header: Header
    candidates: tuple[CandidateLine, ...] = ()
    trials: tuple[Trial, ...] = ()
    blocks: tuple[BlockLine, ...] = ()
    incidents: tuple[Incident, ...] = ()
    findings: tuple[Finding, ...] = ()
    benches: tuple[BenchLine, ...] = ()
    scans: tuple[ScanLine, ...] = ()
    harness: tuple[HarnessLine, ...] = ()
    probes: tuple[Probe, ...] = ()
    gate: Gate | None = None
    known: KnownList | None = None
    footer: Footer | None = None
    problem: str = ""
    lines: int = field(default=0)
    body: tuple[Line, ...] = ()


def record_schema() -> dict[str, Any]:
    """The JSON schema of one line of a record."""
    schema = msgspec.json.schema(Line)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"One line of a record of format {FORMAT}",
        **schema,
    }
