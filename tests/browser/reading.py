"""What a page is like, as a browser sees it. Every reader returns what it found, so that a test can be made to fail."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

HOSTILE = "<img src=http://example.invalid/x onerror=alert(1)> \"'`&</script></style></textarea>"

_CONTRAST = """
() => {
  const parse = (text) => {
    let m = text.match(/^rgba?\\(([^)]+)\\)$/);
    const parts = m && m[1].split(/[ ,/]+/).filter(Boolean).map(Number);
    if (m) return [...parts.slice(0, 3), parts[3] ?? 1];
    m = text.match(/^color\\(srgb ([^)]+)\\)$/);
    const shares = m && m[1].split(/[ /]+/).filter(Boolean).map(Number);
    if (m) return [...shares.slice(0, 3).map((v) => v * 255), shares[3] ?? 1];
    throw new Error("no colour: " + text);
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    const square = element.tagName === "text" && element.parentElement.tagName === "g"
      && element.parentElement.querySelector(":scope > rect");
    const fill = square ? getComputedStyle(square).fill : "none";
    if (fill !== "none" && !fill.startsWith("url")) return parse(fill);
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    let colour = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    for (const layer of layers.reverse()) colour = over(layer, colour);
    return colour;
  };
  const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const found = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, title, option, optgroup, .skip")) continue;
    if (!element.checkVisibility()) continue;
    seen += 1;
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const back = behind(element);
    const front = over(parse(colour), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + .05) / (low + .05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${node.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [seen, found];
}
"""

_SHOWN = """
() => [...document.querySelectorAll("table.checks-of tr.check")].flatMap((row) => [...row.cells].slice(1).flatMap(
  (place) => [...place.querySelectorAll("[data-dtype]")].filter((link) => link.checkVisibility()).map((link) => {
    const table = row.closest("table");
    const index = [...row.children].indexOf(place);
    return [table.tHead.rows[0].cells[index].textContent, row.cells[0].querySelector("a").textContent,
            link.dataset.dtype, link.closest("li").dataset.verdict,
            row.closest("details.cell").dataset.cell];
  })))
"""


def opened(context: BrowserContext, path: Path, fragment: str = "") -> Page:
    """The page of a file."""
    page = context.new_page()
    page.goto(path.as_uri() + fragment)
    return page


def complaints(context: BrowserContext, path: Path) -> list[str]:
    """What a browser complains of, and everything it asks for beside the file itself."""
    page = context.new_page()
    found: list[str] = []
    own = path.as_uri()
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (found.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url == own else found.append(f"request: {request.url}"))
    page.goto(own)
    unfolded(page)
    page.wait_for_timeout(100)
    return found


def unfolded(page: Page) -> None:
    """Open whatever can be."""
    page.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")


def dangling(page: Page) -> list[str]:
    """Links and references inside the page that lead nowhere."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("[href^='#'], [data-copy], [aria-labelledby]")].flatMap((one) =>
          [one.getAttribute("href")?.slice(1), one.dataset.copy,
           ...(one.getAttribute("aria-labelledby") ?? "").split(" ")]
          .filter((name) => name && !document.getElementById(name)))"""
    )
    return found


def shown(page: Page) -> list[tuple[str, ...]]:
    """Every check that the matrix shows: candidate, clause, dtype, verdict, cell."""
    return [tuple(check) for check in page.evaluate(_SHOWN)]


def too_wide(page: Page) -> list[str]:
    """What reaches beyond the right edge of the window, unless it lies in something that scrolls."""
    if not page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        return []
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
          && !one.closest(".scroll, pre, .trend-scroll")
          && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
          .map((one) => one.outerHTML.slice(0, 120))"""
    )
    return found or ["the page itself"]


def faint(page: Page) -> list[str]:
    """Text whose contrast is below WCAG's AA."""
    seen, found = page.evaluate(_CONTRAST)
    assert seen > 20
    return list(found)


def unnamed(page: Page) -> list[str]:
    """Pictures, controls and regions without a name, what has no caption, axes that nobody names, skipped headings."""
    found: list[str] = page.evaluate(
        """() => {
          const named = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
            || one.labels?.length || one.textContent.trim();
          const lost = [...document.querySelectorAll("svg[role=img], button, select, [role=region], a")]
            .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 120));
          const bare = [...document.querySelectorAll("svg:not([role=img]):not([aria-hidden=true])")]
            .map(() => "svg without a role");
          const figures = [...document.querySelectorAll("figure")].filter((one) => !(one.querySelector("table")
            || one.parentElement.querySelector("table") || one.parentElement.parentElement.querySelector("table")))
            .map((one) => "figure without a table: " + one.textContent.trim().slice(0, 60));
          const silent = [...document.querySelectorAll("figure:not(:has(figcaption)), table:not(:has(caption))")]
            .map((one) => "no caption: " + one.textContent.trim().slice(0, 60));
          const axes = [...document.querySelectorAll("svg.chart")].filter((one) => {
            const words = [...one.querySelectorAll("text")].filter((text) => /[a-z]{4}/i.test(text.textContent));
            return words.length < (one.classList.contains("bars") ? 1 : 2);
          }).map((one) => "axes without names: " + one.textContent.trim().slice(0, 60));
          let level = 0;
          const skipped = [...document.querySelectorAll("h1, h2, h3, h4")].filter((one) => {
            const own = Number(one.tagName[1]); const bad = own > level + 1; level = own; return bad;
          }).map((one) => "heading: " + one.textContent.trim());
          return [...lost, ...bare, ...figures, ...silent, ...axes, ...skipped];
        }"""
    )
    return found


def stops(page: Page, most: int = 400) -> list[str]:
    """Where the Tab key leads, one after another, until it leaves the page; "hidden: ..." where nothing can be seen."""
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        said: Any = page.evaluate(
            """() => { const one = document.activeElement;
              if (!one || one === document.body) return null;
              if (one.dataset.visited) return null;
              one.dataset.visited = "1";
              const box = one.getBoundingClientRect(), style = getComputedStyle(one);
              const seen = box.width > 0 && box.height > 0 && one.checkVisibility() && style.outlineStyle !== "none";
              const name = (one.getAttribute("href") ?? one.textContent).trim().slice(0, 60);
              return (seen ? "" : "hidden: ") + one.tagName + " " + name; }"""
        )
        if said is None:
            break
        found.append(said)
    return found


def unreachable(page: Page) -> Iterable[str]:
    """What a mouse can use and the Tab key has not reached; call it after `stops`."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, select, summary")]
          .filter((one) => one.checkVisibility() && !one.dataset.visited).map((one) => one.outerHTML.slice(0, 120))"""
    )
    return found
