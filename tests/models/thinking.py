"""A tiny model that reasons before it answers, learnt by heart in a second; and `safewright serve` in a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny

SAID: Mapping[str, str] = {
    "ban der": "<think> kin lop muv </think> ras sen tip",
    "kin lop": "<think> muv ras </think> bas",
    "muv ras": "<think> sen tip sen tip sen tip sen tip sen tip sen tip",  # never closed
    "sen tip": "ban der kin",
    "tip sen": "<think> kin </think>",
}
"""Questions and what the model writes: reasoning and an answer, a block without end, no block, no answer."""
HIDDEN = "kin lop muv"


def save_thinking(folder: Path, *, template: str = tiny.TEMPLATE) -> Path:
    """A Llama that has learnt `SAID`; the reasoning markers are tokens of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny.save_tiny(folder, template=template, more=tiny.THINKING)
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    lines = []
    for asked, said in SAID.items():
        chat = [{"role": "user", "content": asked}]
        prompt = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        end = "" if "</think>" not in said and "<think>" in said else " </s>"
        said = said.removeprefix("<think>") if prompt.rstrip().endswith("<think>") else said
        lines.append(words(f"{prompt} {said}{end}", add_special_tokens=False)["input_ids"])
    width = max(map(len, lines))
    ids = torch.tensor([line + [words.pad_token_id] * (width - len(line)) for line in lines])
    labels = ids.masked_fill(ids == words.pad_token_id, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(90):
        model(input_ids=ids, attention_mask=(ids != words.pad_token_id).long(), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder


@dataclass
class Served:
    """A server process: its address, its log and what it said on stderr so far."""

    process: subprocess.Popen[bytes]
    base: str
    log: Path
    stderr: Path


@contextmanager
def serving(
    home: Path, *arguments: str, name: str = "serve", env: Mapping[str, str] = {}
) -> Iterator[Served]:
    """`safewright serve` on a free port, ended by Ctrl-C."""
    log, told = home / f"{name}.jsonl", home / f"{name}.stderr"
    command = [sys.executable, "-m", "safewright", "serve", *arguments, "--port", "0", "--log", str(log)]
    with open(told, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | dict(env))
    try:
        yield Served(process, address(process, told), log, told)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, told.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def address(process: subprocess.Popen[bytes], told: Path) -> str:
    """The address a starting server says that it has, once it answers there."""
    import httpx

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"serving \S+ at (http://\S+)", told.read_text())
        if found:
            try:
                if httpx.get(f"{found[1]}/models", timeout=2, trust_env=False).status_code in (200, 401):
                    return found[1]
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{told.read_text()[-3000:]}")
