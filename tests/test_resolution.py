"""What goes into the environment of one release, decided on tiny wheels: companions of its time, wheels, no CUDA."""

from __future__ import annotations

import json
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conformance import installer, resolution
from conformance.environments import list_environments, managed
from conformance.errors import EnvironmentUnavailable, Unreachable
from conformance.installer import index_versions
from conformance.releases import Span, parse_span, releases
from conformance.resolution import GRACE, resolved

PYTHONS = resolution._pythons
QUIET = partial(resolved, progress=lambda _: None)


def wheel(folder: Path, name: str, version: str, *, needs: tuple[str, ...] = (), tag: str = "py3-none-any") -> str:
    """Write the smallest wheel of `name` and return its file name."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    file = f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return file


class Index:
    """A package index on this machine that tells dates: files by distribution, name -> upload time, and yanked ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, str]] = {}
        self.yanked: dict[str, str] = {}
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, _, name = self.path.strip("/").partition("/")
                if name.endswith(".metadata"):
                    with zipfile.ZipFile(index.folder / name.removesuffix(".metadata")) as archive:
                        (inside,) = (one for one in archive.namelist() if one.endswith("METADATA"))
                        self.answer("application/octet-stream", archive.read(inside))
                elif kind == "files":
                    self.answer("application/octet-stream", (index.folder / name).read_bytes())
                elif name in index.files:
                    self.answer("application/vnd.pypi.simple.v1+json", json.dumps(index.page(name)).encode())
                else:
                    self.send_error(404)

            def answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/simple"

    def page(self, name: str) -> dict[str, object]:
        files = [
            {
                "filename": file,
                "url": f"../../files/{file}",
                "hashes": {},
                "core-metadata": file.endswith(".whl"),
                "upload-time": time,
                "yanked": self.yanked.get(file, False),
            }
            for file, time in self.files[name].items()
        ]
        return {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files}

    def add(self, name: str, version: str, time: str, **options: object) -> None:
        file = wheel(self.folder, name, version, **options)  # type: ignore[arg-type]
        self.files.setdefault(name, {})[file] = time

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that is all that pip and uv may see; `old` 1.0 is of 2021, and its companion has a release of 2024."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "files"
    folder.mkdir()
    found = Index(folder)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", found.url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resolution, "_pythons", lambda _: iter((Path(sys.executable),)))
    listing = f":env:.index-url={found.url!r}\n:env:.retries='0'\n"
    monkeypatch.setattr(installer, "_pip_config", lambda: listing)
    found.add("companion", "1.0", "2021-01-01T00:00:00Z")
    found.add("companion", "2.0", "2024-01-01T00:00:00Z")
    found.add("old", "1.0", "2021-06-01T00:00:00Z", needs=("companion",))
    yield found
    found.close()


def test_an_old_release_gets_the_companions_of_its_time(index: Index) -> None:
    """What was uploaded years later is not taken, also where nothing forbids it."""
    found = QUIET(["old==1.0", "companion"], "old")
    assert found.pins == ("companion==1.0", "old==1.0")
    assert found.until == "2021-06-03T00:00:00Z"
    assert GRACE.days == 2


def test_the_environment_holds_what_was_resolved(index: Index) -> None:
    """Nothing newer comes in on the way, and the facts say until when."""
    managed("old", ["old==1.0"], release_of="old")
    (made,) = list_environments()
    assert (made.packages["companion"], made.until) == ("1.0", "2021-06-03T00:00:00Z")
    managed("old", ["old==1.0", "companion>=2"], release_of="old")
    newer = next(found for found in list_environments() if found.key != made.key)
    assert (newer.packages["companion"], newer.until) == ("2.0", "")


def test_where_nothing_of_its_time_fits_the_newest_is_taken_and_said(index: Index) -> None:
    """A bound of the adapter that the old companion does not meet."""
    told: list[str] = []
    found = resolved(["old==1.0", "companion>=2"], "old", progress=told.append)
    assert found.pins == ("companion==2.0", "old==1.0")
    assert found.until == ""
    assert any("taking the newest" in line for line in told)


