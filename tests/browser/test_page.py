"""Pages in a real Chromium: they open silently, can be read and used, and give away what they hold."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from click.testing import CliRunner
from own_cells import NUMPY_CELL
from playwright.sync_api import BrowserContext, Page
from reading import complaints, dangling, faint, opened, shown, stops, too_wide, unfolded, unnamed, unreachable
from test_report import MLX, NONE, Draft, typical

from conformance.candidate import parse_spec
from conformance.case import case_from_json
from conformance.cli import main
from conformance.discover import find_adapters
from conformance.plan import candidates_for, interpreter_of
from conformance.record import Finding, Record
from conformance.report.grouping import places
from conformance.report.html import render_html
from conformance.report.issue import example_line
from conformance.report.outcome import findings, outcome_of
from conformance.repro import render_repro
from conformance.verdict import Diverges

KINDS = ("run", "hostile", "gate", "bench", "scan", "trend")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
Make = Callable[..., BrowserContext]


def spoilt(path: Path, old: str, new: str, times: int = 1) -> Path:
    """The page with a defect planted."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    other = path.with_name(f"spoilt-{path.name}")
    other.write_text(text.replace(old, new, times), encoding="utf-8")
    return other


# Opening


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_opens_from_a_file_in_silence(context: Make, pages: dict[str, Path], kind: str) -> None:
    """No console message, no error, no dialog, and no request beside the file itself."""
    assert complaints(context(), pages[kind]) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</main>", '<img src="http://example.invalid/a.png"></main>'),
        ("</main>", "<script>document.title = 'other'</script></main>"),
        ("</main>", '<p style="color: red">x</p></main>'),
    ],
    ids=["picture", "script", "style"],
)
def test_what_a_page_must_not_do_is_noticed(context: Make, pages: dict[str, Path], old: str, new: str) -> None:
    """A planted request, script or style is refused by the page's own policy, with a complaint."""
    assert complaints(context(), spoilt(pages["run"], old, new)) != []


@pytest.mark.parametrize("kind", KINDS)
def test_every_link_leads_somewhere(looked_at: Callable[[str], Page], kind: str) -> None:
    """Nothing in a page refers to what is not there."""
    assert dangling(looked_at(kind)) == []


def test_a_broken_link_is_noticed(context: Make, pages: dict[str, Path]) -> None:
    """A section whose name is taken away leaves links that lead nowhere."""
    assert dangling(opened(context(), spoilt(pages["run"], 'id="agreements"', ""))) != []


def test_a_page_can_be_read_without_its_script(context: Make, pages: dict[str, Path]) -> None:
    """The answer and the matrix are there; buttons and filters that could do nothing are not."""
    plain = opened(context(java_script_enabled=False), pages["run"])
    assert plain.locator("h1").inner_text()
    assert plain.locator("table.checks-of").first.is_visible()
    assert plain.locator("button:visible, select:visible").count() == 0


# Reading


def checks(record: Record) -> set[tuple[str, ...]]:
    """Every check of a record as the matrix shows it."""
    known = places(record)
    return {
        (f.candidate, known[f.requirement].clause, f.dtype, outcome_of(f.verdict), known[f.requirement].cell)
        for f in findings(record)
    }


CHOICES: list[dict[str, str]] = [
    {},
    {"verdict": "diverges"},
    {"dtype": "bfloat16"},
    {"candidate": "torch:layer"},
    {"candidate": "every mlx"},
    {"cell": "gru_v1"},
    {"candidate": "every mlx", "dtype": "float32", "verdict": "agrees"},
    {"cell": "gru_v1", "verdict": "unsupported"},
]


def wanted(record: Record, choice: dict[str, str]) -> set[tuple[str, ...]]:
    """The checks that a choice leaves."""

    def fits(check: tuple[str, ...]) -> bool:
        candidate, _, dtype, verdict, cell = check
        chosen = choice.get("candidate", candidate)
        return (
            (candidate == chosen or chosen == f"every {candidate.partition(':')[0]}")
            and dtype == choice.get("dtype", dtype)
            and verdict == choice.get("verdict", verdict)
            and cell == choice.get("cell", cell)
        )

    return {check for check in checks(record) if fits(check)}


