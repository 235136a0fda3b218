"""Where did an answer change? A search over the releases of a framework, independent of any framework.

An oracle tells the state of one release: an answer, a failure (it breaks, or its answer means nothing), or that it
cannot be had. Asking it costs an environment, so as few as possible are asked: between two releases with different
states the middle one, until they are neighbours. What holds:

- Without holes and with one change among n releases, 2 + ceil(log2(n - 1)) are asked at most, and the extra probes.
- Releases that cannot be had are holes: the next one outwards from the middle is asked instead. So are those that
  fail, unless the oldest or the newest one fails: then failing is one of the states in question.
- No search of this kind can prove that nothing changes and changes back between two releases with one state. Extra
  probes look for it, in the middle of the widest untried stretches. A state that comes back once it had gone makes the
  history not monotone: then everything is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["answer", "failure", "unavailable"]
PROBES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)  # a struct cannot leave fields out of a comparison
class State:
    """What is known of one release. Two states are the same if their kinds and labels are; `detail` explains one.

    faults: by which a divergence is explained.
    """

    kind: Kind
    label: str
    detail: str = field(default="", compare=False)
    faults: tuple[str, ...] = field(default=(), compare=False)


class Boundary(Struct, frozen=True, kw_only=True):
    """A change between two releases; nothing is known of those `between` them but that they have no state."""

    before: str
    after: str
    old: State
    new: State
    between: tuple[str, ...] = ()


class Run(Struct, frozen=True, kw_only=True):
    """Neighbouring releases of one state: those that were asked are the first, the last, and perhaps others."""

    first: str
    last: str
    state: State


class History(Struct, frozen=True, kw_only=True):
    """What was found out.

    versions: oldest first; states: of those that were asked. scanned: none was left out.
    runs: stretches of one state, in order; boundaries: between them. monotone: no state comes back.
    holes: asked, but without a state that counts.
    """

    versions: tuple[str, ...]
    states: Mapping[str, State]
    runs: tuple[Run, ...]
    boundaries: tuple[Boundary, ...]
    monotone: bool
    holes: tuple[str, ...]

    @property
    def scanned(self) -> bool:
        """Whether every release was asked."""
        return len(self.states) == len(self.versions)

    @property
    def inferred(self) -> dict[str, State]:
        """The states of those that were not asked, if nothing changes and changes back between two that were."""
        place = {version: index for index, version in enumerate(self.versions)}
        return {
            version: run.state
            for run in self.runs
            for version in self.versions[place[run.first] : place[run.last] + 1]
            if version not in self.states
        }


class _Search:
    """The state of one search; indexes stand for releases."""

    def __init__(self, versions: Sequence[str], ask: Callable[[str], State], known: Mapping[str, State]) -> None:
        self.versions = tuple(versions)
        self.ask = ask
        self.known = known
        self.states: dict[int, State] = {}
        self.counting: frozenset[Kind] = frozenset(("answer",))

    def state(self, index: int) -> State:
        if index not in self.states:
            name = self.versions[index]
            self.states[index] = self.known[name] if name in self.known else self.ask(name)
        return self.states[index]

    @property
    def solid(self) -> list[int]:
        return [index for index in sorted(self.states) if self.states[index].kind in self.counting]

    def ends(self) -> None:
        """Ask the oldest and the newest release that can be had; if one of them fails, failing counts."""
        span = range(len(self.versions))
        for order in (span, reversed(span)):
            end = next((state for index in order if (state := self.state(index)).kind != "unavailable"), None)
            if end is not None and end.kind == "failure":
                self.counting = frozenset(("answer", "failure"))

    def untried(self, low: int, high: int) -> list[int]:
        return [index for index in range(low + 1, high) if index not in self.states]

    def gaps(self, *, changed: bool) -> Iterator[list[int]]:
        """Untried releases between two neighbours, of different states or of the same one."""
        for low, high in pairwise(self.solid):
            left = self.untried(low, high)
            if left and (self.states[low] != self.states[high]) == changed:
                yield left

    def narrow(self) -> None:
        """Ask until different states are neighbours, but for holes."""
        while gap := next(self.gaps(changed=True), None):
            self.state(_middle(gap))

    def probe(self) -> bool:
        """Ask one release in the middle of the widest untried stretch; False when there is none."""
        widest = max(self.gaps(changed=False), key=len, default=None)
        while widest:
            index = _middle(widest)
            if self.state(index).kind in self.counting:
                return True
            widest.remove(index)  # a hole tells nothing: the next one beside it
        return False

    @property
    def monotone(self) -> bool:
        changes = [self.states[high] for low, high in pairwise(self.solid) if self.states[low] != self.states[high]]
        first = [self.states[index] for index in self.solid[:1]]
        return len(set(first + changes)) == len(first + changes)

    def recall(self) -> None:
        """Take in what else is known."""
        for index, name in enumerate(self.versions):
            if name in self.known:
                self.state(index)
        self.narrow()

    def scan(self) -> None:
        for index in range(len(self.versions)):
            self.state(index)

    def history(self) -> History:
        names, solid = self.versions, self.solid
        boundaries, runs = [], []
        begin = solid[0] if solid else 0
        for low, high in pairwise(solid):
            old, new = self.states[low], self.states[high]
            if old != new:
                between = names[low + 1 : high]
                boundaries.append(Boundary(before=names[low], after=names[high], old=old, new=new, between=between))
                runs.append(Run(first=names[begin], last=names[low], state=old))
                begin = high
        if solid:
            runs.append(Run(first=names[begin], last=names[solid[-1]], state=self.states[begin]))
        return History(
            versions=names,
            states={names[index]: state for index, state in sorted(self.states.items())},
            runs=tuple(runs),
            boundaries=tuple(boundaries),
            monotone=self.monotone,
            holes=tuple(names[index] for index in sorted(self.states) if index not in solid),
        )


def search(
    versions: Sequence[str],
    ask: Callable[[str], State],
    *,
    known: Mapping[str, State] | None = None,
    probes: int = PROBES,
    scan: bool = False,
) -> History:
    """Find where the state of releases changes.

    Parameters
    ----------
    versions: the releases, oldest first.
    ask: tells the state of one; called at most once for each.
    known: states that cost nothing.
    probes: how many releases to ask beyond what the search needs.
    scan: ask all of them.
    """
    state = _Search(versions, ask, known or {})
    state.ends()
    state.narrow()
    left = probes
    while state.monotone and left > 0 and state.probe():
        left -= 1
        state.narrow()
    # Last, so that what is known already does not change which ones are asked: the same search again asks nothing.
    state.recall()
    if scan or not state.monotone:
        state.scan()
    return state.history()


def _middle(indexes: Sequence[int]) -> int:
    """The one nearest to the middle of a stretch, some of which may be missing."""
    centre = (indexes[0] + indexes[-1]) / 2
    return min(indexes, key=lambda index: abs(index - centre))