def test_cuda_is_refused_before_anything_is_downloaded(index: Index) -> None:
    """A dependency named nvidia-* ends it, with what to do; no environment is left."""
    index.add("nvidia_cublas_cu12", "12.0", "2021-01-01T00:00:00Z")
    index.files["nvidia-cublas-cu12"] = index.files.pop("nvidia_cublas_cu12")
    index.add("big", "1.0", "2021-06-01T00:00:00Z", needs=("nvidia-cublas-cu12",))
    with pytest.raises(EnvironmentUnavailable, match="CUDA libraries") as caught:
        managed("big", ["big==1.0"], release_of="big")
    assert "nvidia-cublas-cu12" in caught.value.got
    assert "find-links" in caught.value.hint
    assert list_environments() == []


def test_where_companions_of_its_time_bring_cuda_the_pinned_ones_are_taken(index: Index) -> None:
    """And said; where the release does not go with them, what is refused is what its own time would bring."""
    index.add("nvidia_cublas", "12.0", "2021-01-01T00:00:00Z")
    index.files["nvidia-cublas"] = index.files.pop("nvidia_cublas")
    index.add("engine", "1.0", "2021-01-01T00:00:00Z", needs=("nvidia-cublas",))
    index.add("engine", "2.0", "2024-01-01T00:00:00Z")
    index.add("model", "1.0", "2021-06-01T00:00:00Z", needs=("engine",))
    told: list[str] = []
    pinned = ["model==7.0", "engine==2.0"]
    found = resolved(["model==1.0", "engine"], "model", pinned=pinned, progress=told.append)
    assert found.pins == ("engine==2.0", "model==1.0")
    assert found.until == ""
    assert any("would bring CUDA libraries, taking engine==2.0" in line for line in told)
    for pins in ((), ["model==7.0"], ["model==7.0", "engine==9.0"]):
        with pytest.raises(EnvironmentUnavailable, match="CUDA libraries"):
            QUIET(["model==1.0", "engine"], "model", pinned=pins)


def test_an_environment_without_companions_of_its_time_is_makeshift(index: Index) -> None:
    """Also when it is found again; those of its time, and those of no single release, are not."""
    newest = ["old==1.0", "companion>=2"]
    for _ in range(2):
        assert managed("old", newest, release_of="old").makeshift
        assert not managed("old", ["old==1.0", "companion"], release_of="old").makeshift
        assert not managed("old", ["old==1.0"]).makeshift


