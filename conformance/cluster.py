"""The shards of a campaign on a Dask cluster: one task each, run again elsewhere when a machine is lost.

Everything about scheduling, failures and transport is Dask's (the extra ``cluster``). A task is the command line of one
shard, run in a process of its own on the machine that takes it, and gives the bytes of its record; so a shard is the
same wherever it runs, and what arrives is read like any other record.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.errors import ConformanceError, EnvironmentUnavailable

CONNECT_SECONDS = 20
ATTEMPTS = 3
_TAIL = 2000
# The exit codes of a run that has come to its end: agrees, diverges, not all is shown.
_ENDED = (0, 1, 3)


class ShardFailed(RuntimeError):
    """A shard's command did not come to its end: its exit code and what it printed last."""


def run_shard(arguments: Sequence[str], index: int, of: int) -> bytes:
    """The record of one shard of ``rnn-conformance run ARGUMENTS``; called where the shard is to run.

    Raises
    ------
    ShardFailed: the command left no record.
    """
    with TemporaryDirectory(prefix="rnn-conformance-shard-", ignore_cleanup_errors=True) as folder:
        words = ["run", *arguments, "--quiet", "--shard", f"{index}/{of}", "--output", folder]
        done = subprocess.run(
            [sys.executable, "-m", "conformance.cli", *words],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        records = sorted(Path(folder).glob("*.jsonl"))
        if done.returncode not in _ENDED or len(records) != 1:
            tail = (done.stderr or done.stdout)[-_TAIL:].decode("utf-8", "replace")
            raise ShardFailed(f"exit code {done.returncode}\n{tail}")
        return records[0].read_bytes()


def on_cluster(
    address: str,
    arguments: Sequence[str],
    of: int | None,
    into: Callable[[int, int], Path],
    tell: Callable[[str], None],
) -> tuple[Path, ...]:
    """Run all shards on the cluster behind a scheduler; every record is written as it arrives.

    of: how many shards, None for two for each thread of the cluster, so that unequal machines even out.
    into: the file for shard i of n.

    Raises
    ------
    ConformanceError: Dask is not installed, or a shard failed wherever it was tried.
    EnvironmentUnavailable: nobody answers at the address, or the cluster has no workers.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise EnvironmentUnavailable(
            "no Dask scheduler answers", where=address, got=str(error) or type(error).__name__, wanted="tcp://HOST:PORT"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            hint = f"start one: dask worker {address}"
            raise EnvironmentUnavailable("the cluster has no workers", where=address, hint=hint) from None
        threads = sum(client.nthreads().values())
        count = of or 2 * threads
        tell(f"{count} shards on {threads} threads of {address}")
        futures = {
            client.submit(run_shard, tuple(arguments), index, count, pure=False, retries=ATTEMPTS): index
            for index in range(1, count + 1)
        }
        written: list[Path] = []
        try:
            for future in distributed.as_completed(list(futures), loop=client.loop):
                index = futures[future]
                try:
                    record = future.result()
                except Exception as error:
                    raise ConformanceError(
                        "a shard failed on the cluster",
                        where=f"shard {index}/{count}",
                        got=str(error)[-_TAIL:],
                        hint="what the other shards gave is kept: "
                        + (", ".join(path.name for path in written) or "nothing yet"),
                    ) from None
                path = into(index, count)
                path.write_bytes(record)
                written.append(path)
                tell(f"{len(written)} of {count} shards done")
        except BaseException:
            client.cancel(list(futures))
            raise
    return tuple(written)


def _distributed() -> Any:
    """Dask's module: optional, and slow to import."""
    try:
        return import_module("distributed")
    except ImportError:
        raise ConformanceError(
            "a cluster needs Dask",
            got="no module named distributed",
            hint="pip install 'rnn-conformance[cluster]'",
        ) from None
