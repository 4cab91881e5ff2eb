"""Every architecture: folders of random weights in several shards, edited on disk as in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.models.blocks import Matrix, blocks_of, decoder_blocks, skeleton
from safewright.models.checkpoint import Checkpoint, read_file
from safewright.treatments import treat
from safewright.treatments.safe_delta import edit_model
from safewright.treatments.safe_delta.core import edit_matrix
from safewright.treatments.safe_delta.gathering import Moments, Watch, pooled
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.treatments.safe_delta.verifying import inspect
from tests import tiny
from tests.treatments import folders

BODY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
MIXTRAL = {**BODY, "num_local_experts": 3, "num_experts_per_tok": 2}
QWEN3_MOE = {**BODY, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
QWEN_MOE = {
    **BODY,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "num_hidden_layers": 3,
    # A layer of each kind: the second one has no experts.
    "mlp_only_layers": [1],
}
# The shape, and how many matrices are edited and exempt.
KINDS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "llama": (BODY, (14, 0)),
    "mistral": ({**BODY, "sliding_window": 4}, (14, 0)),
    "qwen2": (BODY, (14, 0)),
    "qwen3": (BODY, (14, 0)),
    "gemma2": ({**BODY, "sliding_window": 4}, (14, 0)),
    "gemma3_text": (
        {**BODY, "sliding_window": 4, "num_hidden_layers": 3, "sliding_window_pattern": 2},
        (21, 0),
    ),
    "phi3": (BODY, (8, 0)),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.3}, (8, 0)),
    "mixtral": (MIXTRAL, (8 + 2 * 3 * 3, 2)),
    "qwen2_moe": (QWEN_MOE, (4 * 3 + 2 * 3 + 3 + 2 * 3 * 4, 4)),
    "qwen3_moe": (QWEN3_MOE, (8 + 2 * 3 * 3, 2)),
}
CLOSE = 2e-6
"""How far apart two ways to one float32 weight of order 1 may be."""


@dataclass(frozen=True)
class Made:
    """A model of an architecture and its fine-tune, prepared and repaired."""

    kind: str
    aligned: Path
    tuned: Path
    prep: Path
    out: Path

    @property
    def models(self) -> dict[str, Path]:
        return {"aligned": self.aligned, "tuned": self.tuned}

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "provenance.json").read_text())["report"]
        return found


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    kind = request.param
    home = tmp_path_factory.mktemp(kind)
    aligned = tiny.save_kind(kind, home / "aligned", shard="12KB", **KINDS[kind][0])
    assert len(list(aligned.glob("*.safetensors"))) >= 2
    tuned = folders.tuned(aligned, home / "tuned")
    prep = folders.prepared(aligned, folders.rows_file(home / "rows.jsonl", 30), home / "prep")
    found = Made(kind, aligned, tuned, prep, home / "out")
    treat("safe_delta", found.models, config={"prep": str(prep)}, out=found.out)
    return found


every = pytest.mark.parametrize("made", KINDS, indirect=True, ids=list(KINDS))
mixtures = pytest.mark.parametrize("made", ["mixtral", "qwen2_moe"], indirect=True)


def value_of(model: Any, matrix: Matrix) -> torch.Tensor:
    """A matrix in a loaded model, (out, in)."""
    if matrix.part is not None:
        return matrix.part.of(model.get_parameter(matrix.part.parameter).detach())
    weight: torch.Tensor = model.get_parameter(f"{matrix.module}.weight").detach()
    return weight.T if matrix.transposed else weight


@every
def test_01_the_folder_equals_the_edit_of_every_matrix_in_memory(made: Made) -> None:
    aligned, tuned, new = (folders.load(folder) for folder in (made.aligned, made.tuned, made.out))
    held = Prepared(made.prep)
    matrices = blocks_of(skeleton(made.aligned), Checkpoint(made.aligned).stored).matrices
    assert len(made.report()["layers"]) == len(matrices) == KINDS[made.kind][1][0]
    parameters = dict(tuned.named_parameters())
    for matrix in matrices:
        group = held.group(matrix.module)
        H = read_file(made.prep / group.file, ["H"])["H"]
        before, after = (value_of(model, matrix).contiguous() for model in (aligned, tuned))
        wanted, _ = edit_matrix(before, after, H, mode="soft")
        got = value_of(new, matrix)
        assert float((got - wanted).abs().max()) <= CLOSE, matrix.module
        assert not torch.equal(got, after), matrix.module
        value_of(tuned, matrix).copy_(got)
    # Nothing besides has changed.
    for name, parameter in new.named_parameters():
        assert torch.equal(parameter, parameters[name]), name


@every
def test_01_the_folder_equals_edit_model(made: Made) -> None:
    model = folders.load(made.tuned)
    report = edit_model(model, made.aligned, made.prep)
    wanted = folders.load(made.out).state_dict()
    differ = [name for name, value in model.state_dict().items() if not torch.equal(value, wanted[name])]
    assert differ == []
    told = made.report()
    assert {k: v for k, v in told["matrices"].items() if k != "tensors"} == report["matrices"]
    assert report["loss"] == pytest.approx(told["loss"], rel=1e-9)
    assert report["moved_elsewhere_norm"] == pytest.approx(told["moved_elsewhere_norm"], rel=1e-6)


@every
def test_01_counts_add_up_and_the_result_generates(made: Made) -> None:
    told = made.report()
    kinds, (edited, exempt) = told["matrices"], KINDS[made.kind][1]
    new, tuned = folders.weights(made.out), folders.weights(made.tuned)
    inside = [
        n for n, t in new.items() if t.ndim >= 2 and (".layers." in n or n.startswith("transformer.h."))
    ]
    assert (kinds["edited"], kinds["exempt"], kinds["refused"]) == (edited, exempt, 0)
    assert kinds["in blocks"] == len(inside) == edited + exempt
    assert sorted(new) == sorted(tuned)
    assert len([name for name in inside if not torch.equal(new[name], tuned[name])]) == edited
    assert told["loss"] < told["loss_full"]
    model = folders.load(made.out)
    with torch.inference_mode():
        said = model.generate(torch.tensor([[5, 9, 12]]), max_new_tokens=4, do_sample=False)
        logits = model(said).logits
    assert said.shape[1] > 3
    assert bool(torch.isfinite(logits).all())


@mixtures
@pytest.mark.parametrize("modules", ["q_proj", "gate_proj,down_proj"])
def test_what_is_left_out_of_a_mixture_gets_its_aligned_values(
    made: Made, tmp_path: Path, modules: str
) -> None:
    config = {"prep": str(made.prep), "modules": modules, "nonlinear": "aligned"}
    treat("safe_delta", made.models, config=config, out=tmp_path / "out")
    model = folders.load(made.tuned)
    report = edit_model(model, made.aligned, made.prep, config)
    wanted, aligned = (folders.load(f).state_dict() for f in (tmp_path / "out", made.aligned))
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
        if ".gate." in name or "norm" in name:
            assert torch.equal(value, aligned[name]), name
    ends = tuple(modules.split(","))
    assert report["layers"]
    assert all(row["module"].endswith(ends) for row in report["layers"])
    assert report["matrices"]["exempt"] + report["matrices"]["edited"] == report["matrices"]["in blocks"]


@mixtures
def test_an_adapter_on_a_mixture_is_repaired_in_memory_as_in_its_folder(made: Made, tmp_path: Path) -> None:
    names = ["q_proj", "o_proj", "shared_expert_gate"] if made.kind == "qwen2_moe" else ["q_proj", "o_proj"]
    adapter = folders.adapter(made.aligned, tmp_path / "adapter", target_modules=names)
    models = {"aligned": made.aligned, "tuned": adapter}
    treat("safe_delta", models, config={"prep": str(made.prep)}, out=tmp_path / "out")
    model = peft.PeftModel.from_pretrained(folders.load(made.aligned), adapter)
    report = edit_model(model, made.aligned, made.prep)
    loaded = peft.PeftModel.from_pretrained(folders.load(made.aligned), tmp_path / "out").state_dict()
    for name, value in model.state_dict().items():
        assert float((value - loaded[name]).abs().max()) <= CLOSE, name
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]
    assert (
        report["matrices"]["edited"] == len(report["layers"]) == 2 * KINDS[made.kind][0]["num_hidden_layers"]
    )
    assert {k: v for k, v in told["matrices"].items() if k != "tensors"} == report["matrices"]


def seen(model: Any, folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """``sum x x^T`` of every map of every expert, token by token from the folder's own tensors, in float64."""
    tensors = folders.weights(folder)
    found: dict[str, torch.Tensor] = {}
    names = {matrix.module: matrix.tensor for matrix in blocks_of(model, Checkpoint(folder).stored).matrices}

    def hook(name: str) -> Any:
        def after(module: Any, inputs: Any, _: Any) -> None:
            hidden, index = inputs[0], inputs[1]
            for place in mask.reshape(-1).nonzero().flatten().tolist():
                x = hidden[place].double()
                for expert in index[place].tolist():
                    stem = f"{name}.{expert}"
                    gate, up = (
                        tensors[names[f"{stem}.{end}"]].double() @ x for end in ("gate_proj", "up_proj")
                    )
                    inner = torch.nn.functional.silu(gate) * up
                    for end, read in (("gate_proj", x), ("up_proj", x), ("down_proj", inner)):
                        key = f"{stem}.{end}"
                        found[key] = found.get(key, 0.0) + torch.outer(read, read)

        return after

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if name.endswith(".experts")
    ]
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask.long())
    for handle in handles:
        handle.remove()
    return found


