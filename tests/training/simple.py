"""A simple objective, a simple rule and small data for tests of the loop; trainings in processes of their own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safewright.training.encoding import Example, fed, pad_token
from safewright.training.fitting import FitOptions, History, fit, with_lora
from safewright.training.pairing import Pairs, collate_pairs
from tests import tiny


def token_sums(logits: Any, labels: Any) -> Any:
    """Log-probabilities of the supervised tokens, summed by row."""
    import torch

    chosen = labels[:, 1:]
    table = torch.log_softmax(logits[:, :-1].float(), -1)
    found = table.gather(-1, chosen.clamp(min=0)[..., None])[..., 0]
    return (found * (chosen != -100)).sum(-1)


class PushAndKeep:
    """NPO against a fixed reference on the forget rows (mean over rows), and cross-entropy on retained tokens."""

    parts = ("forget", "retain")

    def __init__(self, beta: float = 0.5, reference: float = -8.0) -> None:
        self.beta, self.reference = beta, reference
        self.steps = 0
        self.told: list[dict[str, float]] = []

    def counts(self, batch: Any) -> dict[str, float]:
        labels = batch["retain"]["labels"][:, 1:]
        return {"forget_rows": len(batch["forget"]["labels"]), "retain_tokens": int((labels != -100).sum())}

    def part(self, acc: Any, model: Any, batch: Any, part: str) -> Any:
        import torch

        data = batch[part]
        sums = token_sums(model(**fed(data)).logits, data["labels"])
        if part == "retain":
            return -sums.sum(), "retain_tokens"
        pushed = -2 / self.beta * torch.nn.functional.logsigmoid(-self.beta * (sums - self.reference))
        return pushed.sum(), "forget_rows", {"forget_nll": -sums.detach().sum()}

    def after_step(self, losses: dict[str, float]) -> None:
        self.steps += 1
        self.told.append(losses)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class KeepLoudRows:
    """Forget gradients only where their rows are largest (over all tensors), plus the retained part's.

    Masked rows of tensors are put back bit by bit after the step, so that no moment or decay moves them.
    """

    name = "loud rows"

    def __init__(self, share: float = 0.5) -> None:
        self.share = share
        self.kept: list[Any] = []
        self.before: list[Any] = []
        self.seen: list[dict[str, list[Any]]] = []

    def __call__(self, by_part: dict[str, list[Any]], params: list[Any]) -> list[Any]:
        import torch

        forget, retain = by_part["forget"], by_part["retain"]
        self.seen.append({name: [g.clone() for g in found] for name, found in by_part.items()})
        norms = [g.reshape(g.shape[0], -1).norm(dim=1) for g in forget]
        bound = torch.quantile(torch.cat(norms), self.share)
        self.kept = [norm >= bound for norm in norms]
        self.before = [p.detach().clone() for p in params]
        masks = [
            kept.reshape(-1, *[1] * (g.dim() - 1)).to(g.dtype)
            for kept, g in zip(self.kept, forget, strict=True)
        ]
        return [(f + r) * m for f, r, m in zip(forget, retain, masks, strict=True)]

    def after_step(self, params: list[Any]) -> None:
        import torch

        with torch.no_grad():
            for parameter, before, kept in zip(params, self.before, self.kept, strict=True):
                parameter[~kept] = before[~kept]


def words() -> Any:
    return tiny.tokenizer()


def examples(count: int, name: str, *, shift: int = 0) -> list[Example]:
    """Rows of different lengths: three to eleven tokens, of which two to four are learned."""
    base = len(tiny.SPECIALS) + len(tiny.ROLES)
    found = []
    for i in range(count):
        length = 4 + (i * 5 + shift) % 8
        ids = [1] + [base + (i * 7 + j * (3 + shift) + shift) % len(tiny.WORDS) for j in range(length)]
        found.append(Example(f"{name}{i}", tuple(ids), len(ids) - 2 - i % 3))
    return found


def pairs(forget: int = 12, retain: int = 20, **more: Any) -> Pairs:
    return Pairs(examples(forget, "f"), examples(retain, "r", shift=4), **more)


def model_of(folder: Path, dropout: float = 0.0) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, attention_dropout=dropout)


def digest(model: Any) -> str:
    """Of every weight's bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def train(job: dict[str, Any]) -> tuple[Any, History, Any, Any]:
    """Train as a job says: the model, its history, the objective and the rule."""
    import torch

    torch.set_num_threads(1)
    model = model_of(Path(job["model"]), job.get("dropout", 0.0))
    if job.get("lora"):
        model = with_lora(model, job["lora"], 2 * job["lora"], 0.1 if job.get("dropout") else 0.0)
    objective, rule = PushAndKeep(), KeepLoudRows() if job.get("rule") else None
    data = pairs(**job.get("pairs", {}))

    def progress(what: str, done: int, total: int) -> None:
        if done == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    history = fit(
        model,
        data,
        collate_pairs(pad_token(words()), job.get("side", "right"), width=job.get("width", 0)),
        objective,
        FitOptions(**{"batch": 4, "steps": 5, "lr": 1e-2, "optimiser": "sgd", **job.get("options", {})}),
        folder=Path(job["folder"]) if "folder" in job else None,
        seed=3,
        progress=progress,
        gradient_rule=rule,
    )
    return model, history, objective, rule


