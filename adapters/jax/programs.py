"""Programs that XLA compiled, kept from one worker to the next: every program is traced and lowered anew, not compiled.

JAX's persistent compilation cache finds a program by a digest of what was lowered, so that what it loads is what would
be compiled now, and a path that is read from a traced program stays true. Two things that it leaves open are added:

- Its key knows versions, not builds. So each *toolchain*, all that decides on machine code beside the program, has a
  folder of its own.
- It writes in place and believes what it reads. So JAX gets a scratch folder to itself. What is kept bears a digest in
  its name, appears by a rename, and is offered to JAX only while it has that digest; what has not is compiled again.

Nothing is unpickled: the files are XLA's own serialisation. They are machine code, to be trusted as far as the
environments that lie beside them. Without a folder, or where it cannot be written, programs are compiled as always.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

VARIABLE = "RNN_CONFORMANCE_PROGRAMS"  # set by the host; empty: keep nothing
LAYOUT = 1
# The oldest release for which a program that was loaded was shown to give the bits of one that was compiled.
OLDEST = (0, 10)
DISTRIBUTIONS = ("jax", "jaxlib", "flax")
LIBRARY = re.compile(r"\.(so|dylib|pyd|dll)(\.|$)")
# Environment variables that compilers and their libraries read.
PREFIXES = ("JAX_", "XLA_", "TF_", "LLVM_", "EIGEN_", "NPROC", "OMP_", "OPENBLAS_", "MKL_", "VECLIB_", "LD_")
# What a processor says of itself, without its present frequency.
PROCESSOR = re.compile(r"(vendor_id|cpu family|model|model name|stepping|flags|Features|CPU \w+)\s*:")
FOLDER_OPTION = "jax_compilation_cache_dir"
OPTIONS = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",
    "jax_compilation_cache_max_size": -1,
    "jax_compilation_cache_check_contents": False,
    "jax_raise_persistent_cache_errors": False,
}
# JAX tells these before it looks for a kept program, and after it has one, from wherever.
WANTED = "/jax/compilation_cache/compile_requests_use_cache"
HAD = "/jax/core/compile/backend_compile_duration"
# A small program takes about 5 MB of memory for as long as JAX holds it, which is for ever.
MOST = 64
KEPT = re.compile(r"(?P<entry>[^/]+-cache)\.(?P<digest>[0-9a-f]{64})")


# The toolchain


def toolchain() -> dict[str, Any]:
    """All that decides on machine code beside the lowered program, and the adapter's own files."""
    device = jax.devices()[0]
    ours = {FOLDER_OPTION, *OPTIONS}
    options = {name: value for name, value in jax.config.values.items() if name not in ours}
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}
    return {
        "layout": LAYOUT,
        "python": [sys.version, sysconfig.get_config_var("SOABI")],
        **{name: build_of(name) for name in DISTRIBUTIONS},
        "adapter": digest_of(sorted(file for folder in own_folders() for file in Path(folder).glob("*.py"))),
        "device": [device.platform, device.device_kind, device.client.platform_version],
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": [platform.machine(), *platform.libc_ver()],
        "options": options,
        "variables": {name: value for name, value in variables.items() if name.lower() not in ours},
    }


def own_folders() -> Sequence[str]:
    """The folders of the adapter that this module was loaded into."""
    return list(sys.modules[__package__].__path__)


