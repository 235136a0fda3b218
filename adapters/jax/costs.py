"""What it costs JAX to trace and compile a function, measured from nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

# An operation in the text of a program; after a # stand attributes.
OPERATION = re.compile(r"(?<![#\w])(?:(?:stablehlo|chlo)\.[a-z]|call @)")


@dataclass(frozen=True)
class Costs:
    """Seconds from Python to StableHLO and from there to machine code, that StableHLO, and what was traced."""

    trace_seconds: float
    compile_seconds: float
    text: str
    jaxpr: Any

    @property
    def operations(self) -> int:
        """How many operations the program has, those inside loops once."""
        return len(OPERATION.findall(self.text))


def measured(function: Callable[..., Any], *arguments: Any) -> Costs:
    """Trace, lower and compile a function that is not jitted yet."""
    with without_caches():
        begin = time.perf_counter()
        # A new function each time: JAX keeps what it traced by the function's identity.
        traced = jax.jit(lambda *values: function(*values)).trace(*arguments)  # noqa: PLW0108 - see above
        lowered = traced.lower()
        middle = time.perf_counter()
        lowered.compile()
        end = time.perf_counter()
    return Costs(middle - begin, end - middle, lowered.as_text(), traced.jaxpr.jaxpr)


@contextmanager
def without_caches() -> Iterator[None]:
    """Nothing that was traced or compiled before helps, on disk neither; the compiler itself is warm."""
    # A user's JAX_COMPILATION_CACHE_DIR reaches this process, and JAX decides once whether it is used.
    option, before = "jax_enable_compilation_cache", jax.config.jax_enable_compilation_cache
    jax.config.update(option, val=False)
    compilation_cache.reset_cache()
    try:
        jax.jit(lambda a: jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), c), a, a)).lower(np.ones((1, 1))).compile()
        jax.clear_caches()
        yield
    finally:
        jax.config.update(option, before)
        compilation_cache.reset_cache()