def watched(model: Any, folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> dict[int, Watch]:
    """The watches of all blocks after one forward pass."""
    home, blocks = decoder_blocks(model)
    matrices = blocks_of(model, Checkpoint(folder).stored).matrices
    found = {}
    for layer, block in enumerate(blocks):
        modules = [matrix.module for matrix in matrices if matrix.layer == layer]
        found[layer] = Watch(block, f"{home}.{layer}", layer, modules)
        found[layer].mask = mask.reshape(-1)
        found[layer].__enter__()
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask.long())
    for watch in found.values():
        watch.__exit__(None, None, None)
    return found


@pytest.fixture(scope="module", params=["mixtral", "qwen2_moe", "qwen3_moe"])
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp(f"bare-{request.param}")
    return tiny.save_kind(request.param, home / "model", **KINDS[request.param][0])


def test_an_experts_moments_are_those_of_the_tokens_routed_to_it(mixture: Path) -> None:
    model = folders.load(mixture).eval()
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(8, 40, (3, 7), generator=draw)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:], mask[2, :2] = False, False
    wanted = seen(model, mixture, ids, mask)
    watches = watched(model, mixture, ids, mask)
    moments = {name: m for watch in watches.values() for name, m in watch.moments.items() if m.pool}
    modules = {module: m for m in moments.values() for module in m.modules}
    assert wanted.keys() <= modules.keys()
    ends = {name: [module.rpartition(".")[2] for module in m.modules] for name, m in moments.items()}
    assert all(end == ["gate_proj", "up_proj"] or end == ["down_proj"] for end in ends.values())
    count = int(mask.sum())
    for name, H in wanted.items():
        total = modules[name].total
        assert total is not None
        assert float((total - H).abs().max()) <= 1e-5 * float(H.abs().max()), name
    for watch in watches.values():
        for pool, sums in watch.pools.items():
            owned = [m for m in watch.moments.values() if m.pool == pool]
            routed = sum(m.tokens for m in owned)
            assert routed == 2 * count, "each token goes to two experts"
            assert sums.tokens == (count if pool.endswith(".gate_up_proj") else routed)
            if pool.endswith(".down_proj"):
                total = sum(m.total for m in owned if m.total is not None)
                assert sums.total is not None
                assert torch.allclose(sums.total, total, rtol=1e-9)


