"""Requirements: citable clauses, each with its statement, its source, its relation and the faults it exists to catch.

A requirement is one *relation* asked of one cell. ``reference`` is agreement with the cell's equations from one
spelling of the initial state; the others (`conformance.relation`) run a candidate in two ways that must give the same
sequence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct

from conformance.case import Initial
from conformance.cells import CELLS
from conformance.cells.precision import PRECISION
from conformance.errors import SpecError

Level = Literal["MUST", "SHOULD", "informational"]
REFERENCE: Final = "reference"
GRADIENT: Final = "gradient"


class Requirement(Struct, frozen=True, kw_only=True):
    """One clause, checked on cases of one cell and one spelling of the initial state.

    relation: ``reference``, ``gradient``, or a name in `conformance.relation.RELATIONS`.
    features: what a variant must offer to be asked, see `conformance.worker.api.WorkerCase.features`; the cases have
        those that a case can have.
    aims: the faults, or behaviours, that this requirement exists for. Agreement with the reference rules out every
        fault that can show; a relation must rule out these.
    dtypes: the dtypes asked about unless the user names others; empty for all that a variant declares.
    """

    name: str
    level: Level
    statement: str
    source: str
    cell: str
    initial: Initial
    aims: tuple[str, ...]
    relation: str = REFERENCE
    features: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    @property
    def against_reference(self) -> bool:
        """Whether agreement rules out every visible fault of the catalogue."""
        return self.relation == REFERENCE


class Clause(Struct, frozen=True, kw_only=True):
    """A requirement of every cell it applies to; `statement` speaks of ``{title}``."""

    suffix: str
    level: Level
    statement: str
    initial: Initial
    aims: tuple[str, ...]
    relation: str = REFERENCE
    features: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    source: str = ""
    applies: Callable[[str], bool] = lambda cell: True  # noqa: ARG005 (a predicate over cells)


_IMPLIED: Final = "follows from the equations: a recurrence computes each row, step by step, from its state alone"
_ONE: Final = ("float32",)
_SPOKEN: Final[Mapping[str, str]] = {
    "gru": "GRU",
    "gru_v1": "reset-before GRU",
    "lstm": "LSTM",
    "lstm_peephole": "LSTM with peepholes",
    "lstm_projection": "LSTM with a projected state",
    "elman": "Elman network (tanh)",
    "elman_relu": "Elman network (ReLU)",
    "mingru": "minGRU",
    "mingru_log": "minGRU in log-space form",
    "minlstm": "minLSTM",
    "minlstm_log": "minLSTM in log-space form",
}

CLAUSES: Final[tuple[Clause, ...]] = (
    Clause(
        suffix="hidden_none",
        level="MUST",
        statement="{title} whose initial state is omitted computes what it computes from a state of zeros.",
        initial="omitted",
        aims=("skip_t0",),
    ),
    Clause(
        suffix="hidden_zeros",
        level="MUST",
        statement="{title} follows its equations from an initial state of zeros.",
        initial="zeros",
        aims=("out_shift",),
    ),
    Clause(
        suffix="hidden_given",
        level="MUST",
        statement="{title} follows its equations from the initial state that it is given, in the declared dtype.",
        initial="given",
        aims=("h0_ignored", "state_lane0", *PRECISION),
    ),
    Clause(
        suffix="gradient",
        level="MUST",
        statement="The gradients of {title} with respect to x, the initial state and every parameter are those of its "
        "equations.",
        initial="given",
        aims=("state_detached", "doubled"),
        relation=GRADIENT,
        features=("gradients",),
        source="reverse-mode differentiation of the same equations (Werbos 1990, backpropagation through time)",
    ),
    Clause(
        suffix="omitted_is_zeros",
        level="MUST",
        statement="{title} gives the same sequence whether its initial state is omitted or passed as zeros.",
        initial="omitted",
        aims=("omitted_is_random",),
        relation="omitted_is_zeros",
        dtypes=_ONE,
        source="ml-explore/mlx issue 3249",
    ),
    Clause(
        suffix="split",
        level="MUST",
        statement="Running {title} over a sequence is the same as running it over two parts and carrying the state.",
        initial="given",
        aims=("state_not_carried", "h0_ignored"),
        relation="split",
        dtypes=_ONE,
    ),
    Clause(
        suffix="rows_alone",
        level="MUST",
        statement="Each batch row of {title} gives the same sequence alone as together with others.",
        initial="given",
        aims=("state_lane0", "single_row_from_zeros"),
        relation="rows_alone",
        dtypes=_ONE,
    ),
    Clause(
        suffix="rows_permuted",
        level="MUST",
        statement="Permuting the batch rows permutes the sequences of {title} and nothing else.",
        initial="given",
        aims=("state_lane0",),
        relation="rows_permuted",
        dtypes=_ONE,
    ),
    Clause(
        suffix="units_permuted",
        level="MUST",
        statement="Permuting the hidden units of {title} (rows and columns of its parameters, its state) permutes its "
        "units and nothing else.",
        initial="given",
        aims=("Wx_transposed",),
        relation="units_permuted",
        dtypes=_ONE,
        applies=lambda cell: not CELLS[cell].projected,
    ),
    Clause(
        suffix="unbatched",
        level="MUST",
        statement="{title} gives the same sequence for a row without a batch axis as for a batch.",
        initial="given",
        aims=("unbatched_from_zeros",),
        relation="unbatched",
        features=("unbatched",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="causal",
        level="MUST",
        statement="Outputs of {title} do not depend on later inputs.",
        initial="given",
        aims=("reversed_time", "reversed_noflip"),
        relation="causal",
        dtypes=_ONE,
    ),
    Clause(
        suffix="repeated",
        level="MUST",
        statement="{title} gives the same sequence for the same call, whatever was run in between.",
        initial="omitted",
        aims=("state_remembered",),
        relation="repeated",
        dtypes=_ONE,
    ),
    Clause(
        suffix="weights_used",
        level="MUST",
        statement="{title} computes with the weights that were loaded: other weights give other sequences.",
        initial="given",
        aims=("fresh_weights", "fresh_weights_each_call"),
        relation="weights_used",
        dtypes=_ONE,
        source="google/flax: a cell built inside the step has fresh weights in each step",
    ),
    Clause(
        suffix="sizes",
        level="MUST",
        statement="{title} follows its equations for one step, one unit, one feature and one row.",
        initial="given",
        aims=("single_step_zero", "single_unit_off"),
        relation="sizes",
        dtypes=_ONE,
    ),
    Clause(
        suffix="saturated",
        level="MUST",
        statement="{title} reaches the limits of its activations, and stays there, for pre-activations of any size.",
        initial="given",
        aims=("preactivation_clipped",),
        relation="saturated",
    ),
    Clause(
        suffix="negative_state",
        level="MUST",
        statement="{title} follows its equations from a negative initial state, in which it is linear; only with "
        "logarithms is it undefined.",
        initial="given",
        aims=("nan_for_negative_state",),
        relation="negative_state",
        features=("negative_state",),
        dtypes=_ONE,
        applies=lambda cell: CELLS[cell].positive,
    ),
    Clause(
        suffix="kept_exactly",
        level="informational",
        statement="An update gate of {title} that is one keeps the state bit for bit.",
        initial="given",
        aims=("state_decays",),
        relation="kept_exactly",
        dtypes=_ONE,
        applies=lambda cell: cell in ("gru", "gru_v1"),
        source="(1 - z) * n + z * h with z = 1; implementations that compute n + z * (h - n) promise less",
    ),
    Clause(
        suffix="extreme_inputs",
        level="MUST",
        statement="{title} follows its equations for inputs near the largest and below the smallest normal number.",
        initial="given",
        aims=("large_is_nan",),
        relation="extreme_inputs",
        dtypes=_ONE,
        applies=lambda cell: cell not in ("elman_relu", "mingru", "mingru_log", "minlstm", "minlstm_log"),
    ),
    Clause(
        suffix="not_finite",
        level="SHOULD",
        statement="NaN in an input of {title} reaches every later state of its row, an infinity saturates its gates, "
        "and no other row changes.",
        initial="given",
        aims=("nan_swallowed", "nan_leaks"),
        relation="not_finite",
        dtypes=_ONE,
        source="IEEE 754-2019, section 6; the equations",
        applies=lambda cell: cell not in ("elman_relu", "mingru", "mingru_log", "minlstm", "minlstm_log"),
    ),
    Clause(
        suffix="contract",
        level="MUST",
        statement="{title} returns all states in the dtype of its inputs and in the documented shapes.",
        initial="given",
        aims=("last_output_only",),
        relation="contract",
        dtypes=_ONE,
    ),
    Clause(
        suffix="inputs_unmodified",
        level="MUST",
        statement="{title} modifies neither its inputs nor its weights.",
        initial="given",
        aims=("input_modified",),
        relation="inputs_unmodified",
        features=("inputs_back",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="strided",
        level="MUST",
        statement="{title} reads an input that is not contiguous in memory as its values, not as its buffer.",
        initial="given",
        aims=("strides_ignored",),
        relation="strided",
        features=("strided",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="reverse",
        level="MUST",
        statement="{title} run in reverse gives the flipped sequence of the flipped input.",
        initial="given",
        aims=("reverse_ignored",),
        relation="reverse",
        features=("reverse",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="bidirectional",
        level="MUST",
        statement="Bidirectional {title} is a forward run and a run in reverse, side by side.",
        initial="given",
        aims=("directions_swapped", "directions_share_weights", "directions_share_state", "backward_forward"),
        relation="bidirectional",
        features=("bidirectional",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="layers",
        level="MUST",
        statement="Stacked layers of {title} are one layer run on the outputs of the one below.",
        initial="given",
        aims=("layers_share_state",),
        relation="layers",
        features=("layers",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="lengths",
        level="MUST",
        statement="A padded row of {title} gives what the row gives when it is cut to its length: outputs, "
        "final state, and the promised padding.",
        initial="given",
        aims=("lengths_ignored", "final_from_padding", "last_step_lost"),
        relation="lengths",
        features=("lengths",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="reverse_lengths",
        level="MUST",
        statement="Padded rows of {title} run in reverse from their own last step.",
        initial="given",
        aims=("padding_reversed",),
        features=("lengths", "reverse"),
        dtypes=_ONE,
    ),
    Clause(
        suffix="bidirectional_lengths",
        level="MUST",
        statement="The backward direction of bidirectional {title} starts at each padded row's own last step.",
        initial="given",
        aims=("padding_reversed",),
        features=("bidirectional", "lengths"),
        dtypes=_ONE,
    ),
    Clause(
        suffix="length_zero",
        level="SHOULD",
        statement="A row of length 0 leaves {title} in its initial state.",
        initial="given",
        aims=("length_zero_wraps",),
        relation="length_zero",
        features=("lengths", "empty_rows"),
        dtypes=_ONE,
    ),
    Clause(
        suffix="empty_time",
        level="SHOULD",
        statement="{title} over no steps returns no outputs and its initial state.",
        initial="given",
        aims=("empty_is_zeros",),
        relation="empty_time",
        features=("empty_time",),
        dtypes=_ONE,
    ),
    Clause(
        suffix="empty_batch",
        level="SHOULD",
        statement="{title} over no rows returns no rows.",
        initial="given",
        aims=("empty_batch_row",),
        relation="empty_batch",
        features=("empty_batch",),
        dtypes=_ONE,
    ),
)


def _requirements() -> Iterator[Requirement]:
    for cell, kind in CELLS.items():
        for clause in CLAUSES:
            if not clause.applies(cell):
                continue
            aims, source = clause.aims, clause.source or (_IMPLIED if clause.relation != REFERENCE else kind.source)
            if (cell, clause.suffix) == ("gru", "hidden_none"):
                aims, source = ("drop_rbhn_t0", *aims), f"ml-explore/mlx issue 3249; {source}"
            spoken = _SPOKEN[cell]
            article = "an" if spoken[0] in "EL" else "a"
            statement = clause.statement.format(title=f"{article} {spoken}")
            yield Requirement(
                name=f"{cell}_{clause.suffix}",
                level=clause.level,
                statement=statement[0].upper() + statement[1:],
                source=source,
                cell=cell,
                initial=clause.initial,
                aims=aims,
                relation=clause.relation,
                features=clause.features,
                dtypes=clause.dtypes,
            )


REQUIREMENTS: Final[Mapping[str, Requirement]] = {r.name: r for r in _requirements()}


def select_requirements(pattern: str | None) -> tuple[Requirement, ...]:
    """The requirements in whose name `pattern` begins a word (``gru_hidden`` is not in ``mingru_hidden_none``).

    All when it is None.

    Raises
    ------
    SpecError: no requirement matches.
    """
    wanted = re.compile("" if pattern is None else rf"(?<![a-z0-9]){re.escape(pattern)}")
    chosen = tuple(r for name, r in REQUIREMENTS.items() if wanted.search(name))
    if not chosen:
        raise SpecError("no requirement matches", got=repr(pattern), wanted="see `rnn-conformance list requirements`")
    return chosen
