"""Requirements: each is a sentence with a source, a situation that candidates can be in, and aims that exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from conformance.behaviours import BEHAVIOURS
from conformance.case import INITIALS
from conformance.cells import CELLS
from conformance.discover import Feature, find_adapters
from conformance.errors import SpecError
from conformance.faults import catalogue
from conformance.gradient import visible_gradient_faults
from conformance.gradient_faults import gradient_catalogue
from conformance.judge import visible_faults
from conformance.relation import RELATIONS
from conformance.requirement import (
    CLAUSES,
    GRADIENT,
    REFERENCE,
    REQUIREMENTS,
    Level,
    Requirement,
    select_requirements,
)
from conformance.rounding import DTYPES

ALL = [pytest.param(requirement, id=name) for name, requirement in REQUIREMENTS.items()]


def test_names_are_unique_and_say_which_cell_and_clause() -> None:
    """A name is all that a report, a command and a citation need."""
    wanted = [f"{cell}_{clause.suffix}" for cell in CELLS for clause in CLAUSES if clause.applies(cell)]
    assert len(set(wanted)) == len(wanted)
    assert list(REQUIREMENTS) == wanted
    assert all(name == requirement.name for name, requirement in REQUIREMENTS.items())
    assert len({clause.suffix for clause in CLAUSES}) == len(CLAUSES)
    assert len(REQUIREMENTS) == 312


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.suffix)
def test_every_clause_applies_to_some_cell(clause: object) -> None:
    """A clause about nothing would never be asked."""
    assert any(clause.applies(cell) for cell in CELLS)  # type: ignore[attr-defined]


def test_statements_are_sentences_about_one_cell() -> None:
    """Each begins with a capital letter, ends with a full stop, fills its placeholder, and is unlike all others."""
    statements = [requirement.statement for requirement in REQUIREMENTS.values()]
    for statement in statements:
        assert statement[0].isupper()
        assert statement.endswith(".")
        assert not set("{}") & set(statement)
        assert "  " not in statement
        assert " a L" not in statement
        assert " a E" not in statement
    assert len(set(statements)) == len(statements)


@pytest.mark.parametrize("requirement", ALL)
def test_a_requirement_can_be_cited_and_asked(requirement: Requirement) -> None:
    """Level, source, cell, spelling of the state, relation, features and dtypes are known ones; there is an aim."""
    assert requirement.source.strip()
    assert requirement.level in get_args(Level)
    assert requirement.cell in CELLS
    assert requirement.initial in INITIALS
    assert requirement.relation in {REFERENCE, GRADIENT, *RELATIONS}
    assert set(requirement.features) <= {*get_args(Feature), "unbatched"}
    assert set(requirement.dtypes) <= set(DTYPES)
    assert requirement.aims
    assert len(set(requirement.aims)) == len(requirement.aims)


def offered(requirement: Requirement) -> Mapping[str, object]:
    """Where the aims of a requirement must be found."""
    if requirement.relation == GRADIENT:
        return gradient_catalogue(requirement.cell)
    if requirement.relation == REFERENCE:
        return catalogue(requirement.cell)
    return {**catalogue(requirement.cell), **BEHAVIOURS}


@pytest.mark.parametrize("requirement", ALL)
def test_aims_exist_and_can_show(requirement: Requirement) -> None:
    """Each aim is a fault or behaviour that can be planted, and a fault shows in the requirement's situation."""
    assert set(requirement.aims) <= offered(requirement).keys()
    dtypes = requirement.dtypes or DTYPES
    if requirement.relation == REFERENCE:
        visible = frozenset[str]().union(
            *(
                visible_faults(requirement.cell, requirement.initial, features=requirement.features, dtype=dtype)
                for dtype in dtypes
            )
        )
        assert set(requirement.aims) <= visible
    if requirement.relation == GRADIENT:
        assert set(requirement.aims) <= visible_gradient_faults(requirement.cell)


def test_names_of_faults_and_behaviours_do_not_meet() -> None:
    """A report that names one of them means one thing."""
    forward = {name for cell in CELLS for name in catalogue(cell)}
    backward = {name for cell in CELLS for name in gradient_catalogue(cell)}
    assert not forward & BEHAVIOURS.keys()
    assert not backward & BEHAVIOURS.keys()
    assert not forward & backward


def test_every_behaviour_is_aimed_at() -> None:
    """None is planted for nothing."""
    assert BEHAVIOURS.keys() <= {aim for requirement in REQUIREMENTS.values() for aim in requirement.aims}


def test_every_feature_is_asked_about_and_offered() -> None:
    """What a manifest may declare has a requirement, and what a requirement needs some shipped variant offers."""
    asked = {feature for requirement in REQUIREMENTS.values() for feature in requirement.features}
    assert asked == {*get_args(Feature), "unbatched"}
    variants = [variant for adapter in find_adapters().values() for variant in adapter.variants.values()]
    assert all(any(variant.offers(feature) for variant in variants) for feature in asked)


def test_requirements_are_selected_by_part_of_their_name() -> None:
    """-k selects by substring; what selects nothing is an error."""
    assert [r.name for r in select_requirements("hidden_none")] == [f"{cell}_hidden_none" for cell in CELLS]
    assert [r.name for r in select_requirements("gru_v1_hidden_none")] == ["gru_v1_hidden_none"]
    assert select_requirements(None) == tuple(REQUIREMENTS.values())
    with pytest.raises(SpecError, match="no requirement matches"):
        select_requirements("gru_hiden_none")