def told_of(job: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a training was like; weights and the rule's gradients go to ``file``."""
    import torch
    import torch.distributed as group

    model, history, objective, rule = train(job)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save({"model": model.state_dict(), "seen": rule.seen if rule else []}, file)
    return {
        "world": group.get_world_size() if group.is_initialized() else 1,
        "losses": history.losses,
        "digest": digest(model),
        "steps": objective.steps,
    }


Told = Callable[[dict[str, Any], Path], dict[str, Any]]
"""What a job was like, where something is to be written to a file."""


def _together(jobs: dict[str, dict[str, Any]], file: Path, rank: int, port: int, tell: Told) -> None:
    os.environ.update(
        OMP_NUM_THREADS="1",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    told = {name: tell(job, file.with_suffix(f".{name}.pt")) for name, job in jobs.items()}
    if rank == 0:
        file.with_suffix(".part").write_text(json.dumps(told))
        file.with_suffix(".part").rename(file)


def two_processes(jobs: dict[str, dict[str, Any]], file: Path, tell: Told = told_of) -> dict[str, Any] | None:
    """What trainings on two processes were like, by name; None where they were killed. Ends only what it started.

    They are forked from one that has imported all: ``--launch`` has tests of its own. About one in six runs over
    gloo does not end by itself: the written result counts, not the exit.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = [_context().Process(target=_together, args=(jobs, file, rank, port, tell)) for rank in range(2)]
    for process in started:
        process.start()
    end = time.monotonic() + 100
    while not file.exists() and all(each.exitcode is None for each in started) and time.monotonic() < end:
        time.sleep(0.02)
    for process in started:
        process.join(3 if file.exists() else 0.5)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    if not file.exists():
        assert codes[0] == -signal.SIGKILL, codes
        return None
    read: dict[str, Any] = json.loads(file.read_text())
    assert all(each["world"] == 2 for each in read.values())
    return read


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers", "transformers.trainer", "peft", "trl.trainer.sft_trainer"]
    )
    return context


def _alone(job: dict[str, Any], file: Path, told: Any, tell: Told) -> None:
    told.put(tell(job, file))


def in_process(job: dict[str, Any], file: Path, tell: Told = told_of) -> dict[str, Any] | None:
    """What a training in a process of its own was like; None where it was killed."""
    context = _context()
    told = context.SimpleQueue()
    process = context.Process(target=_alone, args=(job, file, told, tell))
    process.start()
    process.join(100)
    if process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0
    found: dict[str, Any] = told.get()
    return found
