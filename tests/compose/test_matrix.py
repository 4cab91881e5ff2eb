"""Matrices over small random models: what is made from what, what is asked once, and what a failure costs."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.compose.compare import compare
from safewright.compose.matrix import Matrix, load_matrix, matrix, plan_matrix, run_matrix
from safewright.errors import BadInput, Incomplete, Missing, NumericalFailure
from safewright.models import resolve
from safewright.models.merging import merged
from safewright.runs import to_json
from safewright.types import JudgeItem, Judgement, TreatmentResult
from tests import tiny
from tests.compose import treating
from tests.contract.fakes import HalfFailing, Sure
from tests.treatments import folders

ARMS = ["none", "uniform_scale", "made_up", "uniform_scale+made_up", "made_up+uniform_scale"]


@pytest.fixture(scope="module", autouse=True)
def _entered() -> Iterator[None]:
    with treating.entered():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    treating.given(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> tuple[Path, Matrix]:
    return home / "out", matrix(**treating.given(home), out=home / "out")


def provenance(out: Path, arm: str) -> Any:
    return json.loads((out / "models" / arm / "provenance.json").read_text())


def plain(found: Matrix) -> Any:
    """A matrix without what a run costs and where it lies."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: bare(v) for k, v in value.items() if k not in ("cost", "where", "base", "digest", "models")
            }
        return [bare(v) for v in value] if isinstance(value, list) else value

    return bare(to_json(found))


def test_every_arm_is_made_and_measured(whole: tuple[Path, Matrix]) -> None:
    out, found = whole
    assert [arm.arm for arm in found.arms] == ARMS
    assert (found.failures, found.unscored, found.exit_code) == ((), {}, 0)
    for arm in found.arms:
        assert set(found.cards[arm.arm]) == {"harmful_rate", "utility"}
        assert arm.model is not None
        assert {card.models["target"].digest for card in found.cards[arm.arm].values()} == {arm.model.digest}
    assert len({arm.model.digest for arm in found.arms if arm.model}) == 5
    assert to_json(load_matrix(out)) == to_json(found)
    assert len(found.contrasts) == 7
    # Each arm is a run like any other.
    alone = compare(out / "arms" / "none", out / "arms" / "made_up")
    mine = next(c for c in found.contrasts if c.b == "made_up")
    assert [d.p for d in alone.deltas] == [d.p for d in mine.deltas]


def test_aligned_stays_the_original_and_adapters_are_handed_on(
    home: Path, whole: tuple[Path, Matrix]
) -> None:
    out, found = whole
    aligned, tuned = (resolve(home / name).digest for name in ("aligned", "tuned"))
    parents = {arm: provenance(out, arm)["parents"] for arm in ARMS[1:]}
    assert parents["uniform_scale"]["tuned"]["digest"] == parents["made_up"]["tuned"]["digest"] == tuned
    for arm in ("uniform_scale", "made_up+uniform_scale"):
        assert parents[arm]["aligned"]["digest"] == aligned
    by_name = {arm.arm: arm for arm in found.arms}
    mended, adapter = by_name["uniform_scale"].model, by_name["made_up"].model
    assert mended is not None
    assert adapter is not None
    assert parents["uniform_scale+made_up"]["tuned"]["digest"] == mended.digest
    assert adapter.kind == "adapter"
    assert by_name["uniform_scale+made_up"].notes == ()
    (note,) = by_name["made_up+uniform_scale"].notes
    assert "adapter of made_up was merged into its base before uniform_scale" in note
    merged_ = Path(parents["made_up+uniform_scale"]["tuned"]["where"])
    import peft

    ids = torch.tensor([[1, 9, 10, 11]])
    wanted = peft.PeftModel.from_pretrained(folders.load(home / "tuned"), out / "models" / "made_up")(
        ids
    ).logits
    assert torch.allclose(folders.load(merged_)(ids).logits, wanted, atol=1e-5)


