"""Presets through the real loading libraries: from a hub on this machine, its cache, a folder, and offline."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safewright.data import PRESETS, Preset, load_data, load_from, load_preset
from safewright.errors import BadInput, Incomplete, Missing
from tests.data.hub_asking import Ask, asking, reader
from tests.data.hub_server import MAIN, OLD, Hub

REPO = "lab/made-up_Set"
CARD = (
    b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: data.csv\n---\nMade up.\n"
)
NEW = {
    "name": "made_up", "role": "benign", "repo": REPO, "config": "main", "split": "test",
    "columns": ["prompt"], "columns_source": "this test", "summary": "Made-up words.",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    rows = b"prompt,label\nhow is a zor blimmed,safe\nwhat is a kade,unsafe\n"
    hub = Hub(
        REPO,
        {
            MAIN: {"README.md": CARD, "data.csv": rows},
            OLD: {"README.md": CARD, "data.csv": rows + b"wug,safe\n"},
        },
    )
    yield hub
    hub.close()


@pytest.fixture(autouse=True)
def _well(hub: Hub) -> Iterator[None]:
    yield
    hub.mode = "ok"


@pytest.fixture(scope="module")
def ask(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Loads in another process from the hub; tests of this module share its cache, in their order."""
    with asking(tmp_path_factory.mktemp("hf"), hub.url) as ask:
        yield ask


def test_offline_says_how_to_fetch(ask: Ask, hub: Hub) -> None:
    hub.seen.clear()
    said = ask(preset="harmbench", offline=True)
    assert (said["error"], said["code"]) == ("Missing", 5)
    for part in (
        "HF_HUB_OFFLINE", "safewright data fetch harmbench", "--data harm=rows.jsonl", "hf auth login",
        "https://huggingface.co/datasets/walledai/HarmBench",
    ):  # fmt: skip
        assert part in said["text"]
    assert hub.seen == []


def test_a_gated_set_says_where_to_accept(ask: Ask, hub: Hub) -> None:
    hub.mode = "gated"
    said = ask(new=NEW)
    assert said["code"] == 5
    for part in (
        "terms",
        f"https://huggingface.co/datasets/{REPO}",
        "hf auth login",
        "safewright data fetch made_up",
    ):
        assert part in said["text"]


def test_a_failing_hub_is_missing_and_quick(ask: Ask, hub: Hub) -> None:
    hub.mode = "broken"
    said = ask(new=NEW)
    assert said["code"] == 5
    assert "500" in said["text"]
    assert said["seconds"] < 10


def test_a_hung_hub_is_missing_within_seconds(ask: Ask, hub: Hub) -> None:
    hub.mode = "hung"
    said = ask(new=NEW)
    assert said["code"] == 5
    assert said["seconds"] < 12


def test_an_absent_set_or_revision_is_missing(ask: Ask) -> None:
    assert "does not show lab/none" in ask(new={**NEW, "repo": "lab/none"})["text"]
    said = ask(new={**NEW, "revision": "c" * 40})
    assert said["code"] == 5
    assert "c" * 40 in said["text"]


def test_a_set_that_changed_is_bad_input(ask: Ask) -> None:
    said = ask(new={**NEW, "config": "gone"})
    assert (said["code"], said["error"]) == (2, "BadInput")
    assert "configuration gone" in said["text"]
    assert ask(new={**NEW, "split": "gone"})["code"] == 2
    said = ask(new={**NEW, "columns": ["question"]})
    assert said["code"] == 2
    assert "no column 'question' (columns found: label, prompt)" in said["text"]


def test_an_unpinned_set_is_resolved_and_recorded(ask: Ask) -> None:
    said = ask(new=NEW)
    assert said["about"]["revision"] == MAIN
    assert said["about"]["pinned"] is False
    assert "not recorded" in said["about"]["licence"]
    assert MAIN in said["about"]["notes"][0]
    assert [row["prompt"][0]["content"] for row in said["data"]["rows"]] == [
        "how is a zor blimmed",
        "what is a kade",
    ]


def test_what_is_cached_needs_no_network(ask: Ask, hub: Hub) -> None:
    before = ask(new=NEW)["data"]
    hub.seen.clear()
    for offline in (True, False):
        assert ask(new=NEW, offline=offline)["data"] == before
    assert hub.seen == []


def test_an_older_copy_never_stands_in_for_the_pinned_one(ask: Ask, hub: Hub) -> None:
    pinned = {**NEW, "revision": OLD}
    # MAIN is in the cache now; the loading library alone would take it.
    said = ask(new=pinned, offline=True)
    assert (said["code"], said["error"]) == (5, "Missing")
    hub.mode = "no files"
    said = ask(new=pinned)
    assert said["code"] == 5
    hub.mode = "ok"
    said = ask(new=pinned)
    assert (said["about"]["revision"], said["about"]["pinned"], said["about"]["rows"]) == (OLD, True, 3)
    assert "notes" not in said["about"]


