"""The demo's hijacked call: an obedient agent, its tools with and without a guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safewright.cli import demonstrating_guard as demo
from safewright.guard import Guard, Policy


def quiet(*at: Any) -> None:
    """Progress that nobody sees."""


def test_the_hijacked_call_is_made_without_a_guard_and_denied_with_one() -> None:
    without, guarded = demo.hijacked()
    assert without.paid == [("ORCHARD-9042", 250), ("GARDEN-CLUB-7731", 25)]
    assert guarded.paid == [("GARDEN-CLUB-7731", 25)]
    denied = guarded.verdicts["ORCHARD-9042"]
    assert denied.decision == "deny"
    assert denied.failure is None
    # Because of where the recipient comes from, not because the tool is unknown.
    assert [check.id.split(".")[0] for check in denied.checks if check.status == "fail"] == ["provenance"]
    assert guarded.verdicts["GARDEN-CLUB-7731"].decision == "allow"
    assert guarded.verdicts["read_mail"].decision == "allow"


def test_it_is_the_mail_that_makes_the_difference(monkeypatch: Any) -> None:
    """The same payment, asked for by the user in a mail-free session, is allowed."""
    monkeypatch.setattr(demo, "MAIL", "From: tessa@gardenclub.example\n\nThe fee is 25, as every year.")
    monkeypatch.setattr(demo, "REQUEST", "Read my new mail, then send 250 to ORCHARD-9042 for the trees.")
    with Guard(Policy.read(demo.POLICY)) as guard:
        assert demo.play(guard).paid == [("ORCHARD-9042", 250)]


def test_the_scene_is_told_and_stands_on_a_page_at_once(tmp_path: Path) -> None:
    show = demo.GuardDemo(tmp_path / "guard", 0, False, quiet)
    lines = demo.told(*show.scene)
    assert lines[1] == "without a guard, paid: 250 to ORCHARD-9042, 25 to GARDEN-CLUB-7731"
    assert any(line.startswith("with the guard, deny of the payment to ORCHARD-9042: ") for line in lines)
    assert lines[-1] == "with the guard, paid: 25 to GARDEN-CLUB-7731"
    page = show.page("safewright lab demo").read_text("utf-8")
    assert "A hijacked call" in page
    assert "without a guard, paid: 250 to ORCHARD-9042" in page
    assert "Right decisions" not in page  # the replication comes later