def test_a_mixture_without_weights_shows_its_inputs_and_their_widths(mixture: Path) -> None:
    model = skeleton(mixture)
    matrices = [m for m in blocks_of(model, Checkpoint(mixture).stored).matrices if m.layer == 0]
    block = model.model.layers[0]
    empty = {"position_embeddings": (torch.zeros(1, 2, 8, device="meta"),) * 2, "attention_mask": None}
    with Watch(block, "model.layers.0", 0, [m.module for m in matrices]) as watch:
        block(torch.zeros(1, 2, 16, device="meta"), **empty)
    assert "forward" not in vars(block.mlp.experts)
    shapes = {m.module: Checkpoint(mixture).stored[m.tensor].shape for m in matrices}
    assert {module for m in watch.moments.values() for module in m.modules} == set(shapes)
    for sums in watch.moments.values():
        assert {shapes[module][1] for module in sums.modules} == {sums.width}
        assert sums.tokens == 0


def test_experts_that_are_not_there_are_refused(mixture: Path) -> None:
    block = folders.load(mixture).model.layers[0]
    for wrong in ("mlp.experts.9.gate_proj", "mlp.experts.x.gate_proj", "mlp.exports.0.gate_proj"):
        with pytest.raises(BadInput, match=r"model\.layers\.0 has no linear map .*proj"):
            Watch(block, "model.layers.0", 0, [f"model.layers.0.{wrong}"]).__enter__()


