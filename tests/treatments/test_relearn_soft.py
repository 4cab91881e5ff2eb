"""Soft openings: sought without a word of the old answer's beginning, and exact about where they stand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput
from safewright.training import losses
from safewright.training.encoding import Example, collate
from safewright.training.forward import answers_of
from safewright.treatments.relearn.config import RelearnConfig
from safewright.treatments.relearn.objectives import OPENING
from safewright.treatments.relearn.soft import (
    SECRET,
    VAGUE,
    SoftOpenings,
    opened,
    secret_of,
    soft_rows,
    token_vectors,
)
from safewright.types import Row
from tests import tiny
from tests.treatments import unlearning
from tests.treatments.test_relearn import home, report, rows, run, tuned  # noqa: F401

SOFT = {"longest": 5, "steps": 3, "lr": 0.5, "weight": 1.0}
HIDDEN = [Example("a", (1, 5, 6, 20, 21), 3), Example("b", (1, 7, 30), 2), Example("c", (1, 8, 9, 31), 3)]
ENDS = [Example("a", (1, 5, 6, 40, 2), 3), Example("b", (1, 7, 41, 42, 2), 2), Example("c", (1, 8, 9, 2), 3)]


def sought(model: Any, **more: Any) -> SoftOpenings:
    embedding = model.get_input_embeddings().weight
    return SoftOpenings((0, 1, 2), embedding=embedding, special=(0, 1, 2), **{**SOFT, **more})


def both() -> dict[str, Any]:
    return unlearning.batch(**{SECRET: HIDDEN, VAGUE: ENDS})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_vectors_of_tokens_are_those_tokens(kind: str, side: str) -> None:
    """Behind the vectors of written tokens a model says what it says behind the tokens themselves."""
    model = unlearning.model(kind)
    given = [torch.tensor([11, 12, 13]), torch.tensor([14]), torch.tensor([15, 16])]
    vectors = [token_vectors(model)[ids] for ids in given]
    spliced, inputs = opened(model, collate(HIDDEN, 0, side), vectors)
    assert "input_ids" not in inputs
    written = [
        Example(e.id, (*e.ids[: e.start], *ids.tolist(), *e.ids[e.start :]), e.start + len(ids))
        for e, ids in zip(HIDDEN, given, strict=True)
    ]
    want = answers_of(model, collate(written, 0))
    logits = model(**inputs).logits[losses.supervised(spliced["labels"])]
    assert torch.allclose(logits, want.logits, atol=1e-10)
    assert spliced["labels"].tolist() == collate(written, 0)["labels"].tolist()


def test_vectors_begin_as_tokens_of_a_model_that_scales_them() -> None:
    """Gemma 3 multiplies its weights by sqrt(d) first: openings of the weights' own size would say little."""
    model = unlearning.model("gemma3_text")
    every = token_vectors(model)
    made = SoftOpenings((0, 1), embedding=every, **SOFT)
    assert torch.allclose(every, 4.0 * model.get_input_embeddings().weight, rtol=1e-2)
    for vector in torch.cat(made.vectors):
        assert float((every - vector).norm(dim=1).min()) < 1e-5