def filtered(at: Page, choice: dict[str, str]) -> set[tuple[str, ...]]:
    """The checks that are shown after a choice was made with the page's own controls."""
    for name, text in choice.items():
        at.locator(f"select[data-filter={name}]").select_option(label=text)
    if not choice:
        unfolded(at)
    found = shown(at)
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice.values()) or "all")
def test_filters_show_what_was_asked_for(context: Make, pages: dict[str, Path], choice: dict[str, str]) -> None:
    """By framework, candidate, cell, verdict and dtype: those checks and no others, their number told."""
    at = opened(context(), pages["run"])
    expected, all_ = wanted(typical(), choice), checks(typical())
    assert bool(expected) == (choice.get("verdict") != "unsupported")
    assert filtered(at, choice) == expected
    told = f"{len(expected)} of {len(all_)} checks shown" if choice else f"all {len(all_)} checks shown"
    assert at.locator("[data-status]").inner_text() == told
    at.get_by_role("button", name="Show all").click()
    unfolded(at)
    assert set(shown(at)) == all_


def test_a_filter_that_shows_something_else_is_noticed(context: Make, pages: dict[str, Path]) -> None:
    """A mark under another verdict than its own is not where the filter must show it."""
    broken = spoilt(pages["run"], 'data-verdict="diverges"', 'data-verdict="agrees"')
    choice = {"verdict": "diverges"}
    assert filtered(opened(context(), broken), choice) != wanted(typical(), choice)


def test_a_deep_link_opens_its_place(context: Make, pages: dict[str, Path]) -> None:
    """Every mark of the matrix leads to details that are then open, in view and focused."""
    at = opened(context(), pages["run"])
    anchors = at.eval_on_selector_all("table.checks-of a.dtype", "all => all.map((one) => one.getAttribute('href'))")
    assert len(anchors) == len(checks(typical()))
    fresh = opened(context(), pages["run"], anchors[-1])
    for own, anchor in ((fresh, anchors[-1]), *((at, anchor) for anchor in anchors)):
        own.evaluate("(anchor) => { location.hash = anchor; }", anchor)
        own.wait_for_function("(anchor) => '#' + document.activeElement.id === anchor", arg=anchor)
        assert own.locator(anchor).is_visible(), anchor
        assert own.evaluate("""() => { const box = document.activeElement.getBoundingClientRect();
            return box.top >= -1 && box.top < innerHeight; }"""), anchor


def test_what_changed_leads_to_its_details(context: Make, pages: dict[str, Path]) -> None:
    """From the first table of a gate's page to the divergence that is gone, and to the agreement that came."""
    at = opened(context(), pages["gate"])
    title = at.locator("h1").inner_text()
    assert re.fullmatch(r".+ \N{RIGHTWARDS ARROW} .+: safe; 1 requirement fixed", title)
    before, after = at.locator("table").first.locator("td.wrap a").all()
    before.click()
    assert "drop_rbhn_t0" in at.locator("article:focus").inner_text()
    after.click()
    assert "gru_hidden_none" in at.locator("tr:focus").inner_text()


def test_a_divergence_tells_everything(context: Make, pages: dict[str, Path]) -> None:
    """The fault, both equations with their difference marked, gates, pictures, hypotheses, what ran, the case."""
    at = opened(context(), pages["run"])
    card = at.locator("article.is-diverges").first
    text = " ".join(card.inner_text().split())
    own = [f.verdict for f in typical().findings if (f.candidate, f.dtype) == (MLX, "float32")]
    (evidence,) = (verdict.evidence for verdict in own if isinstance(verdict, Diverges))
    assert "drop_rbhn_t0: the term r * b_hn is missing" in text
    assert "r * (W_hn h + b_hn" in card.locator(".equations .is-agrees mark.term").first.inner_text()
    rows = {
        row[0]: row[1:]
        for row in card.locator("table.gates tbody tr").evaluate_all(
            """all => all.map((row) => [...row.cells].map(
              (cell) => cell.querySelector('data')?.value ?? cell.textContent))"""
        )
    }
    assert {name: row[0] for name, row in rows.items()} == {n: repr(v) for n, v in evidence.intermediates.items()}
    assert rows["n"][1] == repr(evidence.implied["n"])
    assert rows["h"][1] == repr(evidence.observed)
    assert {name for name, row in rows.items() if row[3] == "differs"} == {"n", "h"}
    assert evidence.map is not None
    assert card.locator("svg.heat g rect").count() == sum(map(len, evidence.map.shares))
    assert card.locator("svg.heat g:not(.h-inside) text").count() == sum(
        share is None or share > 1 for row in evidence.map.shares for share in row
    )
    assert f"{len(evidence.residuals) - 1} of {len(evidence.residuals)} hypotheses ruled out" in text
    assert "What ran: eager" in text


