"""Models through Inspect on the direct path: inspect:PROVIDER/NAME is a reference like every other."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    get_model,
)

from safewright.errors import BadInput, Missing
from safewright.measures import measure_model
from safewright.models import load, resolve
from safewright.models.chat import THINK
from safewright.models.inspect_model import InspectModel, read_output
from safewright.types import Decoding, Generation
from tests import tiny

HOW = Decoding(max_new_tokens=12)


def chats(count: int) -> list[Any]:
    return [row.prompt for row in tiny.rows(count)]


def output(content: Any, stop: Any = "stop", tokens: int = 3, **more: Any) -> ModelOutput:
    message = ChatMessageAssistant(content=content, source="generate")
    return ModelOutput(
        model="m",
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=ModelUsage(input_tokens=1, output_tokens=tokens, total_tokens=tokens + 1),
        **more,
    )


def echoing(fails: Any = lambda text: False) -> InspectModel:
    def reply(input: Any, tools: Any, choice: Any, config: Any) -> ModelOutput:
        text = input[-1].text
        if fails(text):
            raise ValueError("no such luck")
        return output(f"{text} {config.max_tokens} {config.temperature} {config.seed}")

    return InspectModel(get_model("mockllm/model", custom_outputs=reply))


def test_the_reference_declares_no_more_than_the_name() -> None:
    ref = resolve("inspect:openai/gpt-4o-mini")
    assert (ref.kind, ref.where) == ("inspect", "openai/gpt-4o-mini")
    assert ref.digest.startswith("declared:sha256:")
    assert ref.digest == resolve("inspect:openai/gpt-4o-mini").digest
    assert ref.digest != resolve("inspect:openai/gpt-4o").digest
    for wrong in ("inspect:", "inspect:openai", "inspect:/x"):
        with pytest.raises(BadInput, match="PROVIDER/NAME"):
            resolve(wrong)


def test_answers_in_order_and_as_they_arrive() -> None:
    model = echoing()
    found = model.generate(chats(20), HOW)
    assert [g.answer for g in found] == [f"{chat[0]['content']} 12 0.0 None" for chat in chats(20)]
    seen: dict[int, Generation] = {}
    again = asyncio.run(model.agenerate(chats(20), HOW, received=seen.__setitem__))
    assert again == found == [seen[index] for index in range(20)]
    done = frozenset(range(1, 20))
    assert list(model.stream(chats(20), HOW, done=done)) == [[(0, found[0])]]
    assert list(model.stream(chats(2), HOW, done=frozenset({0, 1}))) == []


def test_repeated_questions_get_seeds_of_their_own() -> None:
    how = Decoding(max_new_tokens=12, temperature=0.7, seed=3)
    found = echoing().generate([chats(1)[0]] * 4, how)
    assert len({g.answer for g in found}) == 4
    assert [g.answer for g in found] == [g.answer for g in echoing().generate([chats(1)[0]] * 4, how)]


def test_a_failing_question_is_counted_and_a_dead_model_given_up() -> None:
    bad = chats(20)[7][0]["content"]
    found = echoing(lambda text: text == bad).generate(chats(20), HOW)
    assert [index for index, g in enumerate(found) if g.stop == "error"] == [7]
    assert "no such luck" in found[7].error
    with pytest.raises(Missing, match=r"never answered.*no such luck"):
        echoing(lambda text: True).generate(chats(20), HOW)


def test_a_model_that_does_not_exist_is_named() -> None:
    with pytest.raises(Missing, match="nosuch/model"):
        load("inspect:nosuch/model").generate(chats(1), HOW)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (output("ban"), Generation("ban", "", "ban", True, "stop", 3)),
        (output("ban", "max_tokens"), Generation("ban", "", "ban", True, "length", 3)),
        (output("ban", "unknown", 12), Generation("ban", "", "ban", True, "length", 12)),
        (output("ban", "unknown", 5), Generation("ban", "", "ban", True, "stop", 5)),
        (
            output("<think>der</think> ban"),
            Generation("<think>der</think> ban", "der", "ban", True, "stop", 3),
        ),
        (output("<think>der"), Generation("<think>der", "der", "", False, "stop", 3)),
        (
            output([ContentReasoning(reasoning="der"), ContentText(text="ban")]),
            Generation("<think>der</think>ban", "der", "ban", True, "stop", 3),
        ),
        (
            output([ContentReasoning(reasoning="der")], "max_tokens"),
            Generation("<think>der", "der", "", False, "length", 3),
        ),
    ],
)
def test_outputs_become_generations(given: ModelOutput, expected: Generation) -> None:
    assert read_output(given, THINK, 12) == expected


def test_outputs_without_an_answer_are_none() -> None:
    assert read_output(output("", "model_length", 0), THINK, 12).stop == "overlong"
    assert read_output(output("", "content_filter", 0), THINK, 12).stop == "error"
    assert read_output(ModelOutput(model="m", error="blocked"), THINK, 12).error == "blocked"


def test_our_own_provider_through_its_reference(tiny_folder: Path, tmp_path: Path) -> None:
    """The whole circle: our model, asked through Inspect, on the direct path."""
    through = load(f"inspect:safewright/{tiny_folder}")
    assert through.generate(chats(9), HOW) == load(tiny_folder).generate(chats(9), HOW)
    config = {"max_new_tokens": 6}
    card = measure_model(
        "utility", f"inspect:safewright/{tiny_folder}", data=tiny.rows(5), config=config, run=tmp_path / "a"
    )
    direct = measure_model("utility", tiny_folder, data=tiny.rows(5), config=config, run=tmp_path / "b")
    assert card.readings == direct.readings
    assert card.conventions["models"]["target"]["engine"] == "inspect"