def test_a_release_for_another_python_takes_one_that_is_installed(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness's own is asked first; what is told when none fits is about that one."""
    index.add("later", "1.0", "2021-06-01T00:00:00Z", tag="cp399-cp399-linux_x86_64")
    with pytest.raises(EnvironmentUnavailable, match=r"later==1\.0"):
        QUIET(["later==1.0"], "later")
    asked: list[Path] = []
    real = resolution.offered

    def offered(uv: object, requirement: str, *, python: Path | None = None, fresh: bool = False) -> object:
        assert python is not None
        asked.append(python)
        if python == Path(sys.executable) and len(asked) == 1:
            raise EnvironmentUnavailable("It needs another Python")
        return real(uv, "old==1.0", python=python)  # type: ignore[arg-type]

    monkeypatch.setattr(resolution, "offered", offered)
    other = Path(sys.executable).parent / "python3"
    monkeypatch.setattr(resolution, "_pythons", lambda _: iter((Path(sys.executable), other)))
    found = QUIET(["old==1.0"], "old")
    assert (found.python, asked) == (other, [Path(sys.executable), other])


def test_other_pythons_are_found_where_uv_finds_them() -> None:
    """One per minor version, CPython, no older than workers need, the harness's own first."""
    here = ".".join(map(str, sys.version_info[:2]))
    rows = [
        ("cpython", 3, 12, "default", "/a"),
        ("cpython", 3, 12, "default", "/b"),
        ("cpython", 3, 13, "freethreaded", "/c"),
        ("pypy", 3, 13, "default", "/d"),
        ("cpython", 3, 10, "default", "/e"),
        ("cpython", *map(int, here.split(".")), "default", "/f"),
        ("cpython", 3, 14, "default", None),
    ]
    listing = [
        {"implementation": kind, "version_parts": {"major": major, "minor": minor}, "variant": variant, "path": path}
        for kind, major, minor, variant, path in rows
    ]

    class Told:
        def run(self, *_: object) -> tuple[str, str]:
            return json.dumps(listing), ""

    found = list(PYTHONS(Told()))  # type: ignore[arg-type]
    assert found[0] == Path(sys.executable)
    assert [str(path) for path in found[1:]] == [path for path in ("/a",) if here != "3.12"]


def test_a_release_that_exists_as_source_alone_is_not_built(index: Index) -> None:
    """No compiler runs; the message says that there is no wheel."""
    (index.folder / "only-1.0.tar.gz").write_bytes(b"never opened")
    index.files["only"] = {"only-1.0.tar.gz": "2021-06-01T00:00:00Z"}
    with pytest.raises(EnvironmentUnavailable, match=r"only==1\.0") as caught:
        QUIET(["only==1.0"], "only")
    assert "no usable wheels" in caught.value.got


# --- Which releases there are ---


def test_releases_are_those_of_the_range_without_yanked_and_pre_releases(index: Index) -> None:
    """Oldest first, by version and not by spelling; what was left out is said of the ends that were named."""
    for version in ("1.1", "1.9", "1.10", "1.11", "2.0rc1", "2.0"):
        index.add("old", version, "2022-01-01T00:00:00Z")
    index.yanked["old-1.9-py3-none-any.whl"] = "broken"
    listed = partial(releases, "old", progress=lambda _: None)
    assert listed(parse_span("1.1..2.0")).versions == ("1.1", "1.10", "1.11", "2.0")
    assert listed(parse_span("1.1..2.0"), pre=True).versions == ("1.1", "1.10", "1.11", "2.0rc1", "2.0")
    assert listed(parse_span("1.10..")).versions == ("1.10", "1.11", "2.0")
    assert listed(parse_span("..1.1")).versions == ("1.0", "1.1")
    found = listed(parse_span("1.9..1.10"))
    assert found.versions == ("1.10",)
    assert found.left_out["1.9"].startswith("yanked: broken")
    assert listed(parse_span("1.9..1.10"), also=["1.9"]).versions == ("1.9", "1.10")


def test_a_cut_network_leaves_the_list_that_is_kept(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh list is used without asking; an old one with a word of warning; none at all ends it."""
    span = Span(first="1.0", last="1.0")
    told: list[str] = []
    assert releases("old", span, progress=told.append).versions == ("1.0",)
    index.close()
    told.clear()
    assert releases("old", span, progress=told.append).versions == ("1.0",)
    assert told == []
    monkeypatch.setattr("conformance.releases.FRESH", -GRACE)
    assert releases("old", span, progress=told.append).versions == ("1.0",)
    assert any("using the list of releases of" in line for line in told)
    with pytest.raises(EnvironmentUnavailable, match="cannot be listed, and no earlier list is kept"):
        releases("companion", span, progress=told.append)


def test_no_network_is_told_as_that_and_not_as_a_missing_release(index: Index) -> None:
    """Nothing else is tried, no other Python and no other companions."""
    index.close()
    told: list[str] = []
    with pytest.raises(Unreachable, match="Nothing can be downloaded"):
        resolved(["old==1.0", "companion"], "old", progress=told.append)
    assert told == []


@pytest.mark.parametrize("text", ["", "..", "2..1", "one..two", "1..2..3"])
def test_a_range_that_cannot_be_is_refused(text: str) -> None:
    """The message says what a range looks like."""
    with pytest.raises(Exception, match="range of releases") as caught:
        parse_span(text)
    assert "FIRST..LAST" in caught.value.wanted  # type: ignore[attr-defined]


def test_what_pip_cannot_list_is_an_error_and_not_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only "no matching distribution" means that there is none."""

    def answer(code: int, out: str, err: str) -> None:
        done = installer.subprocess.CompletedProcess([], code, out.encode(), err.encode())
        monkeypatch.setattr(installer, "_run_pip", lambda *_: (done, ["pip"]))

    answer(1, "", "ERROR: No matching distribution found for old")
    assert index_versions("old", pre=False) == ()
    answer(0, "old (2.0)\nAvailable versions: 2.0, 1.0\n", "WARNING: experimental")
    assert index_versions("old", pre=False) == ("2.0", "1.0")
    for code, out in ((0, "something else"), (2, "Available versions: 1.0")):
        answer(code, out, "at https://me:secret@index/x")
        with pytest.raises(EnvironmentUnavailable, match="does not list") as caught:
            index_versions("old", pre=False)
        assert "secret" not in str(caught.value)
