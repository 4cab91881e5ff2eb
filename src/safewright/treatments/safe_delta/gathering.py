"""H of the inputs of one decoder block, summed while the block runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure

if TYPE_CHECKING:
    import torch

SLICE = 1024
"""Tokens converted to the sum's precision at once: no wide copy of a whole batch is ever made."""


@dataclass
class Moments:
    """``2/N sum x x^T`` of one layer input while it is summed; N counts sequences, as the release does.

    ``pool`` names the moments that stand in where too few tokens came (experts); see `pooled`.
    """

    modules: list[str]
    layer: int
    width: int
    total: torch.Tensor | None = None
    tokens: int = 0
    pool: str | None = None

    def add(self, x: torch.Tensor) -> None:
        """Add tokens (n, in): in float64 on the CPU, float32 elsewhere; on ``meta`` nothing is summed."""
        import torch

        if x.device.type == "meta":
            return
        wide = torch.float64 if x.device.type == "cpu" else torch.float32
        if self.total is None:
            # Blocks run in inference mode, and what is made there cannot be changed elsewhere.
            with torch.inference_mode(False):
                self.total = torch.zeros(self.width, self.width, dtype=wide, device=x.device)
        for start in range(0, x.shape[0], SLICE):
            some = x[start : start + SLICE].to(wide)
            self.total.addmm_(some.T, some)
        self.tokens += x.shape[0]

    def release(self, sequences: int) -> torch.Tensor:
        """H after so many sequences, which is let go of here.

        Raises:
            BadInput: No token came.
        """
        total, self.total = self.total, None
        if total is None or not sequences:
            raise BadInput("No calibration token reached a layer.", fix="Give more calibration rows.")
        return total.mul_(2.0 / sequences)


