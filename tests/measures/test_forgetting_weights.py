"""Forgetting on real, tiny models: changed weights, relearning, perplexity; and a kill at any moment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.measures import measure_model
from safewright.measures.forgetting.asking import shown_again
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.measures.forgetting.reading import LARGEST, perplexities, without_template
from safewright.models import load, resolve
from safewright.stats.lexical import linguistic_score
from safewright.types import Scorecard
from tests import tiny
from tests.measures.forgetting_rows import Telling, data, number, tiny_data

ALL = {
    "attacks": "all",
    "max_new_tokens": 5,
    "draws": 2,
    "relearn_rows": 3,
    "relearn_steps": 3,
    "relearn_lr": 1e-2,
}
WEIGHTS = {**ALL, "attacks": "int8,int4,bf16,relearn"}


@pytest.fixture(scope="module")
def fluency_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("fluency") / "model", seed=5)


def run(models: Any, folder: Path, config: dict[str, Any], **more: Any) -> Scorecard:
    return measure_model("forgetting", models, data=tiny_data(), config=config, run=folder, **more)


def content(folder: Path) -> tuple[bytes, dict[str, Any]]:
    card = json.loads((folder / "scorecard.json").read_text())
    card.pop("cost")
    return (folder / "records.jsonl").read_bytes(), card


def test_every_attack_is_a_row_and_a_kill_at_any_moment_changes_nothing(
    tiny_folder: Path, fluency_folder: Path, tmp_path: Path
) -> None:
    models = {"target": tiny_folder, "fluency": fluency_folder}
    card = run(models, tmp_path / "whole", ALL)
    names = [reading.name for reading in card.readings]
    for attack in ("prefix", "paraphrase", "roleplay", "sampling", "int8", "int4", "bf16", "relearn"):
        assert f"kfr[{attack}]" in names
        assert f"kfr_change[{attack}]" in names
        assert (f"krr[{attack}]" in names) == (attack not in ("prefix", "sampling"))
    assert {test.name for test in card.tests} == {
        f"{n}_vs_plain" for n in names if n.endswith("]") and "r[" in n
    }
    digests = {role: ref.digest for role, ref in card.models.items()}
    assert set(digests) == {"target", "fluency", "int8", "int4", "bf16", "relearn"}
    assert len(set(digests.values())) == 6
    assert digests["target"] == resolve(tiny_folder).digest

    left = {"asking prefix", "asking int4", "relearning", "reading"}

    def dying(stage: str, done: int, total: int) -> None:
        if done and stage in left:
            left.remove(stage)
            raise KeyboardInterrupt

    for _ in range(len(left)):
        with pytest.raises(KeyboardInterrupt):
            run(models, tmp_path / "broken", ALL, progress=dying)
    assert not left
    run(models, tmp_path / "broken", ALL)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_relearning_is_done_once_on_some_rows_and_asked_about_the_others(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from safewright.training import fitting

    fits: list[int] = []
    plain = fitting.fit

    def counted(*given: Any, **more: Any) -> Any:
        fits.append(1)
        return plain(*given, **more)

    monkeypatch.setattr(fitting, "fit", counted)
    base = load(tiny_folder)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    config = {**ALL, "attacks": "relearn", "relearn_rank": 0}
    card = run(base, tmp_path / "a", config)
    assert len(fits) == 1
    facts = card.conventions["models"]["relearn"]["altered"]
    assert facts["rows"] == [
        f"forget/{r.id}" for r in shown_again(tiny_data()["forget"], ForgettingConfig(relearn_rows=3))
    ]
    assert facts["shown"] == 4  # two whole persons
    assert facts["loss_last"] < facts["loss_first"]
    records = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    asked = {r["meta"]["row"] for r in records if r["role"] == "relearn" and r["meta"]["set"] == "forget"}
    assert asked == {f"forget/r{i:03d}" for i in range(6)} - set(facts["rows"])
    assert all(torch.equal(before[name], tensor) for name, tensor in base.model.state_dict().items())
    assert all(not parameter.grad for parameter in base.model.parameters() if parameter.grad is not None)

    # Answers lost, training kept: it is not done again, and the same is said.
    journal = tmp_path / "a" / "journal" / "answers.jsonl"
    kept = [line for line in journal.read_text().splitlines() if '"relearn"' not in line]
    journal.write_text("".join(f"{line}\n" for line in kept))
    first = content(tmp_path / "a")
    run(base, tmp_path / "a", config)
    assert len(fits) == 1
    assert content(tmp_path / "a") == first
    run(tiny_folder, tmp_path / "b", config)
    assert len(fits) == 2
    again = json.loads((tmp_path / "b" / "records.jsonl").read_text().splitlines()[-1])
    assert again["generation"] == records[-1]["generation"]
    other = run(base, tmp_path / "c", {**config, "relearn_seed": 1})
    assert other.models["relearn"].digest != card.models["relearn"].digest


def test_relearning_teaches_what_it_shows(tiny_folder: Path, tmp_path: Path) -> None:
    """With enough steps the shown rows are known by heart: the attack does train the model that is asked."""
    from safewright.measures.forgetting.relearning import relearned
    from safewright.runs import open_run
    from safewright.runs.progress import silent
    from safewright.types import Decoding

    rows = tiny_data()["forget"][:2]
    marked = [type(r)(r.id, r.prompt, r.reference, r.lang, {**r.meta, "set": "forget"}) for r in rows]
    for rank in (0, 8):
        config = ForgettingConfig(
            attacks="relearn", relearn_rows=2, relearn_steps=40, relearn_lr=3e-2, relearn_rank=rank
        )
        with open_run(tmp_path / f"rank{rank}", {"a": 1}) as opened:
            model = relearned(load(tiny_folder), opened, marked, silent, config)
            said = model.generate([row.prompt for row in rows], Decoding(max_new_tokens=8))
        # The tiny template has no end of turn, so the model goes on after what it learned.
        for found, row in zip(said, rows, strict=True):
            assert found.answer.startswith(row.reference or "-")


def test_weights_that_are_elsewhere_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    served = Telling(lambda chat, _: "x", kind="served")
    with pytest.raises(BadInput, match=r"not here.*(?s:.*)int8, int4, bf16, relearn"):
        run(served, tmp_path / "a", WEIGHTS)
    assert served.seen == []
    live = Telling(lambda chat, _: "x")
    with pytest.raises(BadInput, match="relearn can be made on no row"):
        run(live, tmp_path / "b", {**WEIGHTS, "relearn_rows": 6})


def test_linguistic_score_is_that_of_the_fluency_model(
    tiny_folder: Path, fluency_folder: Path, tmp_path: Path
) -> None:
    import torch

    config = {"max_new_tokens": 5}
    card = run({"target": tiny_folder, "fluency": fluency_folder}, tmp_path / "a", config)
    records = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    model = load(fluency_folder)
    for record in records[:4]:
        asked = model.tokenizer(record["input"][-1]["content"])["input_ids"]  # bare: no template
        own = model.tokenizer(record["output"], add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model.model(torch.tensor([asked + own])).logits[0].double()
        scores = torch.log_softmax(logits[len(asked) - 1 : -1], -1)
        nll = -scores.gather(1, torch.tensor(own)[:, None]).mean()
        assert record["scores"]["ppl"] == pytest.approx(float(nll.exp()), rel=1e-4)
    found = {reading.name: reading for reading in card.readings}
    own_scores = [r["scores"] for r in records if r["meta"]["set"] == "forget"]
    means = [sum(s[name] for s in own_scores) / len(own_scores) for name in ("ppl", "bi", "hs")]
    assert found["ls_forget"].value == pytest.approx(linguistic_score(*means), abs=1e-12)
    each = [linguistic_score(s["ppl"], s["bi"], s["hs"]) for s in own_scores]
    assert found["ls_robust_forget"].value == pytest.approx(sum(each) / len(each))
    assert found["ls_forget"].interval is not None
    assert found["ppl_forget"].n == 6
    assert card.conventions["method"]["ppl_model"] == model.ref.digest
    assert "warning" not in card.conventions["method"]


def test_perplexity_under_the_judged_model_itself_is_warned_of(tiny_folder: Path, tmp_path: Path) -> None:
    both = {"target": tiny_folder, "fluency": tiny_folder}
    card = run(both, tmp_path / "a", {"max_new_tokens": 5})
    assert "judged model itself" in card.conventions["method"]["warning"]
    from safewright.report import remarks

    assert any("judged model itself" in line for line in remarks([card]))


def test_a_perplexity_that_is_no_number_is_left_out_and_counted(
    tiny_folder: Path, fluency_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safewright.models.hf import HfModel

    plain = HfModel.logprobs
    marked = tiny_data()["forget"][2].prompt[0]["content"]

    def broken(self: Any, chats: Any, answers: Any) -> Any:
        if any(chat[-1]["content"] == marked for chat in chats):
            raise NumericalFailure("not numbers")
        return plain(self, chats, answers)

    monkeypatch.setattr(HfModel, "logprobs", broken)
    card = run({"target": tiny_folder, "fluency": fluency_folder}, tmp_path / "a", {"max_new_tokens": 5})
    found = {reading.name: reading for reading in card.readings}
    assert (found["ppl_forget"].n, found["ppl_forget"].unscored) == (5, 1)
    assert found["ls_forget"].n == 5
    assert found["kfr"].n == found["ppl_retain"].n + 3  # the rates have every row
    assert card.unscored == {"unparsed": 1}


def test_answers_the_fluency_model_cannot_read(fluency_folder: Path) -> None:
    model = load(fluency_folder)
    long = " ".join(tiny.WORDS * 4)
    found = perplexities(model, [("ban", "bap bar"), ("ban", long), ("", "bap")])
    assert found[0]["status"] == "ok"
    assert found[0]["value"] > 1
    assert [about["status"] for about in found[1:]] == ["unparsed", "unparsed"]
    assert "161 tokens" in found[1]["why"]
    assert model.tokenizer.chat_template
    assert without_template(model).tokenizer.chat_template is None
    assert math.isfinite(LARGEST * 1e8)
    with pytest.raises(BadInput, match="log-probabilities"):
        perplexities(Telling(lambda chat, _: "x"), [("a", "b")])


def test_a_model_that_says_nothing_has_no_perplexity_and_no_failure(
    fluency_folder: Path, tmp_path: Path
) -> None:
    for name, count in (("some", 3), ("all", 10)):
        silent = Telling(lambda chat, _, count=count: "" if number(chat) % 100 < count else "ban bap")
        models = {"target": silent, "fluency": fluency_folder}
        card = measure_model("forgetting", models, data=data(6, 4), run=tmp_path / name)
        found = {reading.name: reading for reading in card.readings}
        left = max(0, 6 - count)
        assert (found["ls_forget"].n, found["ls_forget"].unscored) == (left, 6 - left)
        assert (found["ls_forget"].value is None) == (left == 0)
        assert (found["kfr"].n, found["kfr"].unscored) == (left, 6 - left)
        assert "ppl_model" in card.conventions["method"]
