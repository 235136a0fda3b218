"""A real Chromium for the tests of pages, and the pages that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import test_gate
import test_history
import test_speed
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from reading import HOSTILE, opened
from test_report import hostile, typical

from conformance.report.html import render_html
from conformance.report.trend import render_trend

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's executable: $CHROMIUM, or one on the path; a failure says what to install, and skips nothing."""
    named = os.environ.get("CHROMIUM", "")
    found = named or next(filter(None, map(shutil.which, _NAMES)), "")
    if not found:
        pytest.fail(
            f"no browser: none of {', '.join(_NAMES)} is on the path; install Debian's chromium, or set CHROMIUM"
        )
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The installed Chromium; nothing is downloaded."""
    # A sandbox needs a user other than root.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=sandbox)
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts; they end with the test."""
    made: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        made.append(browser.new_context(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of every kind, as files."""
    folder = tmp_path_factory.mktemp("pages")
    scans = [test_speed.scan_line(steps, unrolled=steps < 64) for steps in (16, 64)]
    line = test_speed.line(test_speed.side("mlx:fast", 0.5e-3, "fused"))
    gate = test_gate.record(*test_gate.both(test_gate.diverges("drop_rbhn_t0"), test_gate.AGREES))
    texts = {
        "run": render_html(typical()),
        "hostile": render_html(hostile(lambda text: f"{HOSTILE}{text}")),
        "gate": render_html(gate),
        "bench": render_html(test_speed.record_of(folder / "bench.jsonl", line)),
        "scan": render_html(test_speed.record_of(folder / "scan.jsonl", *scans)),
        "trend": render_trend(test_history.matrix("ddaa-", "aaeax")),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.fixture(scope="session")
def looked_at(browser: Browser, pages: dict[str, Path]) -> Iterator[Callable[[str], Page]]:
    """The open page of a kind, for those that read what is in it and touch nothing; each is opened once."""
    context = browser.new_context()

    @cache
    def of(kind: str) -> Page:
        return opened(context, pages[kind])

    yield of
    context.close()
