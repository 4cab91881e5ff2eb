"""Comparisons of arms: what is trained on what, what is measured, what is done once, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safewright import catalog
from safewright.compose.ablation import (
    ABLATION_FILE,
    COMPARED,
    Ablation,
    load_ablation,
    plan_ablation,
    run_ablation,
)
from safewright.compose.matrix import plan_matrix
from safewright.data import load_data
from safewright.data.rows import write_rows
from safewright.errors import BadInput, Missing
from safewright.runs import to_json
from safewright.treatments import plan_treatment
from safewright.treatments.srg import SRGConfig
from safewright.treatments.srg.ablating import thin
from safewright.treatments.srg.arms import ARMS, SUMMARIES, arms_of, scales_of, teachers_of
from tests.compose import ablating
from tests.models.fault_server import FaultServer, said
from tests.treatments.srg_teacher import Asked, harmful_rows, helpful_rows, honest, understood

NAMES = ["rt", "srg", "rt_50pct", "srg_50pct", "srg_by_other"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ablating.home_of(tmp_path_factory.mktemp("ablation"))


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Path, Ablation]:
    out = home / "out"
    return out, run_ablation(plan_ablation(**ablating.given(home), out=out), max_unscored=1)


def provenance(out: Path, arm: str) -> Any:
    return json.loads((out / COMPARED / "models" / arm / "provenance.json").read_text())


def test_every_arm_is_trained_from_the_student_and_measured(whole: tuple[Path, Ablation]) -> None:
    out, found = whole
    assert found.exit_code == 0, found.matrix.failures
    assert [variant.name for variant in found.variants] == NAMES
    assert [arm.arm for arm in found.matrix.arms] == ["none", *NAMES]
    for arm in found.matrix.arms:
        assert set(found.matrix.cards[arm.arm]) == {"harmful_rate", "utility"}
    assert len({arm.model.digest for arm in found.matrix.arms if arm.model}) == 6
    told = {arm: provenance(out, arm) for arm in NAMES}
    assert len({each["parents"]["student"]["digest"] for each in told.values()}) == 1
    assert told["rt_50pct"]["treatment"]["config"]["target"] == "rt"
    assert {each["treatment"]["config"]["steps"] for each in told.values()} == {2}
    assert to_json(load_ablation(out)) == to_json(found)


def test_arms_share_their_rows_scales_are_parts_of_them_and_teachers_have_their_own(
    whole: tuple[Path, Ablation],
) -> None:
    out, found = whole
    digests = {arm: provenance(out, arm)["data"]["reasoned"]["digest"] for arm in NAMES}
    assert digests["rt"] == digests["srg"]
    assert digests["rt_50pct"] == digests["srg_50pct"] != digests["srg"]
    assert len(set(digests.values())) == 3
    assert {variant.name: variant.rows for variant in found.variants} == {
        "rt": 12, "srg": 12, "rt_50pct": 6, "srg_50pct": 6, "srg_by_other": 8,
    }  # fmt: skip
    assert found.records == {"given": 12, "other": 8}


def test_all_are_held_against_the_student_and_against_srg(whole: tuple[Path, Ablation]) -> None:
    _, found = whole
    assert [(c.kind, c.a, c.b) for c in found.matrix.contrasts] == [
        ("untreated", "none", name) for name in NAMES
    ]
    assert [(c.kind, c.a, c.b) for c in found.against] == [
        ("reference", "srg", name) for name in NAMES if name != "srg"
    ]
    deltas = [delta for contrast in found.against for delta in contrast.deltas]
    assert deltas
    assert all(delta.p_holm >= delta.p for delta in deltas)
    assert all(0 < delta.n <= 4 for delta in deltas)


def test_nothing_is_trained_or_asked_twice(home: Path, whole: tuple[Path, Ablation]) -> None:
    out, found = whole
    weights = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    told: list[str] = []
    plan = plan_ablation(**ablating.given(home), out=out)
    again = run_ablation(plan, max_unscored=1, progress=lambda what, done, total: told.append(what))
    assert told == []
    assert {file: file.stat().st_mtime_ns for file in weights} == weights
    assert to_json(again.matrix.contrasts) == to_json(found.matrix.contrasts)
    with pytest.raises(BadInput, match="another plan"):
        run_ablation(plan_ablation(**ablating.given(home, own={"arms": "rt"}), out=out))


def test_killed_anywhere_it_goes_on(home: Path, whole: tuple[Path, Ablation], tmp_path: Path) -> None:
    asked = ablating.given(home, out=tmp_path / "out", own={"arms": "srg"})
    for point in (40, 50):
        assert ablating.in_process(asked, point) is None
        assert not (tmp_path / "out" / ABLATION_FILE).exists()
    ablating.in_process(asked)
    assert load_ablation(tmp_path / "out").matrix.failures == ()
    # What an arm becomes depends on nothing else that is compared.
    kept, again = (
        (out / COMPARED / "models" / "srg" / "model.safetensors").read_bytes()
        for out in (whole[0], tmp_path / "out")
    )
    assert kept == again


def test_a_part_that_fails_is_one_arm(home: Path, tmp_path: Path) -> None:
    ablating.write(tmp_path / "plain.jsonl", ablating.records(8, rejected=False))
    asked = ablating.given(home, data={"reasoned": tmp_path / "plain.jsonl"}, own={"arms": "srg,dpo"})
    found = run_ablation(plan_ablation(**asked, out=tmp_path / "out"), max_unscored=1)
    (failure,) = found.matrix.failures
    assert (failure.arm, failure.exit_code, found.exit_code) == ("dpo", 2, 2)
    assert "rejected" in failure.error
    assert set(found.matrix.cards["srg"]) == {"harmful_rate", "utility"}


def test_arms_of_every_kind_are_trained_on_one_set_of_records(home: Path, tmp_path: Path) -> None:
    """A text is read by those arms alone that show it; the others would refuse it."""
    (tmp_path / "text.txt").write_text("ban bar ran\n")
    arms = "noguide,context,harden,on_policy_kl,answer_then_check,dpo"
    asked = ablating.given(home, own={"arms": arms}, measures=["utility"], limit=12)
    asked["options"] |= {"context_file": str(tmp_path / "text.txt"), "kl_tokens": 4, "steps": 1}
    asked["options"]["reentry_openings"] = str(openings(tmp_path))
    asked["measured"] = {
        "data": {"utility": home / "utility.jsonl"},
        "options": {"utility": {"max_new_tokens": 2}},
    }
    found = run_ablation(plan_ablation(**asked, out=tmp_path / "out"))
    assert found.matrix.failures == ()
    assert [variant.name for variant in found.variants] == arms.split(",")
    assert found.against == ()
    digests = Counter(arm.model.digest for arm in found.matrix.arms if arm.model)
    assert len(digests) == 7
    reports = {arm: provenance(tmp_path / "out", arm)["report"] for arm in arms.split(",")}
    assert reports["on_policy_kl"]["drawn"] == 12
    assert reports["dpo"]["pairs"] == 6
    assert reports["harden"]["begun_turns"] > 0


def openings(home: Path) -> Path:
    file = home / "openings.txt"
    file.write_text("".join(f"{word} ran\n" for word in ablating.WORDS[:6]))
    return file


def test_rows_that_are_not_there_are_made_first(home: Path, tmp_path: Path) -> None:
    """A source without rows is a stage of the treatment, planned before, and run once."""
    ablating.write(home / "helpful.jsonl", [{"id": "h", "prompt": "ran rav tip", "answer": "mus"}])
    asked = ablating.given(home, data={"harmful": home / "harm.jsonl", "helpful": home / "helpful.jsonl"})
    asked["own"] = {"arms": "srg", "teachers": f"other={home / 'other.jsonl'}"}
    asked["models"] = {**asked["models"], "teacher": home / "student"}
    plan = plan_ablation(**asked, out=tmp_path / "out")
    assert set(plan.made) == {"given"}
    assert set(plan.there) == {"other"}
    made = plan.made["given"]
    assert made.stage == "synthesize"
    assert made.out == tmp_path / "out" / "records" / "given"
    assert set(plan.matrix.first["srg"].models) == {"student", "teacher"}
    assert set(plan.matrix.first["srg_by_other"].models) == {"student"}
    assert set(plan.matrix.first["srg_by_other"].data) == {"reasoned"}
    costs = plan.estimates()
    assert costs.records["given"]["calls"] > 0
    assert costs.arms.arms == 3


def test_rows_are_made_once_and_trained_on(home: Path, tmp_path: Path) -> None:
    server = FaultServer()
    server.behave = lambda request, number: said(honest(asked_of(request)))
    try:
        write_rows(tmp_path / "harmful.jsonl", harmful_rows(4))
        write_rows(tmp_path / "helpful.jsonl", helpful_rows(4))
        asked = ablating.given(home, own={"arms": "srg,rt"}, measures=["utility"])
        asked["data"] = {role: tmp_path / f"{role}.jsonl" for role in ("harmful", "helpful")}
        asked["models"] = {**asked["models"], "teacher": f"{server.base}#toy"}
        asked["options"] |= {"least_words": 5, "draws": 1, "max_length": 128}
        asked["measured"] = {"data": {"utility": home / "utility.jsonl"}}
        names: list[str] = []
        plan = plan_ablation(**asked, out=tmp_path / "out")
        found = run_ablation(plan, max_unscored=1, making=names.append)
        calls = len(server.requests)
        assert calls >= 8
        assert (found.matrix.failures, found.records, names) == ((), {"given": 8}, ["given"])
        assert (tmp_path / "out" / "records" / "given" / "reasoned.jsonl").is_file()
        assert provenance(tmp_path / "out", "rt")["data"]["reasoned"]["rows"] == 8
        assert set(provenance(tmp_path / "out", "srg")["parents"]) == {"student"}
        # A second call asks nobody.
        run_ablation(plan_ablation(**asked, out=tmp_path / "out"), max_unscored=1)
        assert len(server.requests) == calls
    finally:
        server.close()


def asked_of(request: dict[str, Any]) -> Asked:
    kind, material, attempt = understood(request["messages"])
    return Asked(kind, material, attempt, 0, 0, request["messages"][0]["content"])


def test_costs_are_told_before(home: Path, tmp_path: Path) -> None:
    costs = plan_ablation(**ablating.given(home), out=tmp_path / "out").estimates()
    assert costs.arms.arms == 6
    assert costs.arms.disk_bytes > 0
    assert costs.arms.seconds > 0
    assert costs.arms.measures["utility"].calls == 6 * 4
    assert costs.records == {}
    assert not (tmp_path / "out").exists()


def test_measures_are_those_with_rows(home: Path, tmp_path: Path) -> None:
    asked = ablating.given(home)
    del asked["measures"], asked["measured"]
    plan = plan_ablation(
        **asked, measured={"data": {"utility": home / "utility.jsonl"}}, out=tmp_path / "out"
    )
    assert list(plan.matrix.asked) == ["utility"]
    own = {**asked["own"], "measures": "utility,harmful_rate"}
    data = {"data": {"utility": home / "utility.jsonl", "harmful_rate": home / "harm.jsonl"}}
    plan = plan_ablation(**{**asked, "own": own}, measured=data, out=tmp_path / "out")
    assert list(plan.matrix.asked) == ["utility", "harmful_rate"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stage": "train"}, "no stage 'train' that compares"),
        ({"stage": "check"}, "no stage 'check' that compares"),
        ({"models": {}}, "needs the student model"),
        ({"models": {"pupil": "PATH"}}, "no model in the role 'pupil'"),
        ({"data": {}}, "no records to train the arms on.*teacher=MODEL"),
        ({"data": {"reason": "FILE"}}, "no rows in the role 'reason'.*'reasoned'"),
        ({"own": {"arm": "rt"}}, "no option 'arm'.*'arms'"),
        ({"own": {"arms": "rt,srgg"}}, "no arm 'srgg'.*'srg'"),
        ({"own": {"arms": ""}}, "arms names none"),
        ({"own": {"arms": "rt,rt"}}, "Name each once"),
        ({"own": {"arms": "rt,,srg"}}, "one comma"),
        ({"own": {"arms": "rt", "scales": "2"}}, "scales holds '2'.*up to 1"),
        ({"own": {"arms": "rt", "scales": "a"}}, "scales holds 'a'"),
        ({"own": {"arms": "rt", "teachers": "big"}}, "teachers holds 'big'.*NAME=MODEL"),
        ({"own": {"arms": "rt", "teachers": "big=/no/such.jsonl"}}, "there is no such file"),
        ({"own": {"arms": "rt", "teachers": "big=PATH"}}, "teacher big has no requests"),
        ({"own": {"arms": "rt", "teachers": "a-b=FILE"}}, "teachers holds 'a-b="),
        ({"options": {"target": "rt"}}, "target was given, and the arms of ablate decide it"),
        ({"options": {"step": 2}}, "no option 'step'.*'steps'"),
        ({"measures": [], "measured": {}}, "no rows to measure the arms on.*attack_success.harm=FILE"),
        ({"measures": ["utilty"]}, "no measure called 'utilty'"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    home: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    def real(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: real(each) for key, each in value.items()}
        if not isinstance(value, str):
            return value
        return value.replace("FILE", str(home / "reasoned.jsonl")).replace("PATH", str(home / "student"))

    with pytest.raises((BadInput, Missing), match=f"(?s){message}"):
        plan_ablation(**ablating.given(home, **real(more)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stage_that_compares_is_no_treatment_of_its_own(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"(?s)ablate of srg compares.*plan_ablation"):
        plan_treatment("srg", {"student": home / "student"}, {}, stage="ablate", out=tmp_path / "out")


def test_shares_are_parts_of_one_another(home: Path) -> None:
    general = [{"id": f"g{i}", "prompt": "ban", "answer": "bar", "type": "general"} for i in range(4)]
    file = ablating.write(home / "mixed.jsonl", ablating.records(20) + general)
    rows = load_data(file, "reasoned").rows
    kept = {share: [row.id for row in thin(rows, share, 3)] for share in (0.1, 0.3, 0.7, 1.0)}
    assert [len(ids) for ids in kept.values()] == [2 + 4, 6 + 4, 14 + 4, 24]
    assert kept[1.0] == [row.id for row in rows]
    assert set(kept[0.1]) < set(kept[0.3]) < set(kept[0.7])
    types = Counter(row.meta["type"] for row in thin(rows, 0.3, 3))
    assert types == {"harmful": 3, "helpful": 3, "general": 4}
    assert kept[0.3] != [row.id for row in thin(rows, 0.3, 4)]


def test_what_the_options_say_is_read_strictly() -> None:
    assert arms_of("all") == tuple(ARMS)
    assert ARMS.keys() == SUMMARIES.keys()
    for arm, options in ARMS.items():
        assert set(options) <= {field.name for field in dataclasses.fields(SRGConfig)}, arm
        SRGConfig(**options)
    assert scales_of("1,0.3,0.1") == (0.1, 0.3)
    assert teachers_of("self,big=openai/m?x=1,old=a.jsonl") == {
        "self": "self", "big": "openai/m?x=1", "old": "a.jsonl",
    }  # fmt: skip
    stage = catalog.find("srg", "treatment").stages["ablate"]
    assert set(stage.options()) == {"arms", "scales", "teachers", "measures"}


def test_srg_is_a_row_of_a_matrix(home: Path) -> None:
    asked = ablating.given(home)
    plan = plan_matrix(
        home / "student",
        {"srg": "srg", "rt": "srg"},
        ["utility"],
        data={"srg": asked["data"], "rt": asked["data"], "utility": home / "utility.jsonl"},
        options={"srg": ablating.QUICK, "rt": {**ablating.QUICK, "target": "rt"}},
    )
    assert [arm.name for arm in plan.arms] == ["none", "srg", "rt", "srg+rt", "rt+srg"]
    assert set(plan.first["srg"].models) == {"student"}
    with pytest.raises(BadInput, match="MODEL is the student one"):
        plan_matrix(
            home / "student",
            ["srg"],
            ["utility"],
            models={"srg": {"student": home / "student"}},
            data={"srg": asked["data"], "utility": home / "utility.jsonl"},
        )
