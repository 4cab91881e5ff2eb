"""The operator's page in a real headless Chromium, against a real server."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.guard.http_door import (
    ALLOWED,
    CHECK,
    DENIED,
    ESCALATED,
    OPERATOR,
    Served,
    as_who,
    guard_of,
    serving,
)

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
SCRIPT = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
HOSTILE = {
    "tool": f"mystery{SCRIPT}",
    "arguments": {f"to{SCRIPT}": f"a\u202eb\u200bc {SCRIPT}", "nested": {"deep": [SCRIPT]}},
    "request": f"send it {SCRIPT}",
    "principal": {"id": SCRIPT, "role": "user"},
    "session": SCRIPT,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("not run: there is no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="not run: playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    learn(tmp_path)
    with serving(tmp_path, "--memory", str(tmp_path / "memory.db")) as found:
        yield found


def learn(home: Path) -> None:
    """A memory with an entry whose checks came from a model."""
    from safewright.guard.nouns import Check
    from safewright.guard.parts import Key, Lesson

    with guard_of(home, audit=False, memory=True) as guard:
        check = Check(
            "llm.place", "integrity", "The place is the one that was asked for.", "pass", "llm", "new"
        )
        key = Key("look|place:string|read|least", "look somewhere", "read", "least", "c")
        guard.memory.learn(Lesson(key, None, (check,), "allow", "s", False))  # type: ignore[union-attr]


def until(true: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen; the page itself may not evaluate texts."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


class Page:
    """A page that is signed in, with all that went wrong in it."""

    def __init__(self, browser: Any, served: Served, token: str = OPERATOR) -> None:
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self.served = served
        self.page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
        self.page.set_default_timeout(30_000)
        self.page.on(
            "console", lambda said: self.troubles.append(said.text) if said.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{served.url}/console")
        self.page.fill("#token", token)
        self.page.click("text=Sign in")

    def check(self, call: Any) -> Any:
        return httpx.post(
            f"{self.served.url}/v1/check", json=call, headers=as_who(CHECK), trust_env=False, timeout=60
        ).json()


def test_an_operator_sees_decides_and_browses(browser: Any, served: Served, tmp_path: Path) -> None:
    opened = Page(browser, served)
    page = opened.page
    page.wait_for_selector("text=No call waits for you.")
    page.wait_for_selector("#ready.ready")
    first = opened.check(ESCALATED)
    page.wait_for_selector(".card")  # it comes by itself
    assert "mystery" in page.inner_text(".card h3")
    assert page.inner_text("#count") == "1"
    page.screenshot(path=tmp_path / "waiting.png")
    page.click("text=Approve once")
    page.wait_for_selector("text=No call waits for you.")
    assert opened.check(ESCALATED)["decision"] == "allow"
    second = opened.check(ESCALATED)
    assert second["decision"] == "escalate"
    assert second["escalation"]["id"] != first["escalation"]["id"]
    page.wait_for_selector(".card")
    page.click(".card >> text=Deny")
    page.wait_for_selector("text=No call waits for you.")
    assert opened.check(ESCALATED)["decision"] == "deny"

    page.click("#tab-decisions")
    page.wait_for_selector("#rows tr")
    before = page.locator("#rows tr").count()
    opened.check(DENIED)
    until(lambda: page.locator("#rows tr").count() == before + 1)  # live
    page.click("#rows tr:first-child button")
    page.wait_for_selector("tr.detail")
    told = page.inner_text("tr.detail")
    assert "tool.permitted" in told
    assert "guest" in told
    page.click("tr.detail >> text=In words")
    assert "because of tool.permitted" in page.inner_text("tr.detail")
    page.screenshot(path=tmp_path / "decisions.png", full_page=True)
    opened.check(ALLOWED)
    page.select_option("#which", "allow")
    until(lambda: set(page.locator("#rows .tag").all_inner_texts()) == {"allow"})

    page.click("#tab-memory")
    page.wait_for_selector("#entries .card >> text=look somewhere")
    page.screenshot(path=tmp_path / "memory.png", full_page=True)
    page.click("#entries .card >> text=was wrong")
    page.wait_for_selector("text=1 against")
    page.click("#entries .card >> text=drop")
    page.wait_for_selector("#entries .tag.tombstoned")

    assert opened.troubles == []
    # Nothing was loaded from elsewhere, and no address carried the token.
    assert all(url.startswith(served.url) for url in opened.asked)
    assert not any(OPERATOR in url for url in opened.asked)
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]
    page.click("text=Sign out")
    assert OPERATOR not in page.content()
    page.reload()
    assert page.is_visible("#enter")
    assert not page.is_visible("#inside")


def test_what_a_call_says_does_not_run(browser: Any, served: Served) -> None:
    opened = Page(browser, served)
    page = opened.page
    page.wait_for_selector("text=No call waits for you.")
    opened.check(HOSTILE)
    page.wait_for_selector(".card")
    card = page.inner_text(".card")
    assert card.count("<script>") >= 5  # shown, as text
    assert "U+202E" in card  # what would turn the text around is named
    assert "U+200B" in card
    page.click("#tab-decisions")
    page.wait_for_selector("#rows tr")
    page.click("#rows tr:first-child button")
    page.wait_for_selector("tr.detail")
    page.click("tr.detail >> text=The whole record")
    assert page.locator("main img, main script, main iframe").count() == 0
    assert "ran" not in page.title()
    assert opened.troubles == []
    # And were it to get in as markup, the policy would still not let it run.
    for attempt in (
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "document.createElement('img').setAttribute('onerror', '1')",
    ):
        refused = page.evaluate(
            f"() => {{ try {{ {attempt}; return 'let in'; }} catch (error) {{ return error.name; }} }}"
        )
        assert refused == "TypeError", attempt


def test_a_wrong_token_shows_nothing(browser: Any, served: Served) -> None:
    for token, said in (("wrong-token-0123456789", "not known"), (CHECK, "scope")):
        page = Page(browser, served, token).page
        page.wait_for_selector("#problem:visible")
        assert said in page.inner_text("#problem")
        assert not page.is_visible("#inside")


def test_the_page_is_held_to_its_policy(served: Served) -> None:
    reply = httpx.get(f"{served.url}/console", trust_env=False)
    policy = reply.headers["Content-Security-Policy"]
    for rule in (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
        "require-trusted-types-for 'script'",
    ):
        assert rule in policy
    assert "unsafe" not in policy
    assert reply.headers["X-Frame-Options"] == "DENY"
    text = reply.text
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", text.replace("URLSearchParams", ""))
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "style=",
    ):
        assert sink not in text, sink
