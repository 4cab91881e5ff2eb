"""Memorisation of a forget set, read off the model's own probabilities (TOFU, MUSE, OpenUnlearning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.catalog import measure
from safewright.errors import BadInput
from safewright.measures.memorisation import asking, core
from safewright.measures.memorisation.analysis import findings
from safewright.measures.memorisation.choosing import PROMPT, lettered
from safewright.measures.memorisation.config import (
    CHOICES,
    EXAMPLES,
    FORGET,
    GENERATED,
    HOLDOUT,
    KNOWN_FORGET,
    KNOWN_RETAIN,
    OPTIONAL,
    SCORED,
    WITH_OPTIONS,
    MemorisationConfig,
)
from safewright.measures.memorisation.recording import record_of
from safewright.prompts import load
from safewright.runs import Run, to_json
from safewright.types import Findings, Record, Row

ROLES = (FORGET, *OPTIONAL)


@measure(
    "memorisation",
    version="1",
    paper="2401.06121",
    config=MemorisationConfig,
    takes=("target",),
    optional=("reference", "retrained"),
    data=(FORGET,),
    optional_data=OPTIONAL,
    needs={"generate", "logprobs", "gradient"},
    role_needs={"reference": {"logprobs"}, "retrained": {"logprobs"}},
    behaviour=False,
)
def memorisation(
    models: Mapping[str, Any], rows: Sequence[Row], *, config: MemorisationConfig, run: Run
) -> tuple[Findings, list[Record]]:
    """Probability, truth ratio, exact memorisation, extraction, membership attacks, PrivLeak, model utility.

    Answers are scored under teacher forcing, their end-of-turn token left out. Rows bring the known answer as
    their reference; ``paraphrased_answer`` and ``wrong`` (TOFU's ``perturbed_answer``) in their meta give the
    truth ratio. What needs data or a model that was not given is left out.
    """
    sets = asking.by_set(rows, ROLES)
    _check(sets, models, config)
    sets[CHOICES] = [lettered(row) for row in sets.get(CHOICES, ())]
    heard = asking.Heard()
    target = models["target"]
    texts = [
        text
        for role in (*SCORED, CHOICES)
        for text in asking.texts_of("target", sets.get(role, ()), options=role in (*WITH_OPTIONS, CHOICES))
    ]
    asking.score_texts(heard, target, texts, run, config)
    members = [row for role in (FORGET, HOLDOUT) for row in sets.get(role, ())]
    attacked = HOLDOUT in sets
    if attacked and config.gradient_norm:
        asking.take_gradients(heard, target, asking.texts_of("target", members, options=False), run)
    if "reference" in models:
        asked = asking.texts_of("reference", members, options=False)
        asking.score_texts(heard, models["reference"], asked, run, config)
        _check_tokens(heard, asked)
    if "retrained" in models:
        asked = [
            text
            for role in (FORGET, HOLDOUT)
            for text in asking.texts_of("retrained", sets.get(role, ()), options=role == FORGET)
        ]
        asking.score_texts(heard, models["retrained"], asked, run, config)
        _check_tokens(heard, asked)
    if config.rouge:
        spoken = [row for role in GENERATED for row in sets.get(role, ())]
        asking.generate(heard, target, spoken, sets.get(EXAMPLES, ()), run, config)
    records = [
        record_of(role, row, heard, config, attacked)
        for role in (*ROLES[: ROLES.index(EXAMPLES)], CHOICES)
        for row in sets.get(role, ())
    ]
    return findings(records, conventions(config, heard, sets)), records


def conventions(
    config: MemorisationConfig, heard: asking.Heard, sets: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
    """What the numbers are taken under, for the scorecard."""
    found: dict[str, Any] = {
        "answer_tokens": "as in training, the end-of-turn token left out",
        "argmax": "of float32 logits, of equals the lowest id",
        "truth_ratio": "forget: mean min(TR, 1/TR); other sets: mean max(0, 1 - TR); of the paraphrased answer"
        " where a row has one, else of the answer",
        "min_k_share": config.min_k,
        "variance_floor": core.LEAST_VARIANCE,
        "auc": "forget 0, holdout 1; higher scores are less like a member",
        "gradient_norm": "mean over tensors of 2-norms, all floating tensors, evaluation mode",
        "rouge": "rouge_score with stemmer; recall as TOFU, f1 as MUSE",
    }
    if heard.decoding is not None:
        found["decoding"] = to_json(heard.decoding)
        found["examples"] = len(sets.get(EXAMPLES, ()))
    if sets.get(CHOICES):
        prompt = load(PROMPT)
        found["choices_prompt"] = f"{PROMPT} {prompt.version} {prompt.digest}"
    return found


def _check(sets: Mapping[str, Sequence[Row]], models: Mapping[str, Any], config: MemorisationConfig) -> None:
    """Everything that was given is of use, and every row that is scored has its answer.

    Raises:
        BadInput: It is not so.
    """
    for role in ROLES:
        if role == CHOICES:
            continue
        lacking = [row.id for row in sets.get(role, ()) if row.reference is None]
        if lacking:
            raise BadInput(
                f"{len(lacking)} of {len(sets[role])} rows in the role {role} have no answer (first: {lacking[0]}).",
                fix="Each needs response, output, answer, or a last assistant turn.",
            )
    if "reference" in models and HOLDOUT not in sets:
        raise BadInput(
            "A reference model was given without holdout rows.",
            why="Its attack tells the forget set from rows nobody trained on.",
            fix="Give them with --data holdout=FILE, or leave out --model-role reference.",
        )
    for row in (row for role in WITH_OPTIONS for row in sets.get(role, ())):
        asking.wrong_of(row)
        asking.paraphrase_of(row)
    options = any(asking.wrong_of(row) for row in sets[FORGET])
    if "retrained" in models and HOLDOUT not in sets and not options:
        raise BadInput(
            "A retrained model was given, and nothing that it is compared on.",
            fix="Give rows with wrong answers (forget quality), or --data holdout=FILE (PrivLeak).",
        )
    knowing = [role for role in (KNOWN_FORGET, KNOWN_RETAIN) if role in sets]
    if knowing and not config.rouge:
        raise BadInput(
            f"Rows in the role {knowing[0]} were given, but nothing is generated.",
            why="They are scored by ROUGE alone.",
            fix=f"Leave out --data {knowing[0]}=, or --set rouge=false.",
        )
    if EXAMPLES in sets and not knowing:
        raise BadInput(
            "Examples were given, but no question that they come before.",
            fix=f"Leave out --data {EXAMPLES}=, or give rows with --data {KNOWN_FORGET}=FILE.",
        )


def _check_tokens(heard: asking.Heard, texts: Sequence[asking.Text]) -> None:
    """Another model's losses of these texts are over the same tokens as the target's."""
    for text in texts:
        role, row, number = text.key
        if heard.facts["target", row, number].ids != heard.facts[text.key].ids:
            raise BadInput(
                f"The {role} model cuts an answer of {row} into other tokens than the target.",
                why="Mean losses per token are then over different things.",
                fix=f"Give a {role} model with the target's tokenizer and context.",
            )
