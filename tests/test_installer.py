"""pip's settings in uv's words, and uv's failures in words that a user can act on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from conformance import installer
from conformance.errors import EnvironmentUnavailable
from conformance.installer import PipSettings, install, pip_settings

# --- pip's settings ---


def test_settings_follow_pips_precedence() -> None:
    """Variables beat the command's section, which beats the global one; empty values beat nothing."""
    listing = """\
global.index-url='https://global/simple'
install.index_url='https://install/simple'
global.retries='2'
:env:.retries=''
global.timeout='5'
:env:.timeout='7.5'
download.no-index='yes'
a warning that is no setting
"""
    assert pip_settings(listing) == PipSettings(index="https://install/simple", retries=2, timeout_s=8)


def test_settings_with_several_values_are_split() -> None:
    """Values are separated, as pip does it, by any white space, line breaks included."""
    settings = pip_settings("global.extra-index-url='\\nhttps://a/simple\\nfile:///b'\nglobal.find-links='/x /y'\n")
    assert settings.extra_indexes == ("https://a/simple", "file:///b")
    assert settings.find_links == ("/x", "/y")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder is not the one that uv runs in."""
    monkeypatch.chdir(tmp_path)
    settings = pip_settings(":env:.find-links='wheels https://x/wheels'\n:env:.cert='ca.pem'\n")
    assert settings.find_links == (str(tmp_path / "wheels"), "https://x/wheels")
    assert settings.cert == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("line", [":env:.no-index='perhaps'", "global.timeout='soon'"])
def test_unreadable_settings_are_told(line: str) -> None:
    """What pip refuses is refused here, too."""
    with pytest.raises(EnvironmentUnavailable, match="cannot be read"):
        pip_settings(line)


def test_the_higher_ranking_file_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip lists a key once per file, ordered by path, pip is asked which value holds."""
    said = {
        ("config", "list"): "global.cert='/site.pem'\nglobal.cert='/user.pem'\nglobal.pre='1'\n",
        ("config", "get", "global.cert"): "/site.pem\n",
    }
    monkeypatch.setattr(installer, "_pip", lambda *arguments: said[arguments])
    assert pip_settings(installer._pip_config()) == PipSettings(cert="/site.pem", pre=True)


def test_settings_reach_uv(tmp_path: Path) -> None:
    """Each setting has its word in uv; URLs, which may hold passwords, are no arguments."""
    arguments, variables = installer._for_uv(
        PipSettings(
            index="https://me:secret@index/simple",
            extra_indexes=("https://a/simple", "https://b/simple"),
            find_links=("/x",),
            no_index=True,
            trusted_hosts=("a",),
            cert=str(tmp_path / "ca.pem"),
            client_cert="/client.pem",
            proxy="http://proxy",
            constraints=("/c.txt",),
            pre=True,
            timeout_s=7,
            retries=0,
        )
    )
    assert " ".join(arguments) == (
        "--index-strategy unsafe-best-match --no-index --prerelease allow "
        "--find-links /x --allow-insecure-host a --constraints /c.txt"
    )
    assert variables == {
        "UV_DEFAULT_INDEX": "https://me:secret@index/simple",
        "UV_INDEX": "https://a/simple https://b/simple",
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "SSL_CLIENT_CERT": "/client.pem",
        "UV_HTTP_TIMEOUT": "7",
        "UV_HTTP_RETRIES": "0",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://proxy"),
    }


def test_find_links_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    """Like pip, we warn and go on; uv would fail. What is a URL is for uv to see."""
    places = (str(tmp_path), tmp_path.as_uri(), "https://x/wheels")
    told: list[str] = []
    settings = PipSettings(find_links=(*places, str(tmp_path / "gone"), (tmp_path / "gone").as_uri()))
    assert installer._existing(settings, told.append) == PipSettings(find_links=places)
    assert ["passed over" in line for line in told] == [True, True]


# --- Failures in words ---


@pytest.mark.parametrize(
    ("said", "what"),
    [
        pytest.param("Because there is no\n   version of tiny==9 and", "No such release", id="release-wrapped"),
        pytest.param("tiny==9 has no wheels with a matching platform tag", "No such release", id="platform"),
        pytest.param("Failed to fetch: `x`\n dns error", "Nothing can be downloaded", id="network"),
        pytest.param("invalid peer certificate: UnknownIssuer", "not trusted", id="certificate"),
        pytest.param("Failed to build `x`\n error sending request", "Nothing can be downloaded", id="build-network"),
        pytest.param("Failed to build `x`\n CMake Error", "does not build", id="build"),
        pytest.param("No solution found: a needs b<1, you require b==2", "exclude each other", id="conflict"),
        pytest.param("No space left on device (os error 28)", "disk is full", id="disk"),
        pytest.param("something new", "uv failed", id="unknown"),
    ],
)
def test_failures_are_told_apart(said: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What uv says becomes what the user can do; the cause counts, not its effect."""
    monkeypatch.delenv("UV_OFFLINE", raising=False)
    error = installer._explained(said, ["tiny==9"], got=said)
    assert what in error.what
    assert "tiny==9" in error.what


def test_offline_is_not_called_a_missing_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stay offline, uv says "no version of" a release that it has not cached."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    error = installer._explained("there is no version of tiny==1.0", ["tiny==1.0"], got="")
    assert "offline" in error.what


def test_passwords_are_not_repeated() -> None:
    """An index's password stays out of messages."""
    assert installer._without_passwords("at https://me:secret@index/x") == "at https://****@index/x"


# --- Running uv ---


def test_missing_uv_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uv, the message says what to install."""

    def gone() -> str:
        raise FileNotFoundError("no uv in any of these places")

    monkeypatch.setattr("uv.find_uv_bin", gone)
    with pytest.raises(EnvironmentUnavailable, match="uv is needed") as caught:
        install(tmp_path, ["tiny==1.0"], progress=print)
    assert "pip install uv" in caught.value.hint


def test_closed_index_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, the message is about downloading, not about releases."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    listing = f"global.index-url='http://127.0.0.1:{port}/simple'\nglobal.retries='0'\n"
    monkeypatch.setattr(installer, "_pip_config", lambda: listing)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.delenv("UV_OFFLINE", raising=False)
    with pytest.raises(EnvironmentUnavailable, match="Nothing can be downloaded"):
        install(tmp_path / "made", ["tiny==1.0"], progress=print)
