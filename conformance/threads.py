"""One BLAS thread, for workers and for the process that judges."""

from __future__ import annotations

import os
import sys
from typing import Final

PINNED: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Libraries of several threads next to each other are many times slower, and the number of threads is a fact that every
observation should share."""


def pin() -> None:
    """Have this process keep to one thread: the judgement's products are small, and workers need the other cores.

    A library that is loaded later reads the variables, and starts no threads that it would have to stop.
    """
    os.environ.update(PINNED)
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - only where NumPy was there before

        threadpool_limits(limits=1)
