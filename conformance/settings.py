"""What a run depends on, apart from what is put under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from conformance.case import Case
from conformance.plan import Group

if TYPE_CHECKING:  # it comes with what draws, which a worker need not wait for
    from conformance.campaign import Campaign
    from conformance.kept import Failure


class Settings(Struct, frozen=True, kw_only=True):
    """What a run depends on.

    examples: generated cases per group; seed: of Hypothesis; wide: draw long and broad cases as well;
    shrink: look for the smallest case that diverges; only: run this one case instead; database: folder of kept
        failures, None to keep none; remembered: try only the failures of one group that this folder holds; keep:
        writes a case file and returns its path; campaign: further cases, in blocks.
    """

    examples: int
    seed: int
    wide: bool = False
    shrink: bool = True
    only: Case | None = None
    database: Path | None = None
    remembered: Path | None = None
    keep: Callable[[Group, Case, Failure], Path] | None = None
    campaign: Campaign | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)