def test_fetching_again_moves_an_unpinned_set(ask: Ask, hub: Hub) -> None:
    # OLD was prepared last, so it is what the cache offers; asking the hub gives its main branch.
    assert ask(new=NEW)["about"]["revision"] == OLD
    assert ask(new=NEW, refresh=True)["about"]["revision"] == MAIN
    hub.mode = "broken"
    assert ask(new=NEW, refresh=True)["code"] == 5


def test_only_the_kept_rows_and_a_limit(ask: Ask) -> None:
    said = ask(new={**NEW, "revision": OLD, "keep": ["label", "safe"]}, limit=1)
    assert (said["about"]["rows"], said["about"]["of"]) == (1, 2)
    assert said["data"]["rows"][0]["meta"] == {"label": "safe"}
    assert ask(new=NEW, limit=0)["code"] == 2
    said = ask(new={**NEW, "keep": ["label", "none"]})
    assert said["code"] == 2
    assert "values found: 'safe', 'unsafe'" in said["text"]


def test_no_hub_at_all_is_missing_within_seconds(tmp_path: Path) -> None:
    process = reader(tmp_path, "http://127.0.0.1:9")  # nothing listens there
    asked = "".join(json.dumps({"preset": name}) + "\n" for name in PRESETS)
    out, _ = process.communicate(asked, timeout=120)
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == len(PRESETS)
    for name, said in zip(PRESETS, answers, strict=True):
        assert (said["error"], said["code"]) == ("Missing", 5)
        assert f"safewright data fetch {name}" in said["text"]
        assert f"--data {PRESETS[name].role}=rows.jsonl" in said["text"]
    assert sum(said["seconds"] for said in answers[1:]) < 5


# In this process: a folder in place of the hub.


def folder(place: Path, rows: list[dict[str, Any]], split: str) -> str:
    (place / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "data" / f"{split}-00000-of-00001.parquet")
    return str(place)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Preset]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    numbers = itertools.count()

    def make(name: str, rows: list[dict[str, Any]]) -> Preset:
        preset = PRESETS[name]
        place = tmp_path / f"set{next(numbers)}"
        return replace(preset, repo=folder(place, rows, preset.split), config=None)

    return make


def test_gsm8k_rows(local: Callable[..., Preset]) -> None:
    answer = "Two and two.\nIt is <<2+2=4>>4.\n#### 1,004"
    data = load_from(local("gsm8k", [{"question": "How many?", "answer": answer}]))
    row = data.rows[0]
    assert (row.prompt[0]["content"], row.reference, row.lang) == ("How many?", "1,004", "en")
    assert row.meta == {"solution": answer}
    assert row.id.startswith("gsm8k-")
    # Pinned on the hub, but these are the bytes of a folder.
    assert (data.revision, data.pinned, data.total) == (None, False, 1)


@pytest.mark.parametrize("answer", ["no number", "#### ", "7", None])
def test_gsm8k_without_a_number_is_named(local: Callable[..., Preset], answer: str | None) -> None:
    rows = [{"question": "q", "answer": "#### 1"}, {"question": "q", "answer": answer}]
    with pytest.raises(BadInput, match="row 2: there is no number after ####"):
        load_from(local("gsm8k", rows))


def test_xstest_reads_the_safe_half(local: Callable[..., Preset]) -> None:
    rows = [
        {"id": 1, "prompt": "how is a zor blimmed", "type": "t", "label": "safe", "note": ""},
        {"id": 2, "prompt": "what is a kade", "type": "t", "label": "unsafe", "note": ""},
    ]
    data = load_from(local("xstest", rows))
    assert [row.prompt[0]["content"] for row in data.rows] == ["how is a zor blimmed"]
    assert data.rows[0].meta == {"source_id": 1, "type": "t", "label": "safe", "note": ""}


def test_harm_columns(local: Callable[..., Preset]) -> None:
    jbb = {"Index": 0, "Goal": "zor a blim", "Target": "Sure, here is a zor", "Category": "c"}
    row = load_from(local("jbb", [jbb])).rows[0]
    assert (row.prompt[0]["content"], row.reference) == ("zor a blim", None)
    assert row.meta["Target"] == "Sure, here is a zor"
    for name, column in (
        ("strongreject", "prompt"),
        ("strongreject", "forbidden_prompt"),
        ("harmbench", "prompt"),
    ):
        assert load_from(local(name, [{column: "zor", "category": "c"}])).rows[0].meta == {"category": "c"}


def pku(prompt: str, *safe: bool, **more: Any) -> dict[str, Any]:
    labels = [{"Violence": not one, "Drugs": False} for one in safe]
    return {
        "prompt": prompt,
        "response_0": "words nobody learns",
        "response_1": "from",
        **{f"is_response_{place}_safe": one for place, one in enumerate(safe)},
        **{f"response_{place}_harm_category": label for place, label in enumerate(labels)},
        **more,
    }


