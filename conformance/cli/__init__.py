"""The command line: a module a command, all hung on `conformance.cli.root.main` by their import.

Exit codes: 0 nothing diverges; 1 something diverges; 2 bad usage or input; 3 could not be completed (an
environment or worker broke, an answer is inconclusive, nothing was compared, interrupted).
"""

from conformance.cli import catalogue, env, figures, gate, report, run
from conformance.cli.root import main

__all__ = ["catalogue", "env", "figures", "gate", "main", "report", "run"]