class Watch:
    """Sums H of the inputs of one block's linear maps while the block runs, as a context manager.

    Set ``mask`` before every forward; ``moments`` has H by leader, the first of the maps that read one input.
    A block on ``meta`` shows which inputs there are and how wide, without a sum.

    Args:
        block: The decoder block.
        prefix: Its name in the model, such as ``model.layers.3``.
        layer: Its place.
        modules: Full names of the maps to watch: linear maps of the block, or maps of single experts.

    Raises:
        NumericalFailure: An activation is not finite; layer and count are named.
    """

    def __init__(self, block: Any, prefix: str, layer: int, modules: Sequence[str]) -> None:
        self.block, self.prefix, self.layer = block, prefix, layer
        self.modules = tuple(modules)
        self.mask: torch.Tensor | None = None
        """Which tokens count, flattened as the hidden states are: (batch * tokens,)."""
        self.moments: dict[str, Moments] = {}
        self.pools: dict[str, Moments] = {}
        """Sums over all tokens of a layer's experts, by the name `Moments.pool` has."""
        self._leader: dict[str, str] = {}
        self._seen: dict[int, tuple[Any, str]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        wanted = frozenset(self.modules)
        # PEFT keeps the matrix it adapts inside, under this name.
        inside = {
            f"{self.prefix}.{name}".removesuffix(".base_layer"): module
            for name, module in self.block.named_modules()
            if name
        }
        # In the model's order, which the leaders and files follow.
        for name in self.modules:
            if name in inside:
                self._handles.append(inside[name].register_forward_pre_hook(self._linear_hook(name)))
        self._handles.extend(self._expert_hooks(wanted - inside.keys()))
        self._handles.extend(_Shown(module) for module in self.block.modules() if _without_weights(module))
        # A tensor held keeps its identity from being given to another one, until the block is through.
        self._handles.append(self.block.register_forward_hook(lambda *_: self._seen.clear()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def _linear_hook(self, name: str) -> Any:
        def before(module: Any, inputs: Any) -> None:
            x = inputs[0]
            if name not in self._leader:
                _, first = self._seen.setdefault(id(x), (x, name))
                self._leader[name] = first
                if first == name:
                    self.moments[name] = Moments([name], self.layer, x.shape[-1])
                else:
                    self.moments[first].modules.append(name)
            if self._leader[name] == name:
                self.moments[name].add(self.counted(x, name))

        return before

    def _expert_hooks(self, modules: frozenset[str]) -> Iterator[Any]:
        """Handles of hooks on the block's ``experts`` modules, for the maps of single experts among ``modules``.

        What they put into ``moments`` must not depend on which experts were routed to: an expert without tokens
        has its `Moments` too (other processes may have some), and so has every expert when the block is on
        ``meta``, where routing tells nothing. Pooled sums go into ``pools``; that one stands in is decided by
        `pooled`, once all processes' sums are added up.
        """
        from safewright.models.blocks import plain_experts

        owners: dict[str, dict[int, list[str]]] = {}
        for name in self.modules:
            if name in modules:
                # In a block without experts, too, a name is split: that it fits nothing shows below.
                owner, expert, _ = name.rsplit(".", 2)
                owners.setdefault(owner, {}).setdefault(int(expert) if expert.isdigit() else -1, []).append(
                    name
                )
        for owner, experts in owners.items():
            try:
                module = self.block.get_submodule(owner.removeprefix(f"{self.prefix}."))
            except AttributeError:
                module = None
            if not plain_experts(module) or not 0 <= min(experts) <= max(experts) < module.num_experts:
                raise BadInput(f"{self.prefix} has no linear map {experts[min(experts)][0]}.")
            yield module.register_forward_pre_hook(self._expert_hook(owner, experts), with_kwargs=True)

    def _expert_hook(self, owner: str, experts: Mapping[int, Sequence[str]]) -> Any:
        """Sums, expert by expert, over the tokens routed to it; how much each token counts there has no say.

        The input of an expert's down map is computed here again from those tokens.
        """
        import torch

        reads = {
            expert: [n for n in names if not n.endswith(".down_proj")] for expert, names in experts.items()
        }
        gives = {expert: [n for n in names if n.endswith(".down_proj")] for expert, names in experts.items()}
        into, out_of = f"{owner}.gate_up_proj", f"{owner}.down_proj"

        def begin(module: Any) -> None:
            # gate_up_proj is (experts, 2 inner, hidden), down_proj (experts, hidden, inner).
            for pool, of, width in (
                (into, reads, module.gate_up_proj.shape[2]),
                (out_of, gives, module.down_proj.shape[2]),
            ):
                groups = [names for names in of.values() if names]
                if not groups or pool in self.pools:
                    continue
                self.pools[pool] = Moments([], self.layer, width)
                for names in groups:
                    self.moments[names[0]] = Moments(list(names), self.layer, width, pool=pool)

        def before(module: Any, inputs: Any, named: Any) -> None:
            given = {**dict(zip(("hidden_states", "top_k_index"), inputs, strict=False)), **named}
            hidden, index = given["hidden_states"], given["top_k_index"]
            begin(module)
            if hidden.device.type == "meta":
                return
            tokens, index = self.counted(hidden, owner), self.unpadded(index)
            if into in self.pools:
                self.pools[into].add(tokens)
            for expert in experts:
                some = tokens[(index == expert).any(-1)]
                if reads[expert]:
                    self.moments[reads[expert][0]].add(some)
                if gives[expert]:
                    with torch.no_grad():
                        middle = torch.nn.functional.linear(some, module.gate_up_proj[expert])
                        inner = finite(module._apply_gate(middle), gives[expert][0])
                    self.moments[gives[expert][0]].add(inner)
                    self.pools[out_of].add(inner)

        return before

    def unpadded(self, x: torch.Tensor) -> torch.Tensor:
        """The rows (n, width) that are no padding."""
        rows = x.reshape(-1, x.shape[-1])
        if x.device.type == "meta" or self.mask is None or bool(self.mask.all()):
            return rows
        return rows[self.mask.reshape(-1)]

    def counted(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """The tokens (n, in) of an input that are no padding.

        Raises:
            NumericalFailure: One of them is not finite.
        """
        return finite(self.unpadded(x), name)


class _Shown:
    """Lets hidden states pass an experts module on ``meta``, where routing cannot be followed, until removed."""

    def __init__(self, module: Any) -> None:
        self.module = module
        module.forward = lambda hidden_states, *_, **__: hidden_states

    def remove(self) -> None:
        """Give the module its own forward back."""
        del self.module.forward


def _without_weights(module: Any) -> bool:
    """Whether a module is experts of transformers without weights."""
    down = getattr(module, "down_proj", None)
    return hasattr(module, "is_concatenated") and getattr(down, "is_meta", False)


def finite(tokens: torch.Tensor, name: str) -> torch.Tensor:
    """Inputs of a map, once they are found to be numbers.

    Raises:
        NumericalFailure: One of them is not finite.
    """
    import torch

    if tokens.device.type != "meta" and not bool(torch.isfinite(tokens.sum())):
        bad = int((~torch.isfinite(tokens)).sum())
        if bad:
            raise NumericalFailure(
                f"{bad} inputs of {name} are not finite.",
                why="H would be, and with it every edited weight.",
                fix="Prepare in another dtype (bfloat16 or float32), or repair the aligned model.",
            )
    return tokens


def pooled(moments: Moments, pools: dict[str, Moments]) -> tuple[Moments, bool]:
    """The moments to use for a group, and whether they are those of its pool.

    The pool stands in where fewer tokens came than a quarter of the channels.
    """
    if moments.pool is None or 4 * moments.tokens >= moments.width:
        return moments, False
    return pools[moments.pool], True
