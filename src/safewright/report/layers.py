"""The logit lens as figures: which tokens each layer would say, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safewright.report import text
from safewright.report.heat import whole_percent
from safewright.report.svg import Figure
from safewright.types import Record, Scorecard

SHOWN = 3
"""Tokens per model and layer."""

LONGEST = 14
"""Characters of a token that are shown; all of it stands in the cell's title."""

Cell = tuple[str, float]
"""A token and its share or mass."""


def token_figures(card: Scorecard, records: Sequence[Record], label: str, *, several: bool) -> list[Figure]:
    """Two tables of a scorecard whose records hold a logit lens; none where they hold none.

    The first counts, per layer, the tokens that are likeliest after the prompts of the first set of rows; the
    second shows the first of these prompts that all models read alone, with the mass of its likeliest tokens.

    Args:
        card: The scorecard.
        records: Its records; ``layers`` of their meta holds, by model role, a list of layers with ``tokens``
            and ``masses``.
        label: Its model's name.
        several: Whether the page shows several models, so that titles must name this one.
    """
    with_lens = [record for record in records if _lens(record)]
    if not with_lens:
        return []
    first = with_lens[0].meta.get("set")
    chosen = [record for record in with_lens if record.meta.get("set") == first]
    models = list(dict.fromkeys(model for record in chosen for model in _lens(record)))
    # A row that one of the models has no room for shows nothing of what changed.
    shown_one = next((record for record in chosen if len(_lens(record)) == len(models)), chosen[0])
    whose = f" · {text.one_line(label)}" if several else ""
    title = text.title_of(card.measure)
    counted = {
        model: [_commonest(layer) for layer in zip(*_columns(chosen, model), strict=False)]
        for model in models
    }
    alone = {
        model: [
            list(zip(layer["tokens"], layer["masses"], strict=False))[:SHOWN]
            for layer in _lens(shown_one)[model]
        ]
        for model in _lens(shown_one)
    }
    return [
        _figure(
            f"{title}: likeliest token per layer over {len(chosen):,} prompts{whose}",
            "The most frequent likeliest tokens and the share of prompts they come first for.",
            counted,
        ),
        _figure(
            f"{title}: likeliest tokens per layer after one prompt{whose}",
            f"Record {text.one_line(shown_one.id)}, with the mass of each token.",
            alone,
        ),
    ]


def _lens(record: Record) -> Mapping[str, Any]:
    """A record's logit lens by model; nothing where ``layers`` of its meta is something else, as data may bring."""
    found = record.meta.get("layers")
    if not isinstance(found, Mapping):
        return {}
    return found if all(_is_layers(layers) for layers in found.values()) else {}


def _is_layers(found: Any) -> bool:
    if not isinstance(found, Sequence) or not found or not all(isinstance(layer, Mapping) for layer in found):
        return False
    parts = [(layer.get("tokens"), layer.get("masses")) for layer in found]
    return all(
        isinstance(tokens, Sequence)
        and isinstance(masses, Sequence)
        and len(tokens) > 0
        and all(isinstance(token, str) for token in tokens)
        and all(isinstance(mass, (int, float)) for mass in masses)
        for tokens, masses in parts
    )


def _columns(records: Sequence[Record], model: str) -> list[list[str]]:
    """The likeliest token of each layer, per record."""
    return [
        [layer["tokens"][0] for layer in _lens(record)[model]] for record in records if model in _lens(record)
    ]


def _commonest(tokens: Sequence[str]) -> list[Cell]:
    # Of equally frequent ones the first by name, so that a page is drawn the same twice.
    counts = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
    return [(token, count / len(tokens)) for token, count in counts[:SHOWN]]


def _figure(title: str, caption: str, models: Mapping[str, Sequence[Sequence[Cell]]]) -> Figure:
    names = {model: "before" if model == "before" else "after" for model in models}
    heads = [f"{names[model]} {place}" for model in models for place in range(1, SHOWN + 1)]
    head = Markup("").join(
        Markup('<th scope="col" role="columnheader"><span>{}</span></th>').format(name) for name in heads
    )
    depth = max(map(len, models.values()))
    body = Markup("").join(
        Markup('<tr role="row"><th scope="row" role="rowheader">{}</th>{}</tr>').format(
            _row(layer),
            Markup("").join(
                _cell(f"{_row(layer)}, {names[model]} {place + 1}", layers, layer, place)
                for model, layers in models.items()
                for place in range(SHOWN)
            ),
        )
        for layer in range(depth)
    )
    drawn = Markup(
        '<table class="heat" role="table" aria-label="{}"><thead role="rowgroup"><tr role="row">'
        '<th scope="col" role="columnheader"><span class="hidden">layer</span></th>{}</tr></thead>'
        '<tbody role="rowgroup">{}</tbody></table>'
    ).format(title, head, body)
    return Figure(title, drawn, caption)


def _row(layer: int) -> str:
    return "embedding" if layer == 0 else f"layer {layer}"


def _cell(where: str, layers: Sequence[Sequence[Cell]], layer: int, place: int) -> Markup:
    if layer >= len(layers) or place >= len(layers[layer]):
        return Markup('<td role="cell"></td>')
    token, share = layers[layer][place]
    said = f"{where}: {shown(token)}, {whole_percent(share)}"
    return Markup(
        '<td role="cell"><svg class="box" role="img" aria-label="{}"><title>{}</title>'
        '<rect class="fill" width="100%" height="100%" rx="4" style="--v:{}"/>'
        '<text class="v" x="50%" y="46%">{}</text><text class="n" x="50%" y="80%">{}</text></svg></td>'
    ).format(
        said,
        said,
        f"{min(1.0, max(0.0, share)):.3f}",
        text.shorten(shown(token), LONGEST)[0] + ("…" if len(shown(token)) > LONGEST else ""),
        whole_percent(share),
    )


def shown(token: str) -> str:
    """A token with its white space made visible: a leading space is part of most words."""
    marked = token.replace(" ", "\N{OPEN BOX}").replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    return text.one_line(marked) or "(empty)"
