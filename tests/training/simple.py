"""A simple objective, a simple rule and small data for tests of the loop; run as a program, one training.

As a program: ``python -m tests.training.simple JOB.json`` trains as the JSON says and writes history, world size
and a digest of the weights to the file it names (main process only).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
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


def main(file: str) -> None:
    import torch

    job = json.loads(Path(file).read_text())
    model, history, objective, rule = train(job)
    import torch.distributed as group

    told = {
        "world": group.get_world_size() if group.is_initialized() else 1,
        "losses": history.losses,
        "digest": digest(model),
        "steps": objective.steps,
    }
    if int(os.environ.get("RANK", "0")) == 0:
        out = Path(job["out"])
        torch.save({"model": model.state_dict(), "seen": rule.seen if rule else []}, out.with_suffix(".pt"))
        out.with_suffix(".part").write_text(json.dumps(told))
        out.with_suffix(".part").rename(out)
    sys.stdout.flush()


def in_process(job: dict[str, Any], file: Path, count: int = 1, *, killed: bool = False) -> dict[str, Any]:
    """What a training in processes of its own wrote; ends only what it started.

    About one in six runs over gloo does not end by itself: the written result counts, not the exit.
    """
    import time

    out = file.with_suffix(".out")
    out.unlink(missing_ok=True)
    file.write_text(json.dumps({**job, "out": str(out)}))
    command = [sys.executable, "-m", "tests.training.simple", str(file)]
    if count > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    log = file.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            end = time.monotonic() + 100
            while process.poll() is None and not out.exists() and time.monotonic() < end:
                time.sleep(0.05)
            if out.exists():
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            if process.poll() is None:
                import psutil

                own = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
                for pid in own:
                    os.kill(pid, signal.SIGKILL)
                process.wait()
    if killed:
        assert not out.exists()
        return {}
    assert out.exists(), log.read_text()[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["world"] == count
    return found


if __name__ == "__main__":
    main(sys.argv[1])
