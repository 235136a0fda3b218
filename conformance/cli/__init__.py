"""The command line: a module a command, hung on `conformance.cli.root.main` when it is first asked for.

Exit codes: 0 nothing diverges; 1 something diverges; 2 bad usage or input; 3 could not be completed (an
environment or worker broke, an answer is inconclusive, nothing was compared, interrupted).
"""

from conformance.cli.root import main

__all__ = ["main"]