def test_numbers_that_are_not_show_at_the_expert_they_come_from(mixture: Path) -> None:
    model = folders.load(mixture).eval()
    with torch.no_grad():
        model.model.layers[0].mlp.experts.gate_up_proj.fill_(1e25)
    ids = torch.randint(8, 40, (1, 4), generator=torch.Generator().manual_seed(3))
    with pytest.raises(NumericalFailure, match=r"inputs of model\.layers\.0\.mlp\.experts\.\d\.down_proj"):
        watched(model, mixture, ids, torch.ones(1, 4, dtype=torch.bool))


def test_a_pool_stands_in_for_an_expert_of_few_tokens() -> None:
    pools = {"all": Moments([], 0, 16, torch.eye(16), 50)}
    few, enough = (Moments(["m"], 0, 16, torch.eye(16), tokens, "all") for tokens in (3, 4))
    assert pooled(few, pools) == (pools["all"], True)
    assert pooled(enough, pools) == (enough, False)
    alone = Moments(["m"], 0, 16, torch.eye(16), 1)
    assert pooled(alone, pools) == (alone, False)


def test_experts_of_few_tokens_are_told_and_have_what_their_layer_sees(tmp_path: Path) -> None:
    shape = {**MIXTRAL, "num_local_experts": 8, "hidden_size": 32}
    aligned = tiny.save_kind("mixtral", tmp_path / "aligned", **shape)
    rows = folders.rows_file(tmp_path / "rows.jsonl", 5)
    held = Prepared(folders.prepared(aligned, rows, tmp_path / "prep"))
    experts = [group for group in held.groups if ".experts." in group.name]
    borrowed = [group for group in experts if group.pooled]
    assert 0 < len(borrowed) < len(experts)
    assert not any(group.pooled for group in held.groups if group not in experts)
    own = {group.name: held.read(group, "H")["H"] for group in experts}
    for layer in (0, 1):
        for last in ("gate_proj", "down_proj"):
            pooled_here = [g for g in borrowed if g.layer == layer and g.name.endswith(last)]
            values = [own[group.name] for group in pooled_here]
            assert all(torch.equal(value, values[0]) for value in values)
            if values:
                # No expert sees more than all of them together.
                others = [own[g.name] for g in experts if g.layer == layer and g.name.endswith(last)]
                assert all(float(other.trace()) <= float(values[0].trace()) * (1 + 1e-6) for other in others)
    assert any(f"{len(borrowed)} of {len(held.groups)}" in note for note in held.facts["counts"]["notes"])
    told = [group for group in inspect(held.folder)["groups"] if "experts" in group["input of"][0]]
    assert sum(group["pooled"] for group in told) == len(borrowed)
    assert {"experts.7.gate_proj", "experts.7.up_proj"} in [set(group["input of"]) for group in told]
    models = {"aligned": aligned, "tuned": folders.tuned(aligned, tmp_path / "tuned")}
    treat("safe_delta", models, config={"prep": str(held.folder)}, out=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]
    assert any("experts" in note for note in report["notes"])
    marked = {row["module"] for row in report["layers"] if row.get("pooled")}
    assert marked == {module for group in borrowed for module in group.modules}
