"""Which requirement lines a candidate's environment gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.errors import SpecError
from conformance.pins import requirements_for

PINS = (
    "mlx[cpu]==0.31.1 ; sys_platform == 'linux'",
    "helper[fast]==2.0; python_version >= '3.8'",
    "numpy>=2,<3",
)


def test_pins_stay_when_nothing_is_asked_for() -> None:
    """Without a version or a source, the adapter's own lines are used, less comments and blanks."""
    lines = ["# why", "", "mlx[cpu]==0.31.1  # gate", "numpy>=2"]
    assert requirements_for(lines, distribution="mlx") == ("mlx[cpu]==0.31.1", "numpy>=2")


def test_version_repins_the_framework_and_lifts_other_pins() -> None:
    """Extras, markers and bounds survive; only the pins of others go."""
    assert requirements_for(PINS, distribution="MLX", version="0.30.1") == (
        'mlx[cpu]==0.30.1; sys_platform == "linux"',
        'helper[fast]; python_version >= "3.8"',
        "numpy<3,>=2",
    )


def test_every_line_of_the_framework_is_repinned() -> None:
    """A framework may have one line per platform."""
    lines = ["mlx==1; sys_platform == 'darwin'", "mlx[cpu]==1; sys_platform == 'linux'"]
    assert requirements_for(lines, distribution="mlx", version="2") == (
        'mlx==2; sys_platform == "darwin"',
        'mlx[cpu]==2; sys_platform == "linux"',
    )


def test_source_takes_the_place_of_the_pin(tmp_path: Path) -> None:
    """A local wheel keeps the framework's extras and markers, and becomes a URL, spaces quoted."""
    folder = tmp_path / "my wheels"
    folder.mkdir()
    wheel = folder / "mlx-9.0-py3-none-any.whl"
    wheel.touch()
    own, helper, _ = requirements_for(PINS, distribution="mlx", source=wheel)
    assert own == f'mlx[cpu] @ {wheel.as_uri()} ; sys_platform == "linux"'
    assert "my%20wheels" in own
    assert helper == 'helper[fast]; python_version >= "3.8"'


def test_checkout_is_a_source(tmp_path: Path) -> None:
    """A folder with a pyproject.toml can be installed."""
    checkout = tmp_path / "tiny"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    assert requirements_for(["tiny==1"], distribution="tiny", source=checkout) == (f"tiny @ {checkout.as_uri()}",)


@pytest.mark.parametrize(
    ("lines", "version", "problem"),
    [
        pytest.param(["numpy"], None, "do not name mlx", id="framework-missing"),
        pytest.param(["mlx==1", "--no-index"], None, "Not a requirement", id="option-line"),
        pytest.param(["mlx==1"], "newest", "Not a version", id="no-version"),
    ],
)
def test_bad_requirements_are_spec_errors(lines: list[str], version: str | None, problem: str) -> None:
    """What cannot be read is the user's to mend."""
    with pytest.raises(SpecError, match=problem):
        requirements_for(lines, distribution="mlx", version=version)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("absent.whl", "Not something that can be installed", id="absent"),
        pytest.param("notes.txt", "Not something that can be installed", id="no-wheel"),
        pytest.param("mlx.whl", "Not the file name of a wheel", id="renamed-wheel"),
        pytest.param("torch-1.0-py3-none-any.whl", "another distribution", id="other-wheel"),
        pytest.param("folder", "Not something that can be installed", id="no-checkout"),
    ],
)
def test_bad_sources_are_spec_errors(tmp_path: Path, name: str, problem: str) -> None:
    """A source that uv could not use is refused before anything starts."""
    (tmp_path / "folder").mkdir()
    for file in ("notes.txt", "mlx.whl", "torch-1.0-py3-none-any.whl"):
        (tmp_path / file).touch()
    with pytest.raises(SpecError, match=problem):
        requirements_for(["mlx==1"], distribution="mlx", source=tmp_path / name)


def test_version_and_source_exclude_each_other(tmp_path: Path) -> None:
    """Two answers to one question are refused."""
    with pytest.raises(SpecError, match="exclude each other"):
        requirements_for(["mlx"], distribution="mlx", version="1", source=tmp_path)
