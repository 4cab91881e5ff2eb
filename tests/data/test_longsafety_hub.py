"""LongSafety from the hub, through the real loading libraries and a hub on this machine; made-up rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from safewright.data import DEFAULTS, PRESETS, load_data, load_preset
from safewright.data.longsafety import HUB
from safewright.data.presets import preset_rows
from safewright.errors import BadInput
from tests.data.hub_asking import Ask, asking
from tests.data.hub_server import MAIN, OLD, Hub
from tests.data.longsafety_files import small, write_small

CARD = b"---\nlicense: mit\n---\nMade up.\n"
LINES = "".join(json.dumps(row) + "\n" for row in small(12)).encode()


FORMS = ["longsafety.jsonl", "longsafety.json", "a list in longsafety.json"]
"""Names the set goes by, and what is in it."""


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    form = getattr(request, "param", FORMS[0])
    content = json.dumps(small(12)).encode() if "list" in form else LINES
    name = form.split()[-1]
    older = {"README.md": CARD, name: LINES.replace(b'"Bias"', b'"Biass"')}
    hub = Hub(HUB, {MAIN: {"README.md": CARD, name: content}, OLD: older})
    yield hub
    hub.close()


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Iterator[Ask]:
    with asking(tmp_path / "hf", hub.url) as ask:
        yield ask


@pytest.mark.parametrize("hub", FORMS, indirect=True)
def test_the_preset_is_fetched_recorded_and_then_needs_no_network(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    said = ask(preset="longsafety")
    assert "error" not in said, said
    about = said["about"]
    assert (about["revision"], about["pinned"], about["rows"]) == (MAIN, False, 12)
    assert about["licence"].startswith("MIT (read in")
    assert about["notes"][0] == f"Unpinned: read at commit {MAIN}."
    assert "Links that stand in more than one row: 2" in about["notes"][1]
    # The same rows as a local copy gives, but for the language, which the card says.
    local = load_data(write_small(tmp_path / "local", 12), "long_context").rows
    for found, row in zip(said["data"]["rows"], local, strict=True):
        assert (found["id"], found["meta"], found["lang"]) == (row.id, dict(row.meta), "en")
        assert found["prompt"] == [dict(turn) for turn in row.prompt]
    hub.mode = "broken"
    for offline in (True, False):
        assert ask(preset="longsafety", offline=offline)["data"] == said["data"]
    assert ask(preset="longsafety", refresh=True)["code"] == 5


def test_what_cannot_be_had_or_used_says_what_to_do(ask: Ask) -> None:
    said = ask(preset="longsafety", offline=True)
    assert (said["error"], said["code"]) == ("Missing", 5)
    for part in (
        "HF_HUB_OFFLINE", "safewright data fetch longsafety", HUB, "--data long_context=rows.jsonl",
        "give as data a folder with longsafety_meta.jsonl and longsafety_docs.jsonl in it",
    ):  # fmt: skip
        assert part in said["text"]
    new = {
        "name": "older", "role": "long_context", "repo": HUB, "config": None, "split": "train", "revision": OLD,
        "columns": ["instruction"], "columns_source": "this test", "summary": "Made-up words.",
    }  # fmt: skip
    said = ask(new=new)
    assert said["code"] == 2
    assert f"{HUB} (train): `safety_type` is 'Biass', which is no label: 2 (ids 0, 7)." in said["text"]
    assert "Did you mean 'Bias'?" in said["text"]


def test_a_set_that_lost_its_documents_is_refused() -> None:
    rows = [{key: value for key, value in row.items() if key != "context"} for row in small(3)]
    with pytest.raises(BadInput, match="3 of 3 rows have no document"):
        preset_rows(PRESETS["longsafety"], rows)
    with pytest.raises(BadInput, match="no column 'instruction'"):
        preset_rows(PRESETS["longsafety"], [{"text": "zor"}])


def test_the_preset_is_the_default_of_its_role_and_of_no_other() -> None:
    preset = PRESETS["longsafety"]
    assert DEFAULTS["long_context"] == "longsafety"
    assert (preset.role, preset.repo, preset.revision, preset.licence) == ("long_context", HUB, None, "MIT")
    with pytest.raises(BadInput, match="long_context data, but it was given for 'harm'"):
        load_data("longsafety", "harm")
    with pytest.raises(BadInput, match="harm data, but it was given for 'long_context'"):
        load_data("jbb", "long_context")
    with pytest.raises(BadInput, match="Did you mean 'longsafety'"):
        load_preset("long_safety")