# Taking away


def clipboard(at: Page, name: str) -> str:
    """What the first button of this name leaves in the clipboard."""
    button = at.get_by_role("button", name=name).first.element_handle()
    button.click()
    at.wait_for_function("(one) => one.textContent === 'Copied'", arg=button)
    text: str = at.evaluate("() => navigator.clipboard.readText()")
    return text


@pytest.fixture
def divergence(context: Make, tmp_path: Path) -> tuple[Page, Finding]:
    """The page of MLX 0.31.1's divergence, with a real script, that may use the clipboard."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX, mlx="0.31.1", device="Device(cpu, 0)"), NONE, fault="drop_rbhn_t0")
    assert finding.example is not None
    repro = render_repro(find_adapters()["mlx"], "none", case_from_json(finding.example.case))
    whole = msgspec.structs.replace(finding, example=msgspec.structs.replace(finding.example, repro=repro))
    path = tmp_path / "one.html"
    path.write_text(render_html(draft.record(findings=(whole,))), encoding="utf-8")
    return opened(context(permissions=["clipboard-read", "clipboard-write"]), path), whole


def test_the_copied_script_runs_with_the_framework_alone(divergence: tuple[Page, Finding], tmp_path: Path) -> None:
    """On MLX 0.31.1 it shows the divergence, with nothing of this project at hand."""
    at, finding = divergence
    assert finding.example is not None
    script = clipboard(at, "Copy the script for this framework alone")
    assert script == finding.example.repro
    path = tmp_path / "repro.py"
    path.write_text(script, encoding="utf-8")
    (candidate,) = candidates_for(find_adapters(), [parse_spec(MLX)])
    python = interpreter_of(candidate, print)
    done = subprocess.run([python.python, "-I", path], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "DIFFERS: by more than" in done.stdout
    assert "at step 0" in done.stdout


def test_the_copied_example_is_the_minimal_case(divergence: tuple[Page, Finding]) -> None:
    """A decorator whose only argument is the very case, as a literal."""
    at, finding = divergence
    assert finding.example is not None
    line = clipboard(at, "Copy an @example")
    assert line == example_line(finding.example, f"{MLX}, {NONE}, float32: drop_rbhn_t0")
    call = ast.parse(line.removeprefix("@"), mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.unparse(call.func) == "example"
    (argument,) = call.keywords
    assert argument.arg == "case"
    assert isinstance(argument.value, ast.Call)
    (literal,) = argument.value.args
    assert case_from_json(ast.literal_eval(literal)).digest == case_from_json(finding.example.case).digest


def test_the_copied_issue_can_be_filed(divergence: tuple[Page, Finding]) -> None:
    """Title, equations, figures, environment, script and command, in that order."""
    at, finding = divergence
    assert finding.example is not None
    text = clipboard(at, "Copy an issue text")
    parts = [
        "# mlx 0.31.1: the term r \\* b_hn is missing on the first step",
        "n = tanh(W_xn x + b_xn + r * (W_hn h + b_hn))",
        "n = tanh(W_xn x + b_xn) at step 0",
        "expected ",
        "`device: Device(cpu, 0)`",
        finding.example.repro.rstrip(),
        finding.example.command,
    ]
    found = [text.index(part) for part in parts]
    assert found == sorted(found)


# A cell of one's own


def test_the_page_of_a_cell_of_ones_own_says_what_it_was_judged_by(context: Make, tmp_path: Path) -> None:
    """It is nobody's release that diverges; the equations, the call and where the weights got in are told."""
    file = tmp_path / "mine.py"
    right = "(1 - z) * h + z * n"
    assert right in NUMPY_CELL
    file.write_text(NUMPY_CELL.replace(right, "(1 - z) * n + z * h"), encoding="utf-8")
    arguments = ["check-cell", f"{file}:step", "--output", str(tmp_path / "out"), "--examples", "0"]
    assert CliRunner().invoke(main, arguments).exit_code == 1
    (path,) = (tmp_path / "out").glob("*.html")
    assert complaints(context(), path) == []
    at = opened(context(), path)
    title = at.locator("h1").inner_text()
    assert re.fullmatch(
        r"1 of 1 candidate diverges: step in mine\.py on NumPy [\d.]+ \(step:mix\) .*update_flip.*", title
    )
    unfolded(at)
    facts = dict(
        zip(at.locator("dl.inline dt").all_inner_texts(), at.locator("dl.inline dd").all_inner_texts(), strict=True)
    )
    assert facts["judged by"].endswith("h' = (1 - z) * h + z * n (z mixes the candidate in: --update mix)")
    assert "W_r = (W_xr | W_hr).T" in facts["weights"]
    assert facts["called as"].startswith("a cell, called with")
    assert dangling(at) == []
    assert unnamed(at) == []


