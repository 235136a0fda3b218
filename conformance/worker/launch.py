"""Entry point of a worker process, run by path in the candidate's interpreter: ``launch.py ANSWERS``.

ANSWERS is the file descriptor for answers; questions come on standard input.

It offers ``conformance.worker`` to that interpreter without putting this distribution, or any of its
dependencies, on the interpreter's path: a managed environment must see its own packages only.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent


def start() -> None:
    """Make ``conformance.worker`` importable, take this folder off the path, and serve."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    package = types.ModuleType("conformance")
    package.__path__ = [str(HERE.parent)]
    sys.modules["conformance"] = package
    from conformance.worker.serve import serve

    sys.exit(serve(int(sys.argv[1])))


if __name__ == "__main__":
    start()
