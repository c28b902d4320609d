"""A headless Chromium that looks at the pages of a site as readers do: narrow and wide, light and dark, by keyboard."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

WIDTHS = (420, 820, 1400)  # pixels: a phone, a tablet, a desk
HEIGHT = 900
PATIENCE = 240_000  # milliseconds
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Nothing but this machine is reached, and sound is played to nobody.
OPTIONS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
)
GRAVE = ("serious", "critical")  # violations that axe calls so
COLOURS = ["color-contrast", "link-in-text-block"]  # rules whose outcome the dark mode can change

# What sticks out of the page, unless something around it scrolls by itself.
SIDEWAYS = """() => {
  const width = document.documentElement.clientWidth;
  const over = document.documentElement.scrollWidth - width;
  if (over <= 0) return [];
  const scrolls = e => e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
  return [`${over} px`, ...wide.slice(0, 3).map(e => e.outerHTML.slice(0, 90))];
}"""
PICTURES = """() => [...document.querySelectorAll('article img')].filter(
  e => !(e.alt.trim() && e.complete && e.naturalWidth)).map(e => e.outerHTML.slice(0, 90))"""
AXE = """async rules => (await axe.run(document, {
  resultTypes: ['violations'], preload: false, ...(rules ? {runOnly: {type: 'rule', values: rules}} : {}),
})).violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)), v.nodes.length])"""
SOUND = """async () => Promise.all([...document.querySelectorAll('audio')].map(async e => {
  for (let i = 0; i < 100 && !e.duration && !e.error; i++) await new Promise(r => setTimeout(r, 50));
  return e.error ? 0 : e.duration;
}))"""
PLAYED = """async () => {
  const e = document.querySelector('audio');
  await e.play();
  for (let i = 0; i < 100 && !e.currentTime; i++) await new Promise(r => setTimeout(r, 50));
  return e.currentTime;
}"""
# Two things come and go with scrolling: the button that leads back to the top, and the contents' lower levels.
REACHABLE = (
    "a[href]:not([class*=toc-h] .nav a), button:not(#pst-back-to-top), input, select, summary, audio[controls], "
    "[tabindex='0']"
)
WATCH_FOCUS = """() => {
  window.reached = new Set(); window.unseen = [];
  document.addEventListener('focusin', ({target: e}) => {
    window.reached.add(e);
    const seen = e.checkVisibility({visibilityProperty: true, opacityProperty: true});
    if (!seen) window.unseen.push(e.outerHTML.slice(0, 90));
  });
}"""
NOT_REACHED = """selector => [...document.querySelectorAll(selector)].filter(
  e => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({visibilityProperty: true, opacityProperty: true})
    && e.getBoundingClientRect().width > 1 && !window.reached.has(e)).map(e => e.outerHTML.slice(0, 90))"""


@dataclass
class Look:
    """What was wrong with a page; each entry says it in words."""

    sideways: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Visitor:
    """A reader with one window, on a site that is served on this machine."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self.complaints = page, address, []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, name: str) -> Page:
        """Go to a page of the site."""
        self.page.goto(f"{self.address}/{name}.html", wait_until="load")
        return self.page

    def look(self, name: str) -> Look:
        """Look at a page at every width, and through axe's rules in both modes."""
        self.complaints.clear()
        self.page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page, found = self.open(name), Look()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": HEIGHT})
            if told := page.evaluate(SIDEWAYS):
                found.sideways.append(f"{name} at {width}: {told}")
        found.pictures = [f"{name}: {told}" for told in page.evaluate(PICTURES)]
        page.evaluate(AXE_SCRIPT)
        for mode, rules in (("light", None), ("dark", COLOURS)):
            page.emulate_media(color_scheme=mode)
            page.wait_for_selector(f"html[data-theme={mode}]", state="attached")
            broken = page.evaluate(AXE, rules)
            found.violations += [f"{name}, {mode}: {told}" for impact, *told in broken if impact in GRAVE]
        found.errors = [f"{name}: {told}" for told in self.complaints]
        return found

    def search(self, name: str, word: str) -> list[str]:
        """Look for a word as a reader of a page does; return the addresses that are found."""
        page = self.open(name)
        page.locator(".search-button__button:visible").first.click()
        page.locator("#pst-search-dialog input").fill(word)
        page.keyboard.press("Enter")
        page.wait_for_selector("ul.search li a")
        return [link.get_attribute("href") for link in page.locator("ul.search li a").all()]

    def listen(self, name: str) -> tuple[list[float], float]:
        """Return the seconds of every sound of a page, 0 for what cannot be played, and how far the first one came."""
        page = self.open(name)
        return page.evaluate(SOUND), page.evaluate(PLAYED)

    def tab(self, name: str, most: int = 1500) -> tuple[list[str], list[str]]:
        """Press Tab through a page; return what got the focus unseen, and what is seen and never got it."""
        page = self.open(name)
        page.evaluate(WATCH_FOCUS)
        for _ in range(most // 25):
            before = page.evaluate("() => window.reached.size")
            for _ in range(25):
                page.keyboard.press("Tab")
            if page.evaluate("() => window.reached.size") == before:
                break
        return sorted(set(page.evaluate("() => window.unseen"))), page.evaluate(NOT_REACHED, REACHABLE)


@contextlib.contextmanager
def visiting(site: Path) -> Iterator[Visitor]:
    """Serve a site and visit it; skip the test where there is no Chromium."""
    with sync_playwright() as tools:
        found = [*filter(None, map(shutil.which, NAMES)), tools.chromium.executable_path]
        found = [path for path in found if Path(path).is_file()]
        if not found:
            pytest.skip("no Chromium here; install it: `apt-get install chromium` or `playwright install chromium`")
        browser = tools.chromium.launch(executable_path=found[0], args=list(OPTIONS))
        try:
            with served(site) as address:
                yield Visitor(window(browser), address)
        finally:
            browser.close()


def window(browser: Browser) -> Page:
    """Open a window of a desk's width; a busy machine has minutes for what takes seconds."""
    page = browser.new_page(viewport={"width": WIDTHS[-1], "height": HEIGHT})
    page.set_default_timeout(PATIENCE)
    return page


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, *told: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yield its address."""
    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
