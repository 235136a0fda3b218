"""A campaign on a real Dask cluster: a scheduler and workers in processes of their own, one of which is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from test_campaign import plain

from conformance.cli import main
from conformance.cluster import ShardFailed, run_shard
from conformance.recordfile import read_record

WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
ASKED = (
    "wrong:good",
    "--adapter",
    WRONG,
    "-k",
    "gru_hidden_given",
    "--examples",
    "1",
    "--cases",
    "192",
    "--forget",
    "-q",
)


class Cluster:
    """A scheduler and two workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "scheduler.log"
        self._scheduler = self._start(
            "scheduler", "dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"
        )
        self.address = self._found()
        self.workers = [self.worker(name) for name in ("one", "two")]

    def _start(self, name: str, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        words = (
            "--no-nanny",
            "--nthreads",
            "1",
            "--no-dashboard",
            "--name",
            name,
            "--local-directory",
            str(self._folder),
        )
        return self._start(name, "dask_worker", self.address, *words)

    def _found(self) -> str:
        for _ in range(600):
            found = re.search(r"tcp://127\.0\.0\.1:\d+", self.log.read_text(encoding="utf-8"))
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text(encoding="utf-8"))

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            if process.poll() is None:
                self.kill(process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for one test."""
    running = Cluster(tmp_path)
    yield running
    running.close()


def asked(*more: str) -> Result:
    return CliRunner().invoke(main, ["run", *ASKED, *more])


def running(worker: subprocess.Popen[bytes]) -> str:
    """The command lines of what a worker has started."""
    words: list[str] = []
    for child in psutil.Process(worker.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words += child.cmdline()
    return " ".join(words)


def test_a_killed_machine_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """One of two workers is killed while its shard runs; the record is that of an undivided run here."""
    results: list[Result] = []
    words = ("--scheduler", cluster.address, "--shards", "3", "--output", str(tmp_path / "far"))
    thread = threading.Thread(target=lambda: results.append(asked(*words)))
    thread.start()
    while "--shard" not in running(cluster.workers[0]):
        assert thread.is_alive(), results
        time.sleep(0.05)
    cluster.kill(cluster.workers[0])
    thread.join(timeout=240)
    assert results
    assert results[0].exit_code == 0, results[0].output
    assert asked("--output", str(tmp_path / "here")).exit_code == 0
    (far,) = (p for p in (tmp_path / "far").glob("*.jsonl") if "shard" not in p.name)
    (here,) = (tmp_path / "here").glob("*.jsonl")
    assert plain(read_record(far)) == plain(read_record(here))
    assert len(list((tmp_path / "far").glob("*-shard-*-of-3.jsonl"))) == 3
    assert read_record(far).blocks


def test_a_shard_that_leaves_no_record_is_told() -> None:
    """What the command said is what the task says."""
    with pytest.raises(ShardFailed, match=r"exit code 2\nerror: unknown adapter\n  where: nobody:here"):
        run_shard(("nobody:here", "--cases", "64"), 1, 2)


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a scheduler ends with one message, and its own exit code."""
    monkeypatch.setattr("conformance.cluster.CONNECT_SECONDS", 1)
    result = asked("--scheduler", "tcp://127.0.0.1:9", "--output", str(tmp_path))
    assert result.exit_code == 3
    assert "no Dask scheduler answers" in result.output


@pytest.mark.parametrize(
    "words", [("--shards", "2"), ("--scheduler", "tcp://127.0.0.1:9", "--shard", "1/2"), ("--shard", "3/2")]
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    """Each with a message of its own, before anything is run."""
    result = asked(*words, "--output", str(tmp_path))
    assert result.exit_code == 2
    assert "wanted" in result.output
