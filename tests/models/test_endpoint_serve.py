"""The endpoint engine against a real `transformers serve` on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from safewright.errors import BadInput
from safewright.models import load
from safewright.models.endpoint import Endpoint, endpoint_ref
from safewright.types import Chat, Decoding
from tests.tiny import rows, save_tiny

UP_WITHIN = 120.0
GREEDY = Decoding(max_new_tokens=12)


@dataclass
class Served:
    """A model folder, and the base address of the server that was started with it."""

    folder: Path
    base: str

    @property
    def ref(self) -> str:
        return f"{self.base}#{self.folder}"


def chats() -> list[Chat]:
    return [row.prompt for row in rows(12)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` with a tiny random Llama, up for this module and stopped after it."""
    home = tmp_path_factory.mktemp("serve")
    folder = save_tiny(home / "model", seed=3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += [str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    settings = {
        "HF_HOME": str(home / "hub"),  # empty: the server cannot list models
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    log = home / "serve.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield Served(folder, f"http://127.0.0.1:{port}/v1")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def test_a_served_model_says_what_its_folder_says(served: Served) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(served.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(served.folder).eval()
    expected = []
    for chat in chats():
        ids = tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**ids, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
        expected.append(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    found = load(served.ref, batch_size=4).generate(chats(), GREEDY)
    assert [answer.raw for answer in found] == expected
    assert len(set(expected)) > 6


def test_both_engines_agree_on_answer_stop_and_count(served: Served) -> None:
    there = load(served.ref, batch_size=4).generate(chats(), GREEDY)
    here = load(served.folder, device="cpu", dtype="float32").generate(chats(), GREEDY)
    assert [answer.answer for answer in there] == [answer.answer for answer in here]
    assert [answer.tokens for answer in there] == [answer.tokens for answer in here]
    # At the limit this server says length whatever the last token is.
    full = GREEDY.max_new_tokens
    assert [a.stop for a in there] == ["length" if a.tokens == full else a.stop for a in here]


def test_the_reference_is_declared_and_steady(served: Served) -> None:
    ref = endpoint_ref(served.ref)
    assert (ref.kind, ref.where) == ("served", served.ref)
    assert ref.digest.startswith("declared:sha256:")
    assert endpoint_ref(served.ref) == ref


def test_without_a_hub_cache_the_server_cannot_list_and_the_name_is_asked_for(served: Served) -> None:
    with pytest.raises(BadInput, match=r"HTTP 500.*#MODEL-NAME"):
        endpoint_ref(served.base)


def test_another_name_than_the_started_one_is_refused(served: Served) -> None:
    model = Endpoint(endpoint_ref(f"{served.base}#other"), concurrency=2)
    with pytest.raises(BadInput, match=r"HTTP 400.*pinned to"):
        model.generate(chats(), GREEDY)


def test_a_stream_closed_early_leaves_the_server_well(served: Served) -> None:
    model = load(served.ref, batch_size=2)
    stream = model.stream(chats(), GREEDY)
    first = dict(next(stream))
    stream.close()  # type: ignore[attr-defined]
    again = model.generate(chats(), GREEDY)
    assert all(again[index] == answer for index, answer in first.items())
