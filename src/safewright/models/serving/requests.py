"""What a client asks: an OpenAI chat request, read strictly; nothing that would change an answer is ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.models.chat import start
from safewright.models.recipes import check_decoding
from safewright.types import Message

DECODING: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
}
"""Fields of a request that say how the answer is drawn, and what they are called here."""

UNUSED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
    }
)
"""Fields that are no matter of the answer."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "stop": ([], ""),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields that change the answer, or would give the reasoning away, and are taken only with these values."""

_WHY = {
    "logprobs": "They would list the tokens of the reasoning.",
    "top_logprobs": "They would list the tokens of the reasoning.",
    "stop": "It would be looked for in the reasoning too.",
}
_CONTINUE = ("continue_final_message", "add_generation_prompt")
_KNOWN = frozenset(
    {"model", "messages", "stream", "stream_options", *DECODING, *UNUSED, *NEUTRAL, *_CONTINUE}
)
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Refused(Exception):  # noqa: N818 - it is a reply, not a fault
    """A request that gets no answer: the HTTP status and what the client is told."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)

    def plain(self) -> dict[str, Any]:
        """The body of the reply, as OpenAI clients read it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request: ``chosen`` holds what the client itself says about decoding, by the names of `Decoding`."""

    model: str
    chat: tuple[Message, ...]
    chosen: Mapping[str, Any]
    stream: bool = False
    counts: bool = False
    """Whether a stream is to end with the tokens it took."""


def read_request(payload: Any, names: Collection[str], *, most_tokens: int, openings: bool = False) -> Asked:
    """A chat request.

    Args:
        payload: The JSON body.
        names: Models that are served.
        most_tokens: The most that may be asked for.
        openings: Whether a client may begin the model's turn.

    Raises:
        Refused: It is no such request, or asks for what is not done here.
    """
    if not isinstance(payload, dict):
        raise Refused(400, f"The body is a {type(payload).__name__}, not a JSON object.")
    for field in payload:
        if field not in _KNOWN:
            raise Refused(
                400, f"Unknown field {field!r:.80}. {nearest(str(field), _KNOWN)}", param=str(field)[:80]
            )
    for field, taken in NEUTRAL.items():
        value = payload.get(field)
        if value is not None and not any(
            value == one and isinstance(value, bool) is isinstance(one, bool) for one in taken
        ):
            why = f" {_WHY[field]}" if field in _WHY else ""
            raise Refused(400, f"{field} is not supported here.{why} Leave it out.", param=field)
    model = payload.get("model")
    if not isinstance(model, str) or model not in names:
        listed = ", ".join(sorted(names))
        raise Refused(
            404, f"There is no model {model!r:.80} here, but {listed}.", param="model", code="model_not_found"
        )
    chat = _chat(payload.get("messages"))
    if _flag(payload, "continue_final_message"):
        chat = _begun(chat, payload, openings)
    elif chat[-1]["role"] == "system":
        raise Refused(400, "The last message is the system's: there is no question.", param="messages")
    options = payload.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refused(400, "stream_options is no object.", param="stream_options")
    return Asked(
        model,
        chat,
        _chosen(payload, most_tokens),
        _flag(payload, "stream"),
        options.get("include_usage") is True,
    )


def _flag(payload: Mapping[str, Any], field: str) -> bool:
    value = payload.get(field)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{field} is {value!r:.80}. It must be true or false.", param=field)
    return bool(value)


def _chosen(payload: Mapping[str, Any], most_tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, name in DECODING.items():
        value = payload.get(field)
        if value is None:
            continue
        try:
            chosen = check_decoding({name: value})
        except BadInput as error:
            raise Refused(400, f"{field} is {value!r:.80}. {error.fix}", param=field) from error
        if found.get(name, chosen[name]) != chosen[name]:
            raise Refused(400, "max_tokens and max_completion_tokens differ. Give one.", param=field)
        if name == "max_new_tokens" and value > most_tokens:
            raise Refused(
                400, f"{field} is {value}; this server writes {most_tokens} tokens at most.", param=field
            )
        found |= chosen
    return found


def _chat(messages: Any) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages must be a list with at least one message.", param="messages")
    chat: list[Message] = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where} is no object with role and content.", param="messages")
        role = message.get("role")
        if role not in ROLES:
            raise Refused(
                400, f"{where} has the role {role!r:.40}. Use {', '.join(ROLES)}.", param="messages"
            )
        chat.append({"role": ROLES[role], "content": _content(message.get("content"), where)})
    return tuple(chat)


def _content(content: Any, where: str) -> str:
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise Refused(400, f"The content of {where} is {content!r:.80}, not text.", param="messages")
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            raise Refused(400, f"The content of {where} has a part that is not text.", param="messages")
        texts.append(text)
    joined = "\n".join(texts)
    try:
        joined.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(400, f"The content of {where} holds half a character.", param="messages") from error
    return joined


def _begun(chat: tuple[Message, ...], payload: Mapping[str, Any], openings: bool) -> tuple[Message, ...]:
    """A conversation whose last message is the beginning of the answer."""
    field = "continue_final_message"
    if not openings:
        raise Refused(
            400,
            "The model's turn may not be begun by a client of this server: it steers past what the model "
            "decides. (The operator allows it with --allow-openings.)",
            param=field,
        )
    if len(chat) < 2 or chat[-1]["role"] != "assistant":
        raise Refused(400, f"{field} needs a last message of the assistant, after a question.", param=field)
    if payload.get("add_generation_prompt"):
        raise Refused(400, f"{field} and add_generation_prompt exclude each other.", param=field)
    return start(chat[:-1], chat[-1]["content"])
