"""Embeddings other than the default: a model of sentence-transformers (its shape), and an endpoint, alive and not."""

from __future__ import annotations

import json
import socket
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safewright.errors import BadInput, Missing
from safewright.guard import Action, Guard
from safewright.guard.memory import open_memory
from safewright.guard.memory.vectors import Hashed, open_embedding, similarity
from tests.guard.statehelp import check, key, lesson


class Server(ThreadingHTTPServer):
    """Answers like an OpenAI-compatible server: in any order, with `mode` saying how else."""

    mode = "good"
    asked: list[list[str]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.server.asked.append(texts)
        rows = [
            {"index": n, "embedding": [float(len(text)), 1.0, float(text.count("a"))]}
            for n, text in enumerate(texts)
        ]
        body: Any = {"data": rows[::-1]}
        if self.server.mode == "garbage":
            body = {"hello": 1}
        elif self.server.mode == "nan":
            body = {"data": [{**row, "embedding": [float("nan"), 1.0, 2.0]} for row in rows]}
        elif self.server.mode == "few":
            body = {"data": []}
        text = json.dumps(body).encode()
        self.send_response(500 if self.server.mode == "error" else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server(("127.0.0.1", 0), Handler)
    opened.asked = []
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    yield opened
    opened.shutdown()
    opened.server_close()


def reference(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1#small"


def test_an_endpoint_embeds(server: Server, tmp_path: Path) -> None:
    vectors = open_embedding(reference(server)).embed(["aa", "b"])
    assert np.array_equal(vectors, np.array([[2, 1, 2], [1, 1, 0]], np.float32))
    memory = open_memory(tmp_path / "m.db", embedding=reference(server))
    server.asked.clear()
    for n in range(5):
        memory.retrieve(key("a|b"))
        memory.learn(lesson(key("a|b"), check("x"), session=str(n)))
    assert server.asked == [["a|b"]]  # one text, once
    assert memory.retrieve(key("a|b"))[0].hits == 5
    memory.close()


@pytest.mark.parametrize("mode", ["garbage", "nan", "few", "error"])
def test_an_endpoint_that_gives_no_vectors_denies(server: Server, tmp_path: Path, mode: str) -> None:
    server.mode = mode
    with Guard(memory=open_memory(tmp_path / "m.db", embedding=reference(server))) as guard:
        verdict = guard.check(Action("look_up", {"q": "x"}))
        assert (verdict.decision, verdict.failure) == ("deny", "memory_unavailable")


def test_a_dead_endpoint_denies_and_a_hung_one_too(tmp_path: Path) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        port = dead.getsockname()[1]
    memory = open_memory(tmp_path / "m.db", embedding=f"http://127.0.0.1:{port}/v1#x")
    with Guard(memory=memory) as guard:
        assert guard.check(Action("t", {})).failure == "memory_unavailable"
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        address = f"http://127.0.0.1:{hung.getsockname()[1]}/v1#x"
        with Guard(memory=open_memory(tmp_path / "h.db", embedding=address), deadline_s=0.5) as guard:
            verdict = guard.check(Action("t", {}))
            assert (verdict.decision, verdict.failure) == ("deny", "timeout")


def test_sentence_transformers_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class SentenceTransformer:
        def __init__(self, model: str, device: str) -> None:
            assert (model, device) == ("some/model", "cpu")

        def encode(self, texts: list[str]) -> Any:
            return Hashed(64).embed(texts).astype(np.float64)

    module: Any = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    memory = open_memory(tmp_path / "m.db", embedding="st:some/model")
    memory.learn(lesson(key("a|b"), check("x")))
    assert memory.retrieve(key("a|b"))[0].score == 1.0
    memory.close()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(Missing, match="sentence-transformers"):
        open_memory(tmp_path / "n.db", embedding="st:some/model")


def test_an_endpoint_names_its_model() -> None:
    with pytest.raises(BadInput, match="names no model"):
        open_embedding("http://127.0.0.1:1/v1")


def test_similarity_is_one_for_the_same_and_zero_for_nothing() -> None:
    assert similarity("remove a file", "remove a file") == pytest.approx(1.0)
    assert similarity("", "remove a file") == 0.0
    assert similarity("remove a file", "remove files") > similarity("remove a file", "send a mail")
