"""Worker processes: one per candidate, with deadlines, bounded restarts and a bounded memory of what they print.

The host sends a case and gets an observation or a `Broken`; it never raises for what a worker does. A crash,
a hang or a malformed answer costs that one case: the process group is killed and the next case gets a new
worker, until the restarts are used up. Workers are never given an expected answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar

from conformance.block import Block
from conformance.candidate import Adapter, Variant
from conformance.case import Case
from conformance.environments import Interpreter
from conformance.exchange import Observation, Observations, block_question, observation, observations, question_of
from conformance.process import TAIL_BYTES, Died, Interrupted, Late, Process
from conformance.verdict import Broken, BrokenKind
from conformance.worker import wire

T = TypeVar("T")
# Restarts without a single observation in between; one that works in some dtypes only keeps its other results.
MAX_RESTARTS: Final = 10


def signal_name(code: int | None) -> str:
    """The signal behind an exit code: negative from the operating system, or 128 + n by convention."""
    number = 0 if code is None else (-code if code < 0 else code - 128)
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class Host:
    """Runs cases of one candidate in a worker that is started on first use and replaced when it breaks.

    Parameters
    ----------
    incident: called with a `Broken` whenever a worker had to be given up.
    stopped: asked while a worker is at work; once it is true the worker is killed and Interrupted raised.
    ready: called once with the framework's version and the facts of the first worker that came up.
    """

    def __init__(
        self,
        adapter: Adapter,
        variant: Variant,
        interpreter: Interpreter,
        *,
        incident: Callable[[Broken], None],
        ready: Callable[[str, dict[str, str]], None],
        case_seconds: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stopped = stopped
        self._adapter = adapter
        self._variant = variant
        self._interpreter = interpreter
        self._incident = incident
        self._ready = ready
        self._case_seconds = case_seconds if case_seconds is not None else adapter.case_seconds
        self._process: Process | None = None
        self._restarts = -1
        self._hopeless: Broken | None = None
        self._announced = False
        self._greeted = False
        self._version = ""
        self._facts: dict[str, str] = {}
        self._sent: tuple[Process, float] | None = None
        self._ahead: tuple[Case, float | Broken] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; one that breaks only now is an incident, as every answer was delivered before."""
        if self._process is not None:
            code, tail = self._process.stop()
            if code not in (0, None):
                text = f"the worker ended with exit code {code} after delivering every result"
                self._incident(_broken("crash", text, code, tail))
            self._process = self._ahead = None

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, None when there is none."""
        return None if self._process is None else self._process.pid

    @property
    def version(self) -> str:
        """The framework's version as the first worker found it, "" before that."""
        return self._version

    @property
    def _hint(self) -> str:
        """What to do when a framework cannot be imported beside the harness, or beside makeshift companions."""
        if self._interpreter.makeshift:
            return "; no companions of its time were found, it may be theirs: name an environment of your own by @PATH"
        if self._interpreter.kind != "current" or not self._adapter.requirements:
            return ""
        return f"; the adapter wants {', '.join(self._adapter.requirements)}, or another release of it"

    def launch(self) -> None:
        """Start the worker and do not wait for it: it imports its framework while the caller does something else."""
        if self._process is None and self._hopeless is None:
            self._spawn()

    def adopt(self, other: Host) -> None:
        """Go on with the worker of another host of this adapter in this interpreter, which has nothing to do.

        To start one may take seconds, and so may what it has compiled. Where none runs there is none to go on with; the
        other host starts a new one when it is asked.
        """
        assert self._adapter.folder == other._adapter.folder
        assert self._variant.environment == other._variant.environment
        assert self._interpreter.python == other._interpreter.python
        assert self._process is None
        assert other._sent is None
        assert other._ahead is None
        self._process, other._process = other._process, None
        if self._process is not None and other._greeted:
            self._greet(other._version, other._facts)

    def observe(self, case: Case) -> Observation | Broken:
        """Run one case: an observation with the shape, dtype and names of the contract, or how it broke."""
        answer = self._foreseen(case)
        if answer is None:
            process = self._started()
            if isinstance(process, Broken):
                return process
            answer = self._ask(process, self.question(case), self._case_seconds, "the case")
        if isinstance(answer, Broken):
            if self._process is None:
                self._incident(answer)
            return answer
        self._restarts = 0
        return observation(case, answer)

    def foresee(self, case: Case) -> None:
        """Send a case to a worker that has nothing to do: most likely it is observed next, after something is judged.

        Whatever else is asked next, its answer is dropped then.
        """
        process = self._process
        if process is None or not self._greeted or self._sent is not None or self._ahead is not None:
            return
        end, message = time.monotonic() + self._case_seconds, self.question(case)
        sent = self._talk(lambda: process.send(message, end, self._stopped), self._case_seconds, "the case")
        self._ahead = (case, sent if isinstance(sent, Broken) else end)

    def _foreseen(self, case: Case | None) -> wire.Message | Broken | None:
        """The answer to the case that was sent ahead, None where that is not this very one."""
        if self._ahead is None:
            return None
        (sent, how), self._ahead = self._ahead, None
        if isinstance(how, Broken):
            answer: wire.Message | Broken = how
        else:
            process = self._process
            assert process is not None
            answer = self._answer(lambda: process.receive(how, self._stopped), self._case_seconds, "the case")
        if sent is case:
            return answer
        if isinstance(answer, Broken) and self._process is None:
            self._incident(answer)
        return None

    def begin(self, block: Block) -> None:
        """Send a block to the worker; `finish` has the answer. In between the caller may do something else."""
        process = self._started()
        if isinstance(process, Broken):
            return
        message = block_question(block, self._variant.name)
        end = time.monotonic() + self._case_seconds
        if not isinstance(self._talk(lambda: process.send(message, end, self._stopped), self._case_seconds), Broken):
            self._sent = (process, end)

    def finish(self, block: Block) -> Observations:
        """The answer to the block that was begun last; what it does not hold must be asked for case by case.

        A worker that dies of one of the cases, or is late, leaves all of them to be asked for: the one that it dies of
        is found then, and the others lose nothing.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            return Observations(apart=tuple(range(block.count)))
        process, end = sent
        answer = self._talk(lambda: process.receive(end, self._stopped), self._case_seconds)
        if isinstance(answer, Broken):
            return Observations(apart=tuple(range(block.count)), broken=answer)
        self._restarts = 0
        return observations(block, answer)

    def question(self, case: Case, kind: str = "case", **more: str) -> wire.Message:
        """The message about a case; more: what its body says beside the case."""
        message = question_of(case, self._variant.name)
        return wire.Message(kind, {**message.body, **more}, message.tensors)

    def ask(self, message: wire.Message, what: str, *, again: bool = True) -> wire.Message | Broken:
        """The worker's answer to another message than a case, or how it broke.

        again: whether a new worker may be started for it; one that refers to what was sent before needs the same.
        """
        if not again and self._process is None:
            return Broken(kind="crash", message=f"the worker that was to answer {what} is gone")
        process = self._started()
        if isinstance(process, Broken):
            return process
        answer = self._ask(process, message, self._case_seconds, what)
        if isinstance(answer, Broken) and self._process is None:
            self._incident(answer)
        return answer

    def _started(self) -> Process | Broken:
        self._foreseen(None)
        if self._sent is not None:  # a block that nobody finished: the next message would get its answer
            self._sent = None
            if self._process is not None:
                self._give_up(patience=0.0)
        if self._process is None and self._hopeless is None:
            self._spawn()
        if self._process is None:
            assert self._hopeless is not None
            return self._hopeless
        return self._process if self._greeted else self._welcome(self._process)

    def _spawn(self) -> None:
        """Start a worker and say what it is to be; where that is hopeless there is none afterwards."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            text = f"the worker broke {self._restarts} times in a row and is not started again"
            self._hopeless = Broken(kind="abandoned", message=text)
            self._incident(self._hopeless)
            return
        try:
            self._process = Process(self._interpreter, self._variant.environment)
        except OSError as error:
            self._hopeless = Broken(
                kind="start", message=f"cannot start {self._interpreter.python}: {error.strerror or error}"
            )
            self._incident(self._hopeless)
            return
        self._greeted = False
        hello = wire.Message(
            "hello",
            {
                "adapter": str(self._adapter.folder),
                "shares": [str(folder) for folder in self._adapter.shares],
                "distribution": self._adapter.distribution,
            },
        )
        with suppress(Died):  # which is told when its answer is waited for
            self._process.send(hello, time.monotonic() + self._adapter.start_seconds, lambda: False)

    def _welcome(self, process: Process) -> Process | Broken:
        """The worker once it has come up."""
        seconds = self._adapter.start_seconds
        end = time.monotonic() + seconds
        answer = self._answer(lambda: process.receive(end, self._stopped), seconds, "its start")
        if isinstance(answer, Broken):
            broken = Broken(
                # Beside companions that it never knew, nothing is shown about the release.
                kind="environment" if self._interpreter.makeshift else "start",
                message=f"{self._adapter.title} does not start ({self._interpreter.label}): "
                f"{answer.message}{self._hint}",
                exit_code=answer.exit_code,
                signal=answer.signal,
                stderr_tail=answer.stderr_tail,
            )
            if self._process is not None:
                self._give_up()
            if answer.kind != "crash":
                # A framework that cannot be imported will not come up the next time either, and a hang costs the
                # whole deadline. A process that died may have been killed: it is started again, within bounds.
                self._hopeless = broken
            self._incident(broken)
            return broken
        facts = answer.body.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        self._greet(str(answer.body.get("version", "")), {str(k): str(v) for k, v in facts.items()})
        return process

    def _greet(self, version: str, facts: dict[str, str]) -> None:
        """The worker is up; what the first one says of its framework is told."""
        self._greeted = True
        if not self._announced:
            self._announced = True
            self._version, self._facts = version, facts
            self._ready(version, facts)

    def _ask(self, process: Process, message: wire.Message, seconds: float, what: str) -> wire.Message | Broken:
        return self._answer(lambda: process.ask(message, seconds, self._stopped), seconds, what)

    def _answer(self, exchange: Callable[[], wire.Message], seconds: float, what: str) -> wire.Message | Broken:
        answer = self._talk(exchange, seconds, what)
        if isinstance(answer, Broken) or answer.kind != "failure":
            return answer
        body = {str(key): str(value) for key, value in answer.body.items()}
        kind: BrokenKind = "contract" if body.get("kind") == "contract" else "exception"
        text = f"{body.get('type', 'error')}: {body.get('message', '')}"
        return Broken(kind=kind, message=text, stderr_tail=body.get("traceback", "")[-TAIL_BYTES:])

    def _talk(self, exchange: Callable[[], T], seconds: float, what: str = "a block of cases") -> T | Broken:
        """What an exchange with the running worker gives, or how the worker broke; then it has been given up."""
        try:
            return exchange()
        except Interrupted:
            self._give_up(patience=0.0)
            raise
        except Died:
            code, tail = self._give_up()
            name = signal_name(code)
            text = f"the worker died during {what} with exit code {code}" + (f" ({name})" if name else "")
            return _broken("crash", text, code, tail)
        except Late:
            _, tail = self._give_up(patience=0.0)
            return _broken("hang", f"no answer to {what} within {seconds:g} s: killed", None, tail)
        except wire.WireError as error:
            code, tail = self._give_up()
            return _broken("contract", f"the worker sent a malformed message: {error}", code, tail)

    def _give_up(self, *, patience: float = 2.0) -> tuple[int | None, str]:
        assert self._process is not None
        process, self._process = self._process, None
        self._ahead = None
        return process.stop(patience=patience)


def _broken(kind: BrokenKind, message: str, code: int | None, tail: str) -> Broken:
    return Broken(kind=kind, message=message, exit_code=code, signal=signal_name(code), stderr_tail=tail)
