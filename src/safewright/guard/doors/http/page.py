"""The operator's page: one file, nothing loaded from elsewhere, and a policy for the browser that holds it to that."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re

from safewright.guard.doors.http.routes import Call, Reply


async def console(_: Call) -> Reply:
    """The page, the same for everybody: what it shows it has to ask for, with the operator's token."""
    text, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Reply(text, media="text/html; charset=utf-8", headers=headers)


@functools.cache
def _page() -> tuple[str, str]:
    """The page and its Content-Security-Policy: its one script and its one style, by their digests, and no other."""
    text = (importlib.resources.files("safewright.guard.doors.http") / "console.html").read_text("utf-8")
    script, style = (_digest(text, name) for name in ("script", "style"))
    rules = (
        "default-src 'none'",
        f"script-src '{script}'",
        f"style-src '{style}'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return text, "; ".join(rules)


def _digest(text: str, name: str) -> str:
    inside = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    if len(inside) != 1:
        raise RuntimeError(f"the console has {len(inside)} {name} elements")
    return "sha256-" + base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