def test_a_trend_says_what_is_wrong_where_and_how_to_see_it(context: Make, pages: dict[str, Path]) -> None:
    """The answer, the equations beside each other, a command that can be copied, and what was left out."""
    at = opened(context(permissions=["clipboard-read", "clipboard-write"]), pages["trend"])
    assert at.locator("h1").inner_text().startswith("mine:<i>: 3 of 5 releases diverge: 1.0 to 1.1 like drop_rbhn_t0; ")
    card = at.locator("article.is-diverges").first
    right, instead = card.locator(".equations dd").all_inner_texts()
    assert "r * b_hn" in right
    assert "r * b_hn" not in instead
    assert clipboard(at, "Copy the command that shows it") == "rnn-conformance run 'mine:<i>==1.1' -k gru_0"
    limits = at.locator("section[aria-labelledby=limits]").inner_text()
    assert "2.0 was left out: yanked" in limits
    assert "1.4, gru_0 (float32): unavailable: No such release" in limits
    table = at.locator("section.trend table tbody tr")
    assert table.count() == at.locator("section.trend svg text[transform]").count() == 5


# Using


@pytest.mark.parametrize("kind", KINDS)
def test_everything_can_be_reached_with_the_keyboard(context: Make, pages: dict[str, Path], kind: str) -> None:
    """Tab reaches every control in view, each visibly, the way past the head first."""
    at = opened(context(), pages[kind])
    found = stops(at)
    assert found
    assert not [stop for stop in found if stop.startswith("hidden")]
    assert list(unreachable(at)) == []
    if kind in ("run", "gate", "hostile"):
        assert found[0] == "A #matrix"


def test_a_control_that_the_keyboard_misses_is_noticed(context: Make, pages: dict[str, Path]) -> None:
    """A choice taken out of the order of focus is told."""
    at = opened(context(), spoilt(pages["gate"], "<select ", '<select tabindex="-1" ', 1000))
    stops(at)
    assert list(unreachable(at)) != []


def test_a_filter_and_a_fold_work_with_keys_alone(context: Make, pages: dict[str, Path]) -> None:
    """Arrow keys choose, Enter unfolds."""
    at = opened(context(), pages["run"])
    at.locator("select[data-filter=verdict]").focus()
    at.keyboard.press("ArrowDown")
    chosen = at.locator("select[data-filter=verdict]").input_value()
    assert {check[3] for check in shown(at)} == {chosen}
    fold = at.locator("details:not([open]) > summary").first
    handle = fold.element_handle()
    fold.focus()
    at.keyboard.press("Enter")
    assert handle.evaluate("(one) => one.parentElement.open")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_a_name(looked_at: Callable[[str], Page], kind: str) -> None:
    """Pictures, controls and regions are named, every picture has a table, headings skip no level."""
    assert unnamed(looked_at(kind)) == []