def test_an_adapter_on_the_given_base_stays_one(home: Path, tmp_path: Path) -> None:
    tuned = folders.adapter(home / "aligned", tmp_path / "adapter")
    asked = treating.given(home)
    both = {"treatments": asked["treatments"], "models": asked["models"]}
    found = matrix(**treating.little(home, model=tuned, **both), out=tmp_path / "out")
    by_name = {arm.arm: arm for arm in found.arms}
    assert found.exit_code == 0
    assert by_name["uniform_scale"].model is not None
    assert (by_name["uniform_scale"].model.kind, by_name["uniform_scale"].notes) == ("adapter", ())
    # Its own base is none of what made_up is given: there it is merged.
    assert "adapter of none was merged" in by_name["made_up"].notes[0]
    assert found.cards["none"]["utility"].readings[0].n == 2
    assert provenance(tmp_path / "out", "made_up")["data"]["forget"]["rows"] == 6


def test_nothing_is_made_or_asked_twice(home: Path, whole: tuple[Path, Matrix]) -> None:
    out, found = whole
    parts = [f for f in out.rglob("*") if f.is_file() and f.name not in ("matrix.json", "result.json")]
    before = {file: file.stat().st_mtime_ns for file in parts}
    told: list[str] = []
    again = matrix(**treating.given(home), out=out, progress=lambda what, done, total: told.append(what))
    assert told == []
    assert to_json(again) == to_json(found)
    assert {f: f.stat().st_mtime_ns for f in before} == before
    with pytest.raises(BadInput, match=r"another plan: matrix differ \(matrix\.treatments\.uniform_scale"):
        matrix(**treating.given(home, options={"uniform_scale": {"alpha": 0.25}}), out=out)


def test_killed_anywhere_it_goes_on(home: Path, whole: tuple[Path, Matrix], tmp_path: Path) -> None:
    asked, out = treating.given(home), tmp_path / "out"
    # Counted from each start: in a measure of the first arm, then in a treatment of the fourth.
    for point in (30, 200):
        assert treating.in_process(asked, out, point) is None
        assert not (out / "matrix.json").exists()
    treating.in_process(asked, out)
    assert plain(load_matrix(out)) == plain(whole[1])
    for arm in ARMS[1:]:
        (file,) = (out / "models" / arm).glob("*.safetensors")
        assert file.read_bytes() == (whole[0] / "models" / arm / file.name).read_bytes()
    for arm in ARMS:
        for measure in ("harmful_rate", "utility"):
            journal = out / "arms" / arm / measure / "journal" / "answers.jsonl"
            asked_for = [tuple(json.loads(line)["key"]) for line in journal.read_text().splitlines()]
            assert len(asked_for) == len(set(asked_for)) == 6
    for arm in ("made_up", "uniform_scale+made_up"):
        made = out / "models" / f"{arm}.run" / "journal" / "made-up.jsonl"
        assert len(made.read_text().splitlines()) == 1


