"""The model provider: what it says is what the engine says, and its name is a promise."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai._util.registry import registry_lookup
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.tool import ToolInfo

from safewright.inspect_plugin import GenerationFailed, SafewrightAPI
from safewright.models import load, resolve
from safewright.models.batching import Batcher
from safewright.models.inspect_model import messages_of, read_output
from safewright.types import Decoding, Generation
from tests import tiny
from tests.models.fault_server import FaultServer, complains, said

GREEDY = Decoding(max_new_tokens=12)


def chats(count: int) -> list[Any]:
    return [row.prompt for row in tiny.rows(count)]


def opened(where: Path | str, **options: Any) -> Model:
    return get_model(f"safewright/{where}", memoize=False, **{"process": False, **options})


def ask(model: Model, prompts: list[Any], **config: Any) -> list[Any]:
    async def all_of_them() -> list[Any]:
        how = GenerateConfig(**config)
        return await asyncio.gather(*(model.generate(messages_of(chat), config=how) for chat in prompts))

    return asyncio.run(all_of_them())


def read(outputs: list[Any], limit: int = 12) -> list[Generation]:
    return [read_output(output, {"open": "<think>", "close": "</think>"}, limit) for output in outputs]


def test_equals_the_engine_token_for_token(tiny_folder: Path) -> None:
    outputs = ask(opened(tiny_folder, batch_size=5), chats(24), max_tokens=12)
    direct = load(tiny_folder, batch_size=32).generate(chats(24), GREEDY)
    assert read(outputs) == direct
    assert [output.completion for output in outputs] == [generation.answer for generation in direct]
    assert {output.stop_reason for output in outputs} == {"max_tokens"} | (
        {"stop"} if any(generation.stop == "stop" for generation in direct) else set()
    )
    loaded: Any = load(tiny_folder)
    for output, chat, generation in zip(outputs, chats(24), direct, strict=True):
        text = loaded.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        prompt = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        assert (output.usage.input_tokens, output.usage.output_tokens) == (prompt, generation.tokens)
        assert output.usage.total_tokens == prompt + generation.tokens


def test_requests_at_once_are_answered_together(tiny_folder: Path) -> None:
    loaded = load(tiny_folder, batch_size=8)
    seen: list[int] = []
    stream = loaded.stream

    def counted(chats: Any, how: Any, **more: Any) -> Any:
        seen.append(len(chats))
        return stream(chats, how, **more)

    loaded.stream = counted  # type: ignore[method-assign]

    async def many() -> list[Any]:
        batcher = Batcher(loaded, 8)
        return await asyncio.gather(*(batcher.ask(chat, GREEDY) for chat in chats(40)))

    found = asyncio.run(many())
    assert [generation for generation, _ in found] == load(tiny_folder).generate(chats(40), GREEDY)
    assert sum(seen) == 40
    assert len(seen) <= 3, "forty requests at once are a few batches, not forty"


def test_one_prompt_that_cannot_be_asked_costs_only_itself(tiny_folder: Path) -> None:
    bad = ({"role": "user", "content": "half \ud800 a character"},)

    async def many() -> list[Any]:
        batcher = Batcher(load(tiny_folder), 4)
        asked = [batcher.ask(chat, GREEDY) for chat in (*chats(3), bad)]
        return await asyncio.gather(*asked, return_exceptions=True)

    *good, failed = asyncio.run(many())
    assert [generation for generation, _ in good] == load(tiny_folder).generate(chats(3), GREEDY)
    assert "lone surrogate" in str(failed)


def test_draws_depend_on_the_seed(tiny_folder: Path) -> None:
    model = opened(tiny_folder)
    (first,) = ask(model, chats(1), max_tokens=8, temperature=1.0, seed=3)
    (again,) = ask(model, chats(1), max_tokens=8, temperature=1.0, seed=3)
    others = {ask(model, chats(1), max_tokens=8, temperature=1.0, seed=s)[0].completion for s in range(4, 9)}
    assert first.completion == again.completion
    assert len(others) > 1


def test_stop_reasons_and_overlong_prompts(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m", max_position_embeddings=24)
    long_one = ({"role": "user", "content": " ".join(tiny.WORDS[:30])},)
    (output,) = ask(opened(folder), [long_one], max_tokens=4)
    assert output.stop_reason == "model_length"
    assert "context 24" in output.error
    (said_,) = read([output])
    assert said_.stop == "overlong"
    assert said_ == load(folder).generate([long_one], Decoding(max_new_tokens=4))[0]


def test_reasoning_stands_apart_and_the_generation_comes_back(tmp_path: Path) -> None:
    template = tiny.TEMPLATE.replace(" assistant :{%", " assistant : <think>{%")
    assert template != tiny.TEMPLATE
    folder = tiny.save_tiny(tmp_path / "m", template=template, more=tiny.THINKING)
    outputs = ask(opened(folder), chats(16), max_tokens=40)
    direct = load(folder).generate(chats(16), Decoding(max_new_tokens=40))
    assert read(outputs, 40) == direct
    thinking = [pair for pair in zip(outputs, direct, strict=True) if pair[1].reasoning]
    assert thinking
    for output, generation in thinking:
        first, *rest = output.message.content
        assert isinstance(first, ContentReasoning)
        assert first.reasoning == generation.reasoning
        assert [part.text for part in rest] == ([generation.answer] if generation.answer else [])
    unclosed = [generation for generation in direct if not generation.closed]
    assert unclosed
    assert all(not generation.answer for generation in unclosed)


def test_the_digest_in_the_name_is_checked(tiny_folder: Path) -> None:
    digest = resolve(tiny_folder).digest.removeprefix("sha256:")[:12]
    assert opened(f"{tiny_folder}@{digest}").api.ref.digest == resolve(tiny_folder).digest
    with pytest.raises(PrerequisiteError) as caught:
        opened(f"{tiny_folder}@0123456789ab")
    assert digest in str(caught.value)
    assert "0123456789ab" in str(caught.value)


def test_other_weights_in_the_same_place_are_noticed(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    name = f"{folder}@{resolve(folder).digest.removeprefix('sha256:')[:12]}"
    opened(name)
    shutil.rmtree(folder)
    tiny.save_tiny(folder, seed=1)
    with pytest.raises(PrerequisiteError):
        opened(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devise": "cpu"}, "Did you mean 'device'"),
        ({"batch_size": 0}, "whole number from 1"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "no base URL"),
    ],
)
def test_unknown_options_are_errors(tiny_folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PrerequisiteError, match=words):
        opened(tiny_folder, **options)


def test_what_no_engine_can_do_is_refused(tiny_folder: Path) -> None:
    model = opened(tiny_folder)
    with pytest.raises(PrerequisiteError, match="stop_seqs"):
        ask(model, chats(1), stop_seqs=["x"])
    with pytest.raises(PrerequisiteError, match="top_p"):
        ask(model, chats(1), top_p=2.0)
    tool = ToolInfo(name="t", description="d")
    with pytest.raises(PrerequisiteError, match="no tools"):
        asyncio.run(model.generate(messages_of(chats(1)[0]), tools=[tool]))


def test_a_recipe_and_the_context_decide_the_defaults(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    (folder / "safewright_recipe.json").write_text('{"decoding": {"max_new_tokens": 5}}')
    (output,) = ask(opened(folder), chats(1))
    assert output.usage.output_tokens <= 5
    (chosen,) = ask(opened(folder), chats(1), max_tokens=9)
    assert read([chosen]) == load(folder).generate(chats(1), Decoding(max_new_tokens=9))


def test_earlier_answers_come_without_their_reasoning(tiny_folder: Path) -> None:
    earlier = ChatMessageAssistant(content=[ContentReasoning(reasoning="ban"), ContentText(text="der")])
    turns = [ChatMessageUser(content="kis"), earlier, ChatMessageUser(content="los")]
    output = asyncio.run(opened(tiny_folder).generate(turns, config=GenerateConfig(max_tokens=6)))
    chat = [
        {"role": "user", "content": "kis"},
        {"role": "assistant", "content": "der"},
        {"role": "user", "content": "los"},
    ]
    assert read([output], 6) == load(tiny_folder).generate([chat], Decoding(max_new_tokens=6))


def test_tokens_are_counted_without_a_network(tiny_folder: Path) -> None:
    assert asyncio.run(opened(tiny_folder).count_tokens("ban der kis")) == 3


def test_connections_are_enough_for_full_batches(tiny_folder: Path, server: FaultServer) -> None:
    assert opened(tiny_folder, batch_size=8).config.max_connections == 32
    config = GenerateConfig(max_connections=3)
    assert opened(tiny_folder, batch_size=8, config=config).config.max_connections == 3
    assert opened(f"{server.base}#toy", batch_size=6).config.max_connections == 6
    assert opened(f"{server.base}#toy").config.max_connections is None


def test_one_set_of_weights_for_all_roles(tiny_folder: Path) -> None:
    first, second = opened(tiny_folder).api, opened(tiny_folder, config=GenerateConfig(max_tokens=3)).api
    assert isinstance(first, SafewrightAPI)
    assert isinstance(second, SafewrightAPI)
    assert first.engine is second.engine
    assert opened(tiny_folder, dtype="float64").api.engine is not first.engine


def test_a_served_model(server: FaultServer) -> None:
    digest = resolve(f"{server.base}#toy").digest.rpartition(":")[2][:12]
    model = opened(f"{server.base}#toy@{digest}", batch_size=4)
    outputs = ask(model, chats(10), max_tokens=12)
    # A client may have its answer, and ask again, before the server counts the request as done.
    assert server.most < 4 + 4
    assert read(outputs) == load(f"{server.base}#toy").generate(chats(10), GREEDY)
    assert {output.usage.output_tokens for output in outputs} == {3}


def test_a_question_without_an_answer_raises(server: FaultServer) -> None:
    def behave(request: dict[str, Any], number: int) -> Any:
        bad = request["messages"][-1]["content"] == chats(2)[1][0]["content"]
        return complains(422, "no such thing") if bad else said("ban")

    server.behave = behave
    model = opened(f"{server.base}#toy")
    assert ask(model, chats(1), max_tokens=4)[0].completion == "ban"
    with pytest.raises(GenerationFailed, match="no such thing"):
        ask(model, chats(2), max_tokens=4)


def test_a_filtered_answer_is_marked(server: FaultServer) -> None:
    server.behave = lambda request, number: said("", finish="content_filter")
    (output,) = ask(opened(f"{server.base}#toy"), chats(1), max_tokens=4)
    assert output.stop_reason == "content_filter"
    assert read([output])[0].stop == "error"


def test_inspect_finds_the_tasks_and_the_provider() -> None:
    for name in ("utility", "harmful_rate", "over_refusal"):
        assert registry_lookup("task", f"safewright/{name}") is not None
        assert registry_lookup("scorer", f"safewright/{name}") is not None
