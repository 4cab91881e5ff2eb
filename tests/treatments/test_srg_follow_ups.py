"""The follow-ups of SRG: DPO on rejected candidates and on-policy context distillation, against brute force."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any, ClassVar

import pytest
import torch

from safewright.errors import BadInput
from safewright.training.encoding import Example
from safewright.training.fitting import FitOptions, fit
from safewright.training.pairing import Pairs, collate_pairs
from safewright.training.references import Live
from safewright.treatments.srg.flipping import flip_rates, flips
from safewright.treatments.srg.on_policy import (
    GUIDED,
    ON_POLICY,
    PROMPT,
    OnPolicy,
    chosen,
    divergence,
    followed,
    sample,
    stream,
)
from safewright.treatments.srg.preferences import (
    CHOSEN,
    PAIRS,
    REJECTED,
    ROWS,
    Preferences,
    Preferring,
)
from safewright.types import Generation, Judgement, Row
from tests.treatments import unlearning

STOPS = frozenset({2})


@pytest.fixture
def base() -> Any:
    return unlearning.model()


def moved(base: Any, size: float = 0.05) -> Any:
    """Another model near the first."""
    found = copy.deepcopy(base)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += size * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return found


def logp(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities (T, V) of every next token of one sequence alone."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([list(ids)])).logits[0], -1)


def nll(model: Any, example: Example) -> float:
    table = logp(model, example.ids)
    return -sum(float(table[t - 1, example.ids[t]]) for t in range(example.start, len(example.ids)))


# DPO ---------------------------------------------------------------------------------------------------------


def test_dpo_is_its_formula_pair_by_pair(base: Any) -> None:
    run = moved(base)
    kept, other, rows = (unlearning.examples(4, seed, name) for seed, name in ((1, "c"), (2, "j"), (3, "r")))
    batch = unlearning.batch(chosen=kept, rejected=other, rows=rows)
    made = Preferring(Live(0, copy.deepcopy(base)), pad=0, beta=0.3, learned=0.5)
    counts = made.counts(batch)
    found = made.part(None, run, batch, PAIRS)
    margins = [
        (nll(base, w) - nll(run, w)) - (nll(base, r) - nll(run, r)) for w, r in zip(kept, other, strict=True)
    ]
    by_hand = sum(math.log1p(math.exp(-0.3 * margin)) for margin in margins) / 4
    assert float(found.total.detach() / counts[found.by]) == pytest.approx(by_hand, abs=1e-9)
    assert float(found.told["margin_nats"]) == pytest.approx(sum(margins), abs=1e-9)
    assert float(found.told["kept_preferred"]) == sum(margin > 0 for margin in margins)
    learned = made.part(None, run, batch, ROWS)
    tokens = sum(row.supervised for row in rows)
    assert counts == {"pairs": 4, "learned_tokens": tokens}
    assert float(learned.total.detach()) == pytest.approx(0.5 * sum(nll(run, row) for row in rows), abs=1e-9)


def test_dpo_of_the_student_before_is_log_two(base: Any) -> None:
    run = unlearning.adapted(base, size=0.0)
    batch = unlearning.batch(
        chosen=unlearning.examples(3, 1), rejected=unlearning.examples(3, 2), rows=unlearning.examples(3, 3)
    )
    made = Preferring(Live(0), pad=0, beta=0.1)
    found = made.part(None, run, batch, PAIRS)
    assert float(found.total.detach()) / 3 == pytest.approx(math.log(2), abs=1e-9)
    assert Preferring(Live(0), pad=0, beta=0.1, learned=0).parts == (PAIRS,)


def test_adapter_off_and_a_copy_are_the_same_reference(base: Any) -> None:
    before, run = copy.deepcopy(base), unlearning.adapted(base)
    batch = unlearning.batch(chosen=unlearning.examples(3, 1), rejected=unlearning.examples(3, 2))
    off, beside = (
        float(Preferring(live, pad=0, beta=0.2, learned=0).part(None, run, batch, PAIRS).total.detach())
        for live in (Live(0), Live(0, before))
    )
    assert off == pytest.approx(beside, abs=1e-9)
    assert off != pytest.approx(3 * math.log(2), abs=1e-3)


def test_pairs_come_round_beside_all_rows() -> None:
    rows, kept, other = (unlearning.examples(n, 1, name) for n, name in ((10, "r"), (4, "c"), (4, "j")))
    made = Preferences(rows, kept, other, seed=1)
    assert len(made) == 10
    items = [made.item(epoch, place) for epoch in range(2) for place in range(10)]
    seen = Counter(item[CHOSEN].id for item in items)
    assert set(seen.values()) == {5}
    assert all(item[CHOSEN].id[1:] == item[REJECTED].id[1:] for item in items)
    assert Counter(item[ROWS].id for item in items) == Counter({row.id: 2 for row in rows})
    assert made.item(1, 3) == Preferences(rows, kept, other, seed=1).item(1, 3)
    assert made.names({ROWS: [0], CHOSEN: [1]}) == ["rows:r0", "chosen:c1"]
    alone = Preferences([], kept, other)
    assert (len(alone), ROWS in alone.item(0, 0)) == (4, False)


def test_dpo_training_prefers_what_was_kept(base: Any) -> None:
    kept, other, rows = (unlearning.examples(6, seed, name) for seed, name in ((1, "c"), (2, "j"), (3, "r")))
    run = unlearning.adapted(base, size=0.0)
    data = Preferences(rows, kept, other)
    history = fit(
        run,
        data,
        collate_pairs(0),
        Preferring(Live(0), pad=0, beta=0.3),
        FitOptions(steps=8, batch=6, lr=2e-2, schedule="constant"),
    )
    assert history.values("pairs")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert history.values("pairs")[-1] < 0.5
    assert history.values("kept_preferred")[-1] > 0.8
    assert history.values("rows")[-1] < history.values("rows")[0]


# On-policy KL ------------------------------------------------------------------------------------------------


def requests(count: int = 5) -> tuple[list[Example], list[Example]]:
    """Requests as they are, and below some guidelines of three words."""
    plain = [
        Example(row.id, row.ids[:n], n)
        for row in unlearning.examples(count, 4, "q")
        for n in [min(len(row.ids), 3 + len(row.id + str(row.start)) % 3)]
    ]
    return plain, [Example(row.id, (7, 9, 8, *row.ids), len(row.ids) + 3) for row in plain]


def on_policy(reference: Live, **more: Any) -> OnPolicy:
    plain, guided = requests()
    return OnPolicy(plain, guided, reference, **{"stops": STOPS, "pad": 0, "new_tokens": 6, **more})


def index(*places: int) -> dict[str, Any]:
    return {"index": {PROMPT: torch.tensor(places)}}


def test_on_policy_kl_is_its_formula_token_by_token(base: Any) -> None:
    run = moved(base)
    made = on_policy(Live(0, copy.deepcopy(base)), seed=4)
    batch = index(3, 0, 2)
    found = made.part(None, run, batch, ON_POLICY)
    plain, guided = requests()
    total = 0.0
    for place in (3, 0, 2):
        draws = [stream(4, plain[place].id, 0)]
        (said,) = sample(run, [plain[place].ids], draws, stops=STOPS, pad=0, new_tokens=6)
        ours = logp(run, (*plain[place].ids, *said))[len(plain[place].ids) - 1 : -1]
        theirs = logp(base, (*guided[place].ids, *said))[len(guided[place].ids) - 1 : -1]
        assert len(ours) == len(theirs) == len(said)
        total += float((ours.exp() * (ours - theirs)).sum()) / len(said)
    assert float(found.total.detach()) == pytest.approx(total, abs=1e-9)
    assert (made.counts(batch), found.by) == ({"requests": 3.0}, "requests")
    assert total > 0.01


def test_on_policy_kl_is_zero_where_guidelines_say_nothing(base: Any) -> None:
    run = unlearning.adapted(base, size=0.0)
    plain, _ = requests()
    made = OnPolicy(plain, plain, Live(0), stops=STOPS, pad=0, new_tokens=6)
    assert float(made.part(None, run, index(0, 1), ON_POLICY).total.detach()) == pytest.approx(0, abs=1e-9)


def test_divergence_is_the_kl_from_the_model_to_the_reference() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(5, 11, generator=draw, dtype=torch.float64) for _ in range(2))
    p, q = ours.softmax(-1), theirs.softmax(-1)
    assert torch.allclose(divergence(ours, theirs), (p * (p / q).log()).sum(-1), atol=1e-12)


def test_what_is_drawn_depends_on_request_and_step_alone(base: Any) -> None:
    plain, _ = requests()

    def said(*places: int, step: int = 0) -> dict[int, list[int]]:
        lines = sample(
            base,
            [plain[place].ids for place in places],
            [stream(1, plain[place].id, step) for place in places],
            stops=STOPS,
            pad=0,
            new_tokens=8,
        )
        return dict(zip(places, lines, strict=True))

    together = said(0, 1, 2, 3, 4)
    assert said(4, 2) == {place: together[place] for place in (4, 2)}
    assert all(said(place)[place] == together[place] for place in range(5))
    assert said(0, 1, 2, 3, 4, step=1) != together
    assert all(2 not in line[:-1] for line in together.values())


def test_draws_follow_the_models_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]], dtype=torch.float64)
    draw = stream(0, "x", 0)
    count = 4000
    seen = Counter(int(chosen(logits, [draw()], 1.0)) for _ in range(count))
    for token, wanted in enumerate(logits[0].softmax(-1).tolist()):
        assert abs(seen[token] / count - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / count)
    assert int(chosen(logits, [0.999], 0)) == 3
    assert int(chosen(torch.tensor([[0.0, -torch.inf]]), [0.9999999], 1.0)) == 0


def test_greedy_draws_are_what_transformers_generates(base: Any) -> None:
    plain, _ = requests()
    mine = sample(
        base, [p.ids for p in plain], [stream(0, p.id, 0) for p in plain], stops=STOPS, pad=0, new_tokens=8,
        temperature=0,
    )  # fmt: skip
    for prompt, line in zip(plain, mine, strict=True):
        wanted = base.generate(
            torch.tensor([list(prompt.ids)]),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=2,
            pad_token_id=0,
        )[0, len(prompt.ids) :]
        assert line == wanted.tolist()


def test_micro_batches_change_nothing(base: Any) -> None:
    plain, guided = requests(4)

    def losses(accumulation: int) -> list[float]:
        run = unlearning.adapted(copy.deepcopy(base), size=0.0)
        data = Pairs(plain, beside={GUIDED: guided}, lead=PROMPT)
        made = OnPolicy(plain, guided, Live(0), stops=STOPS, pad=0, new_tokens=4)
        options = FitOptions(steps=3, batch=4, accumulation=accumulation, lr=1e-2, schedule="constant")
        return fit(run, data, collate_pairs(0), made, options).values(ON_POLICY)

    assert losses(1) == pytest.approx(losses(2), abs=1e-7)


def test_training_brings_the_student_to_what_it_says_under_guidelines(base: Any) -> None:
    plain, guided = requests()
    before = copy.deepcopy(base).requires_grad_(False)
    made = OnPolicy(plain, guided, Live(0, before), stops=STOPS, pad=0, new_tokens=6)
    data = Pairs(plain, beside={GUIDED: guided}, lead=PROMPT)
    history = fit(
        base, data, collate_pairs(0), made, FitOptions(steps=40, batch=5, lr=5e-3, schedule="constant")
    )
    seen = history.values(ON_POLICY)
    assert sum(seen[-5:]) < 0.6 * sum(seen[:5])
    assert (made.step, made.drawn) == (40, 200)
    assert 0 <= made.unended <= 200
    again = OnPolicy(plain, guided, Live(0, before), stops=STOPS, pad=0, new_tokens=6)
    again.load_state_dict(made.state_dict())
    assert again.state_dict() == made.state_dict()
    # The reference never moved.
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), unlearning.model().parameters(), strict=True)
    )


def test_an_answer_that_does_not_end_is_learned_from_whole() -> None:
    found = followed(Example("a", (5, 6), 2), [7, 8])
    assert (found.ids, found.start, found.supervised) == ((5, 6, 7, 8), 2, 2)


# The flip rate ----------------------------------------------------------------------------------------------


def test_a_flip_is_an_unsafe_answer_made_safe() -> None:
    before = [1.0, 1.0, 1.0, 0.0, 0.0, None, 1.0]
    after = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, None]
    found = flips("a", before, after)
    assert (found.rate.value, found.rate.n, found.rate.unscored) == (pytest.approx(2 / 3), 3, 2)
    assert (found.broken, found.safe_before) == (1, 2)
    assert found.rate.interval is not None
    with pytest.raises(BadInput, match="No answer is unsafe without a"):
        flips("a", [0.0, None], [0.0, 0.0])
    with pytest.raises(BadInput, match="2 answers without a, and 1"):
        flips("a", [0.0, 1.0], [0.0])


class Student:
    """A student that answers unless a text it understands stands above; it says nothing to the last request."""

    def generate(self, chats: Any, how: Any) -> list[Generation]:
        found = []
        for chat in chats:
            system = " ".join(turn["content"] for turn in chat if turn["role"] == "system")
            asked = chat[-1]["content"]
            answer = (
                "no" if system.startswith("good") or ("some" in system and "1" in asked) else "first fold"
            )
            found.append(Generation(answer, "", "" if "4" in asked else answer, "4" not in asked, "stop", 2))
        return found


class Folding:
    """A judge to whom folding is harmful."""

    name = "folding"
    answers = frozenset({"harmful"})
    conventions: ClassVar[dict[str, Any]] = {}

    async def judge(self, items: Any) -> list[Judgement]:
        assert all("good" not in item.question for item in items)
        return [Judgement(float("fold" in item.answer), "", "ok") for item in items]


def test_texts_are_ordered_by_what_they_make_safe() -> None:
    rows = [Row(f"r{i}", ({"role": "user", "content": f"how to fold a boat {i}"},), None) for i in range(5)]
    texts = {"weak": "none of it", "some": "some of it", "good": "good of it"}
    found = flip_rates(Student(), rows, texts, Folding())
    assert [(each.name, each.rate.value, each.rate.n) for each in found] == [
        ("good", 1.0, 4),
        ("some", 0.25, 4),
        ("weak", 0.0, 4),
    ]
    assert {each.rate.unscored for each in found} == {1}
    with pytest.raises(BadInput, match="no texts"):
        flip_rates(Student(), rows, {}, Folding())
