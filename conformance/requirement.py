"""Requirements: citable clauses, each with its statement, its source and the faults it exists to catch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from conformance.case import Initial
from conformance.errors import SpecError

Level = Literal["MUST", "SHOULD", "informational"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One clause, checked on cases of one cell and one spelling of the initial state.

    aims: the faults that this requirement exists for. Agreement rules out every fault that can show with this
        spelling of the state; these are the ones for which the requirement was written.
    """

    name: str
    level: Level
    statement: str
    source: str
    cell: str
    initial: Initial
    aims: tuple[str, ...]


_GRU_SOURCE = "documented equations of mlx.nn.GRU and torch.nn.GRU; Cho et al. 2014, arXiv:1406.1078"
_GRU_V1_SOURCE = "Cho et al. 2014, arXiv:1406.1078v1, equations 5-8"

REQUIREMENTS: Final[dict[str, Requirement]] = {
    requirement.name: requirement
    for requirement in (
        Requirement(
            name="gru_hidden_none",
            level="MUST",
            statement="A GRU whose initial state is omitted computes what it computes from a state of zeros.",
            source=f"ml-explore/mlx issue 3249; {_GRU_SOURCE}",
            cell="gru",
            initial="omitted",
            aims=("drop_rbhn_t0",),
        ),
        Requirement(
            name="gru_hidden_zeros",
            level="MUST",
            statement="A GRU follows its equations from an initial state of zeros.",
            source=_GRU_SOURCE,
            cell="gru",
            initial="zeros",
            aims=("reset_before", "update_flip"),
        ),
        Requirement(
            name="gru_hidden_given",
            level="MUST",
            statement="A GRU follows its equations from the initial state that it is given.",
            source=_GRU_SOURCE,
            cell="gru",
            initial="given",
            aims=("h0_ignored", "state_lane0"),
        ),
        Requirement(
            name="gru_v1_hidden_none",
            level="MUST",
            statement="A reset-before GRU whose initial state is omitted starts from zeros.",
            source=_GRU_V1_SOURCE,
            cell="gru_v1",
            initial="omitted",
            aims=("reset_after",),
        ),
        Requirement(
            name="gru_v1_hidden_given",
            level="MUST",
            statement="A reset-before GRU follows its equations from the initial state that it is given.",
            source=_GRU_V1_SOURCE,
            cell="gru_v1",
            initial="given",
            aims=("reset_after", "h0_ignored"),
        ),
    )
}


def select_requirements(pattern: str | None) -> tuple[Requirement, ...]:
    """The requirements whose name contains `pattern`; all when it is None. SpecError when none does."""
    chosen = tuple(r for name, r in REQUIREMENTS.items() if pattern is None or pattern in name)
    if not chosen:
        raise SpecError("no requirement matches", got=repr(pattern), wanted=" | ".join(REQUIREMENTS))
    return chosen
