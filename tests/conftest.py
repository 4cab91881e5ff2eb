"""What every test shares: no network beyond this machine, and one small lab model."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import pytest

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_stays() -> None:
    """Closing a model collects garbage; going through all that torch and transformers made took half a second each."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to anything but this machine fail at once, so a test cannot depend on the network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:  # type: ignore[index]
            raise OSError(f"tests have no network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_pretrained`: a random Llama of 3 layers that writes ordinary words."""
    from tests.tiny import save_tiny

    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny(folder)
    return folder
