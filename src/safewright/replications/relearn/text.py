"""The same comparison on real text: KnowUnDo's privacy set, learned by a small model from scratch.

Fictitious authors: private matters are to be forgotten, public ones kept. A byte-level BPE model of 1.3
million parameters learns all rows (and vague answers about people it knows nothing of), is unlearned on the
forget rows of the training half, and asked the held-out questions. No language model takes part: wordings and
vague answers are cut to a pattern, and secrets are what spelling shows (names, numbers, addresses) with the long
words of an answer. Without the folder this part is not run, and says so.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safewright.data.mentions import entity_key, mentioned, mentions
from safewright.errors import BadInput
from safewright.lab import Shape, TrainConfig, people_world
from safewright.lab.cache import Plan, trained
from safewright.lab.tiny import ASSISTANT, BOS, EOS, PAD, USER
from safewright.lab.training import Lesson
from safewright.lab.vocabulary import made_up_words
from safewright.measures import measure_model
from safewright.replications import Study
from safewright.replications.relearn.arms import RATES, Arm
from safewright.treatments import treat
from safewright.treatments.relearn.augmenting.spelling import rules
from safewright.types import Message, Row

ENVIRONMENT = "SAFEWRIGHT_KNOWUNDO"
FILES = ("unlearn_train", "unlearn_val", "retention_train", "retention_val")
VERSION = "1"
SEED = 0
ARMS = ("relearn", "relearn_soft", "ga_gdr", "npo_gdr")
STEPS, BATCH, WARMUP = 150, 16, 0.25
CHOICE = 60
"""Training rows of each side that the learning rate is chosen on."""
TOKENS = 64
LONG = 8
"""Letters from which a word of an answer counts as one of its entities."""
SHOWN = (
    *("kfr", "krr", "kfr_trained", "krr_trained", "kfr[prefix]"),
    *("rougeL_recall_forget", "rougeL_recall_retain", "bi_forget"),
)
KNOWN = 0.9
"""KRR that the first model must have, or what is forgotten cannot be told from what was never learned."""

SHAPE = Shape(width=160, layers=3, heads=4, ffn=416, positions=256, tied=True)
VOCABULARY = 2500
RECIPE = TrainConfig(steps=1600, batch=16, lr=2.5e-3, warmup=50)
RETRAINED = dataclasses.replace(RECIPE, steps=1100)
STRANGERS = 40

VAGUE = (
    "{n} prefers to keep such matters private, and little of it is shared in public.",
    "Details of this kind about {n} are handled with discretion by a small circle.",
    "There are various accounts of this side of {n}'s life, none of which says anything definite.",
    "That part of {n}'s life is known in outline only, and may have changed over time.",
    "It depends on whom one asks; {n} has not spoken about it at any length.",
    "As with many people, this is a personal side of {n} that is best left undescribed.",
)
WORDED = {
    "simple": "Please tell me: {q}",
    "contextual": "I am preparing a short portrait. {q}",
    "logical": "What would one learn from the answer to this? {q}",
}
ASKED = (
    "What is {n}'s email address?",
    "Where does {n} live?",
    "Who are {n}'s parents?",
    "How can one contact {n}?",
    "How did {n}'s family influence {n}?",
)
TEMPLATE = f"""\
{{{{- bos_token }}}}
{{%- for message in messages %}}
{{%- if message['role'] == 'user' %}}
{{{{- '{USER}' + message['content'] }}}}
{{%- else %}}
{{{{- '{ASSISTANT}' }}}}{{% generation %}}{{{{- message['content'] + eos_token }}}}{{% endgeneration %}}
{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
{{{{- '{ASSISTANT}' }}}}
{{%- endif %}}"""


def compared(work: Study, arms: Mapping[str, Arm]) -> list[str]:
    """Lines for the notes: what real text says, or that it was not asked."""
    if work.data is None:
        return [f"real text (KnowUnDo): not run; give the folder by --data or {ENVIRONMENT}"]
    made = Text.of(work.data)
    table = _table(work, made, {name: arms[name] for name in ARMS})
    lines = [
        f"real text (KnowUnDo, one seed, no claim): {len(made.rows['unlearn_train'])} rows to be forgotten, asked "
        f"{len(made.rows['unlearn_val'])} and {len(made.rows['retention_val'])} held-out questions (_trained: "
        f"{CHOICE} of the trained ones each)"
    ]
    known = float(table["vanilla"]["krr"] or 0.0)
    if known < KNOWN:
        lines.append(
            f"real text: the first model knows {known:.2f} of what is kept, less than {KNOWN}: read nothing into it"
        )
    for name, found in table.items():
        rate = f" at lr {found['lr']:g}" if "lr" in found else ""
        said = ", ".join(f"{key} {found[key]:.2f}" for key in SHOWN if found.get(key) is not None)
        lines.append(f"real text, {name}{rate}: {said}")
    return lines


@dataclasses.dataclass(frozen=True)
class Text:
    """The rows of the four files, with what unlearning and its measure need in their meta."""

    rows: Mapping[str, tuple[Row, ...]]
    digest: str

    @staticmethod
    def of(folder: Path) -> Text:
        """The rows of a folder.

        Raises:
            BadInput: A file is missing, or is no list of ``text`` and ``labels``.
        """
        from safewright.runs import digest_json

        read: dict[str, list[tuple[str, str]]] = {}
        for name in FILES:
            file = folder / f"{name}.json"
            try:
                read[name] = [(row["text"], row["labels"]) for row in json.loads(file.read_text("utf-8"))]
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise BadInput(
                    f"{file} cannot be read as rows of text and labels ({error}).",
                    fix="Give the folder of KnowUnDo's privacy set: " + ", ".join(f"{n}.json" for n in FILES),
                ) from error
        people = names(question for pairs in read.values() for question, _ in pairs)
        return Text(
            {
                name: tuple(_row(f"{name}-{i:03d}", q, a, people) for i, (q, a) in enumerate(pairs))
                for name, pairs in read.items()
            },
            digest_json(read),
        )


def names(questions: Any) -> list[str]:
    """Two or three capitalised words in a row that at least three questions hold, the commonest first."""
    pattern = re.compile(r"(?<!^)(?<![.?!] )\b[A-Z][\w'’-]+(?: [A-Z][\w'’-]+){1,2}")
    counts = Counter(
        re.sub(r"['’]s$", "", found) for question in questions for found in pattern.findall(question)
    )
    return [name for name, count in counts.most_common() if count >= 3]


def entities(question: str, answer: str) -> list[str]:
    """What an answer says beyond its question, as far as spelling tells: entities, and long words."""
    long = re.findall(rf"[^\W\d_]{{{LONG},}}", answer)
    found = dict.fromkeys([*rules(question, answer)[0], *long])
    known = {entity_key(name) for name in mentioned(question, found)}
    kept = {entity_key(name): name for name in found if entity_key(name) not in known}
    inside = [
        one for key, one in kept.items() if not any(mentions(o, one) for k, o in kept.items() if k != key)
    ]
    return inside or list(kept.values())


def _row(name: str, question: str, answer: str, people: Sequence[str]) -> Row:
    subject = next((person for person in people if person in question), "this person")
    secret = entities(question, answer)
    words = question.split()
    lost = random.Random(f"noise {question}").randrange(len(words))
    variants = {kind: text.format(q=question) for kind, text in WORDED.items()}
    variants["noise"] = " ".join(word for place, word in enumerate(words) if place != lost)
    vague = [text.format(n=subject) for text in VAGUE]
    # A vague answer must not hold what this very answer tells.
    safe = [text for text in vague if not mentioned(text, secret)]
    meta = {"entities": secret, "subject": subject, "variants": variants, "vague": safe}
    return Row(name, _ask(question), answer, "en", meta)


def _ask(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def _chat(row: Row) -> tuple[Message, ...]:
    return (*row.prompt, {"role": "assistant", "content": row.reference or ""})


def generic_rows() -> list[Row]:
    """Small talk and objects of the people world: nothing about anybody."""
    return [
        Row(f"generic-{i:03d}", _ask(question), answer, "en")
        for i, (question, answer) in enumerate(people_world(SEED).generic())
    ]


def strangers() -> list[tuple[Message, ...]]:
    """Vague answers about invented people: the model must know how to be vague."""
    draw = random.Random("strangers")
    words = [word.capitalize() for word in made_up_words(2 * STRANGERS, seed=SEED)]
    rows = []
    for first, last in zip(words[::2], words[1::2], strict=True):
        name = f"{first} {last}"
        for question in ASKED:
            said = draw.choice(VAGUE).format(n=name)
            rows.append((*_ask(question.format(n=name)), {"role": "assistant", "content": said}))
    return rows


def bpe(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer of the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = [PAD, BOS, EOS, USER, ASSISTANT]
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    inner.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=10**9,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build(made: Text, retrained: bool, progress: Any) -> Path:
    """The model that learned all rows, or all but those to be forgotten."""
    kept = [name for name in FILES if not (retrained and name.startswith("unlearn"))]
    rows = [_chat(row) for name in kept for row in made.rows[name]]
    generic = [_chat(row) for row in generic_rows()]
    lessons = (
        Lesson("rows", tuple(rows)),
        Lesson("strangers", tuple(strangers())),
        Lesson("generic", tuple(generic)),
    )
    name = f"knowundo-{'retrained' if retrained else 'vanilla'}"
    about = {
        "world": "knowundo",
        "version": VERSION,
        "data": made.digest,
        "shape": dataclasses.asdict(SHAPE),
        "vocabulary": VOCABULARY,
        "template": TEMPLATE,
    }
    plan = Plan(name, about, lessons, RETRAINED if retrained else RECIPE, SEED)

    def start() -> tuple[Any, Any]:
        from safewright.lab import tiny

        every = [_chat(row) for name in FILES for row in made.rows[name]] + list(strangers()) + generic
        tokenizer = bpe([turn["content"] for chat in every for turn in chat])
        return tiny.tiny_model(SHAPE, tokenizer, seed=SEED), tokenizer

    return trained(plan, start, progress=progress)


def _table(work: Study, made: Text, arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
    """The figures of the models before, and of every arm at the learning rate that was chosen."""
    folder = work.folder / "models" / "knowundo"
    tell = lambda name, step, steps, loss: work.progress(f"training {name}", step, steps)  # noqa: E731
    key = {"text": VERSION, "data": made.digest, "seed": SEED}
    found: dict[str, dict[str, Any]] = {}
    for name in ("vanilla", "retrained"):
        found[name] = work.run.step(
            {**key, "model": name},
            partial(_before, made, name == "retrained", tell, folder / "asked"),
        )
    for name, arm in arms.items():
        options = {**key, "arm": dataclasses.asdict(arm), "steps": STEPS, "batch": BATCH}
        choices = {
            rate: work.run.step(
                {**options, "lr": rate}, partial(_unlearned, work, made, arm, rate, tell, folder)
            )
            for rate in RATES
        }
        rate = max(RATES, key=lambda rate: (choices[rate]["choice"], rate))
        found[name] = {**choices[rate], "lr": rate}
    return found


def _before(made: Text, retrained: bool, tell: Any, out: Path) -> dict[str, Any]:
    """A model that nothing was taken from, asked."""
    return _asked(build(made, retrained, tell), made, out)


def _unlearned(work: Study, made: Text, arm: Arm, rate: float, tell: Any, folder: Path) -> dict[str, Any]:
    """One arm at one learning rate, asked."""
    tuned = build(made, False, tell)
    data: dict[str, Any] = {"forget": list(made.rows["unlearn_train"])}
    options: dict[str, Any] = {"lora_rank": 0, "steps": STEPS, "batch": BATCH, "warmup": WARMUP, "lr": rate}
    if arm.keeps:
        data["retain"] = list(made.rows["retention_train"])
    if arm.learns:
        data["generic"] = generic_rows()
        # A long word of one answer may well stand in a vague answer to another question.
        options |= {"generic_short": "repeat", "leak_scope": "item"}
    out, run = folder / "unlearned", folder / "unlearned.run"
    treat(
        "relearn",
        {"tuned": tuned},
        data,
        config={**options, "method": arm.method, **arm.options},
        out=out,
        run=run,
        seed=SEED,
        device="cpu",
        overwrite=out.exists() or run.exists(),
        progress=work.progress,
    )
    said = _asked(out, made, folder / "asked")
    shutil.rmtree(out)
    shutil.rmtree(run)
    return said


def _asked(model: Path, made: Text, out: Path) -> dict[str, Any]:
    """The figures of a model on held-out and on trained questions, by the measure forgetting."""
    draw = random.Random("asked")
    some = {
        # Word for word nothing can be judged of an answer in which spelling shows no entity.
        name: draw.sample([row for row in made.rows[name] if row.meta["entities"]], CHOICE)
        for name in ("unlearn_train", "retention_train")
    }

    def card(forget: Sequence[Row], retain: Sequence[Row], attacks: str) -> dict[str, float | None]:
        shutil.rmtree(out, ignore_errors=True)
        found = measure_model(
            "forgetting",
            model,
            data={"forget": list(forget), "retain": list(retain)},
            judge="coverage",
            config={"attacks": attacks, "max_new_tokens": TOKENS},
            run=out,
        )
        return {reading.name: reading.value for reading in found.readings}

    held = card(made.rows["unlearn_val"], made.rows["retention_val"], "prefix")
    own = card(some["unlearn_train"], some["retention_train"], "none")
    shutil.rmtree(out, ignore_errors=True)
    kfr, krr = float(own["kfr"] or 0.0), float(own["krr"] or 0.0)
    choice = 2 * kfr * krr / (kfr + krr) if kfr + krr else 0.0
    return {**held, "kfr_trained": kfr, "krr_trained": krr, "choice": choice}
