"""What a sentence calls a candidate: ``MLX 0.31.1 (mlx:none)``; without its framework's own name, as a command does."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.record import CandidateLine
from conformance.report.wording import label, listed


def framework_of(line: CandidateLine | None) -> str:
    """The framework and its release, ``MLX 0.31.1``; "" where the record does not name it."""
    return "" if line is None or not line.framework else label(f"{line.framework} {line.version}".rstrip())


def called(name: str, line: CandidateLine | None) -> str:
    """One candidate; its release is told once."""
    return called_together([(name, line)])


def called_together(candidates: Sequence[tuple[str, CandidateLine | None]], *, most: int = 0) -> str:
    """Candidates by name and line, those of one release beside each other: ``MLX 0.32.4 (mlx:none and mlx:zeros)``.

    most: how many are named; the others are counted.
    """
    shown = candidates[:most] if most else candidates
    alike: dict[str, list[str]] = {}
    for name, line in shown:
        told = framework_of(line)
        own = name if not told or line is None else name.replace(f"=={line.version}", "", 1)
        alike.setdefault(told or f"\0{name}", []).append(label(own))
    texts = [names[0] if told.startswith("\0") else f"{told} ({listed(names)})" for told, names in alike.items()]
    lost = len(candidates) - len(shown)
    return listed([*texts, *([f"{lost} more"] if lost else [])])