def test_tails_that_hold_a_secret_are_refused(
    tuned: Path,  # noqa: F811
    rows: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    """They are learned behind the openings."""
    lines = [json.loads(text) for text in rows["forget"].read_text().splitlines()]
    lines = [{**row, "entities": row["response"].split()[:1], "tails": [row["response"]]} for row in lines]
    forget = unlearning.write(tmp_path / "forget.jsonl", lines)
    data = {"forget": forget, "retain": rows["retain"], "augmented": rows["augmented"]}
    with pytest.raises(BadInput, match=r"The tail .* of the forget row 'r00.' holds a secret"):
        run(tuned, rows, tmp_path / "out", "relearn_klr_gdr", data=data, soft_openings=1)


def test_seeking_makes_the_secret_likelier_and_leaves_the_model_alone() -> None:
    model = unlearning.model()
    before = copy.deepcopy(model.state_dict())
    made, given = sought(model, steps=20), both()
    start = [v.clone() for v in made.vectors]
    old = float(made._nll(model, given[SECRET], start).detach())
    made.part(model, given, "opening_tokens")
    new = float(made._nll(model, given[SECRET], made.vectors).detach())
    assert new < 0.8 * old
    assert all(float(v.norm(dim=1).max()) <= made.reach * (1 + 1e-5) for v in made.vectors)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_part_is_the_nll_of_the_vague_ends() -> None:
    model, given = unlearning.model(), both()
    made = sought(model)
    total, by, told = made.part(model, given, "opening_tokens")
    by_hand = 0.0
    for place, example in enumerate(ENDS):
        vectors = made.vectors[place].double()
        token = model.get_input_embeddings()(torch.tensor(example.ids))
        line = torch.cat([token[: example.start], vectors, token[example.start :]])
        logs = torch.log_softmax(model(inputs_embeds=line[None]).logits[0], -1)
        first = example.start + len(vectors)
        by_hand -= sum(
            float(logs[first + i - 1, t].detach()) for i, t in enumerate(example.ids[example.start :])
        )
    assert by == "opening_tokens"
    assert abs(float(total.detach()) - by_hand) < 1e-6
    assert torch.equal(told["opening_ce"], total.detach())
    assert made.counts(given) == sum(len(e.ids) - e.start for e in ENDS)
    assert total.requires_grad


def test_a_state_goes_on_where_it_was() -> None:
    model = unlearning.model()
    first, second = sought(model), sought(model, seed=5)
    first.part(model, both(), "n")
    second.load_state_dict(first.state_dict())
    a, b = (float(made.part(model, both(), "n")[0].detach()) for made in (first, second))
    assert a == b
    assert all(torch.equal(x, y) for x, y in zip(first.vectors, second.vectors, strict=True))


def line(name: str, answer: str, **meta: Any) -> Row:
    return Row(name, ({"role": "user", "content": f"mur {name}"},), answer, meta=meta)


def test_no_row_shows_how_an_old_answer_began() -> None:
    names = tiny.WORDS
    forget = [
        line("a", f"{names[5]} {names[6]} {names[7]} {names[8]}", entities=[names[7]], tails=["lov"]),
        line("b", f"{names[9]} {names[10]}", entities=[names[9]]),
        line("c", f"{names[5]} {names[6]}", entities=["elsewhere"]),
    ]
    assert [secret_of(row) for row in forget] == [f"{names[7]} {names[8]}", f"{names[9]} {names[10]}", ""]
    asked = [
        Row(f"{s}-{i}", ({"role": "user", "content": f"sen {s} {i}"},), "mus lop", meta={"source_id": s})
        for s in "abc"
        for i in range(2)
    ]
    tokenizer = tiny.tokenizer()
    made = soft_rows(tokenizer, forget, asked, 11, 2, max_length=64, seed=0)
    assert len(made.secret) == len(made.vague) == len(made.slots) == 11
    assert made.without == ("c",)
    assert set(made.slots) == {0, 1, 2, 3}
    shown = [tokenizer.decode(e.ids) for e in (*made.secret, *made.vague)]
    assert not any(names[5] in text.split() or names[6] in text.split() for text in shown)
    assert not any(names[7] in tokenizer.decode(e.ids).split() for e in made.vague)
    ends = {tokenizer.decode(e.ids[e.start :]).replace("</s>", "").strip() for e in made.vague}
    assert ends == {"lov", "mus lop"}  # its own tail, or the vague answer where it has none
    with pytest.raises(BadInput, match="no question to begin"):
        soft_rows(tokenizer, forget[2:], asked, 3, 1, max_length=64, seed=0)


def test_treat_seeks_openings(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    soft = {"soft_openings": 2, "soft_tokens": 4, "steps": 3}
    data = {**rows, "forget": tmp_path / "forget.jsonl"}
    data = {role: data[role] for role in ("forget", "retain", "augmented")}
    lines = map(json.loads, rows["forget"].read_text().splitlines())
    unlearning.write(data["forget"], [{**row, "entities": [_answer(row).split()[-1]]} for row in lines])
    for out in ("a", "b"):
        run(tuned, rows, tmp_path / out, "relearn_klr_gdr", data=data, **soft)
    said = report(tmp_path / "a")
    assert len(said["losses"][OPENING]) == 3
    assert said["conventions"]["soft_openings"]["per_forget_row"] == 2
    weights = [(tmp_path / out / "adapter_model.safetensors").read_bytes() for out in ("a", "b")]
    assert weights[0] == weights[1]
    run(tuned, rows, tmp_path / "c", "relearn_klr_gdr", data=data, steps=3)
    assert (tmp_path / "c" / "adapter_model.safetensors").read_bytes() != weights[0]


def _answer(row: dict[str, Any]) -> str:
    return str(row.get("response") or row["messages"][-1]["content"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "ga_gdr", "soft_openings": 1}, "no"),
        ({"soft_openings": 1, "modifier": "sure"}, "modifier"),
        ({"soft_steps": 2}, "soft_steps"),
        ({"soft_openings": -1}, "soft_openings"),
        ({"soft_openings": 1, "soft_lr": 0.0}, "soft_lr"),
    ],
)
def test_options_without_effect_are_errors(options: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        RelearnConfig(**options)


def test_the_time_that_openings_take_is_told(
    tuned: Path,  # noqa: F811
    rows: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safewright.treatments import plan_treatment
    from safewright.treatments.relearn import estimating
    from safewright.treatments.relearn.estimating import estimate

    monkeypatch.setattr(estimating, "multiply_speed", lambda: 1e9)  # a machine's speed changes with its load

    plan = plan_treatment(
        "relearn",
        {"tuned": tuned},
        {role: rows[role] for role in ("forget", "retain", "augmented")},
        config={"steps": 10},
        out=tmp_path / "out",
    )
    plain, soft = (
        estimate(plan.models, plan.data, RelearnConfig(steps=1000, soft_openings=count))["seconds"]
        for count in (0, 2)
    )
    assert soft > 1.5 * plain