def test_a_failed_treatment_loses_its_own_arms_and_no_others(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[tuple[str, str, bool]] = []

    def tell(arm: str, what: str, result: Any) -> None:
        told.append((arm, what, isinstance(result, TreatmentResult)))

    asked = treating.given(home)
    both = {"treatments": asked["treatments"], "models": asked["models"], "orders": "pairs"}
    plan = plan_matrix(**treating.little(home, **both))
    treating.BROKEN.append(NumericalFailure("The loss is nan at step 3."))
    try:
        found = run_matrix(plan, out=out, told=tell)
    finally:
        treating.BROKEN.clear()
    assert [(f.arm, f.what, f.exit_code) for f in found.failures] == [
        ("made_up", "made_up", 3),
        ("uniform_scale+made_up", "made_up", 3),
        ("made_up+uniform_scale", "uniform_scale", 3),
    ]
    assert "nan at step 3" in found.failures[0].error
    assert "made_up failed" in found.failures[2].error
    assert found.exit_code == 3
    assert [arm for arm, cards in found.cards.items() if cards] == ["none", "uniform_scale"]
    assert [(c.a, c.b) for c in found.contrasts] == [("none", "uniform_scale")]
    # Mended, the same command makes what was missing and nothing else.
    told.clear()
    again = run_matrix(plan, out=out, told=tell)
    assert again.exit_code == 0
    assert [arm for arm, cards in again.cards.items() if cards] == ARMS
    assert ("made_up", "made_up", True) in told


def test_a_crash_is_a_failure_with_its_trace(home: Path, tmp_path: Path) -> None:
    treating.BROKEN.append(ZeroDivisionError("by nothing"))
    try:
        found = matrix(**treating.little(home), out=tmp_path / "out")
    finally:
        treating.BROKEN.clear()
    (failure,) = found.failures
    assert failure.exit_code == found.exit_code == 70
    assert "ZeroDivisionError: by nothing" in failure.error
    assert "made_up_adapter" in (tmp_path / "out" / "journal" / "events.jsonl").read_text()
    for stops in (Incomplete("No space left."), OSError(errno.ENOSPC, "No space left")):
        treating.BROKEN.append(stops)
        try:
            with pytest.raises(type(stops)):
                matrix(**treating.little(home), out=tmp_path / "out")
        finally:
            treating.BROKEN.clear()


class Unreachable(Sure):
    """A judge whose server is away, for every model but the first it judges."""

    def __init__(self, after: int) -> None:
        self.left = after

    async def judge(self, items: list[JudgeItem]) -> list[Judgement]:  # type: ignore[override]
        self.left -= len(items)
        if self.left < 0:
            raise Missing("The judge's server never answered.")
        return await super().judge(items)


def test_a_failed_measure_is_one_cell(home: Path, tmp_path: Path) -> None:
    asked = treating.given(home, treatments=["made_up"], models={}, orders="none", limit=2)
    found = matrix(**{**asked, "judges": {"harmful_rate": Unreachable(2)}}, out=tmp_path / "out")
    assert [(f.arm, f.what, f.exit_code) for f in found.failures] == [("made_up", "harmful_rate", 5)]
    assert set(found.cards["made_up"]) == {"utility"}
    assert {(c.b, d.measure) for c in found.contrasts for d in c.deltas} == {("made_up", "utility")}
    assert matrix(**asked, out=tmp_path / "out").exit_code == 0


def test_checks_and_unscored_records_decide_the_exit_code(home: Path, tmp_path: Path) -> None:
    asked = treating.given(home, treatments=["made_up"], models={}, orders="none", limit=4)
    options = {**asked["options"], "made_up": {"passes": False}}
    failing = {**asked, "judges": {"harmful_rate": HalfFailing()}}
    found = matrix(**failing, out=tmp_path / "half")
    assert set(found.unscored) == {"none/harmful_rate", "made_up/harmful_rate"}
    assert found.exit_code == 11
    assert found.unscored["none/harmful_rate"] == 0.5
    failed = matrix(**treating.little(home, options={"made_up": options["made_up"]}), out=tmp_path / "failed")
    assert failed.exit_code == 10
    assert set(failed.cards["made_up"]) == {"utility"}  # it is measured all the same


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"treatments": ["uniform_scales"]}, "no treatment called 'uniform_scales'.*uniform_scale"),
        ({"treatments": []}, "No treatment was named"),
        ({"treatments": ["safe_instruct"]}, "safe_instruct takes no tuned model.*uniform_scale"),
        ({"treatments": ["made_up", "made_up"]}, "named twice.*a=NAME"),
        ({"treatments": {"none": "made_up"}}, "'none' cannot be the label"),
        ({"treatments": {"a+b": "made_up"}}, r"'a\+b' cannot be the label"),
        ({"treatments": "made_up"}, "lists of names"),
        ({"measures": []}, "No measure was named"),
        ({"measures": ["utilty"]}, "no measure called 'utilty'.*utility"),
        ({"measures": ["utility", "utility"]}, "'utility' is named twice"),
        ({"orders": "pair"}, "orders is 'pair'.*'pairs'"),
        ({"models": {"uniform_scal": {}}}, "no method 'uniform_scal'.*uniform_scale"),
        ({"models": {}}, "uniform_scale needs the aligned model"),
        ({"models": {"uniform_scale": {"tuned": "x"}}}, "MODEL is the tuned one|There is no folder"),
        ({"models": {"uniform_scale": {"alinged": "PATH"}}}, "alinged.*'aligned'"),
        ({"data": {"made_up": {"forgets": "FILE"}}}, "no rows in the role 'forgets'.*'forget'"),
        ({"data": {"utility": {"utility": "FILE"}}}, "made_up needs rows for 'forget'"),
        ({"data": {"made_up": {"forget": "/no/such.jsonl"}}}, "such.jsonl does not exist"),
        ({"options": {"made_up": {"sed": 1}}}, "no option 'sed'.*'seed'"),
        ({"options": {"utility": {"metrics": "exact"}}}, "no option 'metrics'.*'metric'"),
        ({"judges": {"utility": "keyword"}}, "utility uses no judge"),
        ({"limit": 0}, "--limit"),
        ({"seed": -1}, "seed is -1"),
        ({"model": "http://127.0.0.1:1/v1#x"}, "cannot be treated|never answered|reach"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    home: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    def real(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: real(each) for key, each in value.items()}
        return (
            {"FILE": home / "forget.jsonl", "PATH": home / "aligned"}.get(value, value)
            if isinstance(value, str)
            else value
        )

    with pytest.raises((BadInput, Missing), match=f"(?s){message}"):
        matrix(**treating.given(home, **real(more)), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_method_under_two_labels(home: Path) -> None:
    asked = treating.little(home, treatments={"one": "made_up", "two": "made_up"})
    asked["options"] = {"one": {"seed": 1}, "two": {"seed": 2}}
    asked["data"] = {**asked["data"], **dict.fromkeys(("one", "two"), asked["data"]["made_up"])}
    del asked["data"]["made_up"]
    plan = plan_matrix(**asked)
    assert [arm.name for arm in plan.arms] == ["none", "one", "two"]
    assert [plan.first[label].options.seed for label in ("one", "two")] == [1, 2]
    assert {given.method for given in plan.treatments.values()} == {"made_up"}


def test_overwriting_takes_only_what_a_matrix_made(home: Path, tmp_path: Path) -> None:
    given = treating.little(home)
    matrix(**given, out=tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"mine\.txt"):
        matrix(**{**given, "seed": 1}, out=tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "mine.txt").unlink()
    found = matrix(**{**given, "seed": 1}, out=tmp_path / "out", overwrite=True)
    assert found.exit_code == 0


def test_only_an_adapter_is_merged(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no adapter"):
        merged(resolve(home / "tuned"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("part", ["embed_tokens", "lm_head"])
def test_an_adapter_on_one_of_two_shared_ends_is_merged_into_that_one(
    home: Path, tmp_path: Path, part: str
) -> None:
    """Input and output embeddings are one tensor here: merged into it, the adapter would change both."""
    import peft
    import transformers

    shape = {**folders.SMALL, "num_key_value_heads": 1, "tie_word_embeddings": True}
    base = tiny.save_tiny(tmp_path / "base", **shape)
    plain_ = folders.load(base)
    assert plain_.get_input_embeddings().weight is plain_.get_output_embeddings().weight
    config = peft.LoraConfig(r=2, target_modules=[part, "q_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(plain_, config)
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[1, 9, 10, 11]])
    wanted = adapted.eval()(ids).logits
    found = folders.load(merged(resolve(tmp_path / "adapter"), tmp_path / "merged"))
    assert torch.allclose(found(ids).logits, wanted, atol=1e-4)
    assert not torch.allclose(folders.load(base)(ids).logits, wanted, atol=0.1)


def test_the_cost_is_told_before(home: Path) -> None:
    costs = plan_matrix(**treating.given(home)).estimates()
    assert costs.arms == 5
    assert costs.measures["utility"].calls == 5 * 6
    assert costs.disk_bytes > 0
    assert costs.unknown == ("uniform_scale", "made_up")