def test_what_has_no_name_is_noticed(context: Make, pages: dict[str, Path]) -> None:
    """A picture whose title is not its name any more is told."""
    at = opened(context(), spoilt(pages["run"], 'role="img" aria-labelledby=', 'data-x="', 1000))
    assert unnamed(at) != []


@pytest.mark.parametrize(
    ("kind", "old", "new", "told"),
    [
        ("run", "<figcaption>", "<p>", "no caption"),
        ("trend", "<caption>Every release", "<p>Every release", "no caption"),
        ("run", ">time step</text>", "></text>", "axes without names"),
        ("scan", ">steps, T</text>", "></text>", "axes without names"),
    ],
    ids=["figure", "table", "time", "steps"],
)
def test_a_caption_or_an_axis_that_is_gone_is_noticed(
    context: Make, pages: dict[str, Path], kind: str, old: str, new: str, told: str
) -> None:
    """Whoever looks at a picture or a table is told what it shows."""
    found = unnamed(opened(context(), spoilt(pages[kind], old, new)))
    assert any(text.startswith(told) for text in found)


# Looking


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_too_wide(context: Make, pages: dict[str, Path], kind: str) -> None:
    """On a phone and on a desk, folded and unfolded, the page itself never scrolls sideways."""
    at = opened(context(viewport={"width": 390, "height": 844}), pages[kind])
    for fold in (lambda _: None, unfolded):
        fold(at)
        for width in (390, 1280):
            at.set_viewport_size({"width": width, "height": 844})
            assert too_wide(at) == [], width


def test_what_is_too_wide_is_noticed(context: Make, pages: dict[str, Path]) -> None:
    """A table outside a region that scrolls overflows a phone."""
    at = opened(context(viewport={"width": 390, "height": 844}), spoilt(pages["run"], 'class="scroll"', "", 1000))
    unfolded(at)
    assert too_wide(at) != []


@pytest.mark.parametrize("kind", KINDS)
def test_text_can_be_read(context: Make, pages: dict[str, Path], kind: str) -> None:
    """Contrast of every text, in pictures too, is at least WCAG's AA, in light and in dark."""
    at = opened(context(), pages[kind])
    unfolded(at)
    grounds = set()
    for scheme in SCHEMES:
        at.emulate_media(color_scheme=scheme)
        grounds.add(at.evaluate("() => getComputedStyle(document.body).backgroundColor"))
        assert faint(at) == [], scheme
    assert len(grounds) == len(SCHEMES), "both were seen"


def test_the_schemes_differ_and_faint_text_is_noticed(context: Make, pages: dict[str, Path], tmp_path: Path) -> None:
    """Dark is dark, and text in nearly the colour of its ground is told."""
    grounds = [
        opened(context(color_scheme=scheme), pages["run"]).evaluate(
            "() => getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    ]
    assert grounds[0] != grounds[1]
    at = opened(context(), pages["run"])
    at.evaluate("() => document.documentElement.style.setProperty('--muted', '#b9bfc6')")
    assert faint(at) != []


def test_a_verdict_is_a_word_and_a_sign(context: Make, pages: dict[str, Path]) -> None:
    """No two verdicts share a sign or a word, so that colour tells nothing that they do not."""
    at = opened(context(), pages["run"])
    marks = at.locator(".legend .mark").all_inner_texts()
    signs, words = zip(*(mark.split(maxsplit=1) for mark in marks), strict=True)
    assert len(marks) == 7
    assert len(set(signs)) == len(set(words)) == 7


# Printing


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_printed(context: Make, pages: dict[str, Path], kind: str) -> None:
    """On A4 everything folded is there, controls are not, and nothing is cut off at the right."""
    at = opened(context(viewport={"width": 794, "height": 1123}), pages[kind])
    at.emulate_media(media="print")
    closed = at.locator("details:not([open])").count()
    at.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert at.locator("details:not([open])").count() == 0
    assert at.locator("button:visible, select:visible, nav:visible").count() == 0
    assert too_wide(at) == []
    at.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert at.locator("details:not([open])").count() == closed
    assert at.pdf(format="A4").startswith(b"%PDF-")
