"""The command line: a module a command, all hung on `conformance.cli.root.main` by their import.

Exit codes: 0 nothing diverges; 1 something diverges; 2 bad usage or input; 3 could not be completed (an
environment or worker broke, an answer is inconclusive, nothing was compared, interrupted).
"""

from conformance.cli import (
    accuracy,
    bench,
    bisect,
    catalogue,
    check_cell,
    env,
    figures,
    gate,
    replay,
    report,
    run,
    trend,
)
from conformance.cli.root import main

__all__ = [
    "accuracy",
    "bench",
    "bisect",
    "catalogue",
    "check_cell",
    "env",
    "figures",
    "gate",
    "main",
    "replay",
    "report",
    "run",
    "trend",
]