def build_of(name: str) -> list[Any]:
    """What tells two builds of one version apart: the digests of the record of files, and libraries as they are now."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return []
    record = found.read_text("RECORD") or ""
    spec = find_spec(name)  # a checkout is imported from elsewhere than where its record lies
    places = [] if spec is None else spec.submodule_search_locations or []
    libraries = []
    for file in sorted(file for place in places for file in Path(place).rglob("*") if LIBRARY.search(file.name)):
        facts = file.stat()
        libraries.append([file.name, facts.st_size, facts.st_mtime_ns])
    return [found.version, hashlib.sha256(record.encode()).hexdigest(), libraries]


def processor(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The model and the features of the processor; where these cannot be read, the name of this machine."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return list(platform.uname())
    return sorted({line for line in lines if PROCESSOR.match(line)}) or list(platform.uname())


def digest_of(files: Iterable[Path]) -> str:
    """A digest of the names and contents of files."""
    told = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


# What is kept


class Shelf:
    """The kept programs of one toolchain.

    folder: theirs, shared with other workers; its name is the toolchain's.
    scratch: where JAX reads and writes, this process's own.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self._seen: set[Path] = set()  # in the folder, sound or not
        self._kept: set[str] = set()  # in the scratch folder and, soundly, in the folder
        self._changed = -1
        self._told = False

    def fetch(self) -> None:
        """Offer JAX what other workers have kept since the last time."""
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed != self._changed:
                self._changed = changed
                for path in sorted(set(self.folder.iterdir()) - self._seen):
                    self._seen.add(path)
                    self._offer(path)
        except OSError as error:
            self._tell(f"kept programs cannot be read: {error}")

    def _offer(self, path: Path) -> None:
        match = KEPT.fullmatch(path.name)
        if match is None or match["entry"] in self._kept:
            return
        entry, content = match["entry"], path.read_bytes()
        if self.sealed(entry, content) == match["digest"]:
            (self.scratch / entry).write_bytes(content)
            self._kept.add(entry)
        else:
            print(f"a kept program is damaged and is compiled again: {path}", file=sys.stderr)
            path.unlink()

    def publish(self) -> None:
        """Keep what JAX has compiled since the last time."""
        try:
            for made in sorted(self.scratch.iterdir()):
                if made.name not in self._kept:
                    self._kept.add(made.name)
                    content = made.read_bytes()
                    path = self.folder / f"{made.name}.{self.sealed(made.name, content)}"
                    self._seen.add(path)
                    write(path, content)
        except OSError as error:
            self._tell(f"compiled programs are not kept: {error}")

    def sealed(self, entry: str, content: bytes) -> str:
        """The digest of a program under its name, in this toolchain's folder."""
        return hashlib.sha256(f"{self.folder.name}/{entry}\n".encode() + content).hexdigest()

    def _tell(self, text: str) -> None:
        if not self._told:  # once: the next program meets the same folder
            print(text, file=sys.stderr)
        self._told = True


def write(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all; of two writers one wins."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def keep() -> str:
    """Keep the programs of this process in the folder that the host names; what came of it, for the worker's facts."""
    # A user's JAX_COMPILATION_CACHE_DIR reaches this process: its key does not know which build filled it.
    jax.config.update(FOLDER_OPTION, None)
    compilation_cache.reset_cache()
    named, alone = os.environ.get(VARIABLE, ""), "compiled by each worker"
    if not named:
        return alone
    if jax.__version_info__ < OLDEST:
        return f"{alone}: not tried with this release of JAX"
    if jax.default_backend() != "cpu":
        return f"{alone}: a device's programs are not kept"
    told = json.dumps(toolchain(), indent=1, sort_keys=True, default=str)
    try:
        folder = Path(named) / hashlib.sha256(told.encode()).hexdigest()[:32]
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="jax-programs-", ignore_cleanup_errors=True)
    except OSError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr)
        return alone
    with suppress(OSError):  # for people, who want to know whose programs these are; its time is that of the last use
        write(folder / "toolchain.json", told.encode())
    shelf = Shelf(folder, Path(scratch.name))
    for name, value in OPTIONS.items():
        jax.config.update(name, value)
    jax.config.update(FOLDER_OPTION, scratch.name)

    def wanted(event: str, **_: Any) -> None:
        if event == WANTED:
            shelf.fetch()

    def had(event: str, *_: Any, **__: Any) -> None:
        if event == HAD:
            shelf.publish()

    jax.monitoring.register_event_listener(wanted)
    jax.monitoring.register_event_duration_secs_listener(had)
    atexit.register(scratch.cleanup)
    return "kept from one worker to the next"


class Held:
    """Bounds the programs that this process holds: a campaign may ask for hundreds, and is done with most of them."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._had)

    def _had(self, event: str, *_: Any, **__: Any) -> None:
        self.count += event == HAD

    def bound(self) -> None:
        """Have JAX forget all programs where there are too many: those still wanted are traced, and fetched, again."""
        if self.count > self.most:
            jax.clear_caches()
            self.count = 0


HELD = Held()