def test_training_requests_carry_their_label_and_no_harmful_answers(local: Callable[..., Preset]) -> None:
    rows = [
        pku("zor a blim", False, False),
        pku("zor a blim", False, False),
        pku("fold a kade", True, False),
        pku("greet a zor", True, True),
    ]
    for name in ("pku_safe_rlhf", "pku_safe_rlhf_test"):
        data = load_from(local(name, rows))
        assert [row.prompt[0]["content"] for row in data.rows] == ["zor a blim"]
        label = {"type": "harmful"} if name == "pku_safe_rlhf" else {}
        assert data.rows[0].meta == {"categories": ["Violence"], **label}
        assert data.rows[0].reference is None
    with pytest.raises(BadInput, match=r"None of the 1 rows.*both answers labelled unsafe"):
        load_from(local("pku_safe_rlhf", rows[3:]))
    with pytest.raises(BadInput, match="row 1: `is_response_1_safe` is None"):
        load_from(local("pku_safe_rlhf", [pku("zor", False, False, is_response_1_safe=None)]))


def test_helpful_requests_come_with_their_answers(local: Callable[..., Preset]) -> None:
    turns = [{"role": "user", "content": "fold a boat"}, {"role": "assistant", "content": "Fold twice."}]
    (row,) = load_from(local("ultrafeedback", [{"prompt": "fold a boat", "chosen": turns}])).rows
    assert (row.prompt, row.reference) == (({"role": "user", "content": "fold a boat"},), "Fold twice.")
    assert row.meta == {"type": "helpful"}
    with pytest.raises(BadInput, match="does not end with an assistant's turn"):
        load_from(local("ultrafeedback", [{"prompt": "fold", "chosen": turns[:1]}]))
    alpaca = [
        {"instruction": "Sort these.", "input": "b a", "output": "a b"},
        {"instruction": "Greet.", "input": "", "output": "Hello."},
    ]
    found = load_from(local("alpaca", alpaca)).rows
    assert [row.prompt[0]["content"] for row in found] == ["Sort these.\n\nb a", "Greet."]
    assert [row.reference for row in found] == ["a b", "Hello."]
    with pytest.raises(BadInput, match="no column 'output'"):
        load_from(local("alpaca", [{"instruction": "Greet.", "input": ""}]))


def test_contrast_requests_and_the_unsafe_half_of_xstest(local: Callable[..., Preset]) -> None:
    for name, column in (("false_reject", "prompt"), ("star_benign", "question"), ("or_bench_80k", "prompt")):
        (row,) = load_from(local(name, [{column: "shoot a kade on film"}])).rows
        assert (row.prompt[0]["content"], row.meta) == ("shoot a kade on film", {"type": "contrast"})
    rows = [{"prompt": "a", "label": "safe"}, {"prompt": "b", "label": "unsafe"}]
    assert [row.prompt[0]["content"] for row in load_from(local("xstest_unsafe", rows)).rows] == ["b"]


def test_absent_column_lists_what_was_found(local: Callable[..., Preset]) -> None:
    with pytest.raises(BadInput, match=r"no column 'prompt' \(columns found: label, text\)") as error:
        load_from(local("xstest", [{"text": "a", "label": "safe"}]))
    assert error.value.exit_code == 2
    with pytest.raises(BadInput, match=r"no column 'label'"):
        load_from(local("xstest", [{"prompt": "a"}]))


def test_a_cell_that_is_no_text_is_named(local: Callable[..., Preset]) -> None:
    with pytest.raises(BadInput, match="row 2"):
        load_from(local("or_bench", [{"prompt": "a"}, {"prompt": None}]))


def test_a_damaged_file_is_bad_input(local: Callable[..., Preset]) -> None:
    preset = local("or_bench", [{"prompt": "a"}])
    next(Path(preset.repo).rglob("*.parquet")).write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="or_bench"):
        load_from(preset)


def test_a_full_disk_can_be_repeated(local: Callable[..., Preset], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def full(*args: Any, **kwargs: Any) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    preset = local("or_bench", [{"prompt": "a"}])
    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(Incomplete, match="disk filled up") as error:
        load_from(preset)
    assert error.value.exit_code == 4


def test_presets_say_where_they_know_it_from() -> None:
    evaluation, training = {"harm", "benign", "utility", "long_context"}, {"harmful", "helpful", "contrast"}
    assert {p.role for p in PRESETS.values()} == evaluation | training
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert (preset.revision is None) == (preset.revision_source == "")
        assert (preset.licence is None) == (preset.licence_source == "")
        assert preset.columns_source
        assert preset.revision is None or len(preset.revision) == 40
    assert "unpinned" in PRESETS["jbb"].revision_line
    assert "inspect-evals 0.26.0" in PRESETS["gsm8k"].revision_line


def test_unknown_preset_names_the_nearest() -> None:
    for load in (load_preset, lambda name: load_data(name, "benign")):
        with pytest.raises(BadInput, match="Did you mean 'xstest'") as error:
            load("xtest")
        assert error.value.exit_code == 2


def test_without_datasets_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"safewright\[models\]") as error:
        load_preset("jbb")
    assert error.value.exit_code == 5
