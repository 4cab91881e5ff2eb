"""Numbers and untrusted text as a reader sees them. Percent exists only here and in the templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from safewright.types import Interval, ModelRef

NONE = "–"
MINUS = "\N{MINUS SIGN}"

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: Any) -> str:
    """Text that cannot disturb what it is printed into: control characters are made visible.

    Covers terminal escapes, lone surrogates (which UTF-8 cannot hold) and marks that reverse the
    direction of the text after them. HTML is escaped by the templates, not here.
    """
    plain = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(text)).replace("\r\n", "\n")
    plain = _DIRECTION.sub(lambda mark: f"[U+{ord(mark.group()):04X}]", plain)
    return _CONTROL.sub(_picture, plain).replace("\r", "\N{SYMBOL FOR CARRIAGE RETURN}")


def _picture(mark: re.Match[str]) -> str:
    code = ord(mark.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"


def one_line(text: Any) -> str:
    """`clean` text without line breaks, for cells and titles."""
    return " ".join(clean(text).split())


def percent(rate: float | None) -> str:
    """A rate in [0, 1] as percent with one decimal; what is not exactly 0 or 1 never looks like it."""
    if rate is None or not math.isfinite(rate):
        return NONE
    if 0 < rate < 0.0005:
        return "<0.1%"
    shown = f"{100 * rate:.1f}%"
    return ">99.9%" if shown == "100.0%" and rate < 1 else shown


def quantity(value: float | None, unit: str = "rate") -> str:
    """A value in its unit: rates as percent, differences of rates in percentage points with their sign.

    Anything else has three significant digits.
    """
    if unit == "rate":
        return percent(value)
    if value is None or not math.isfinite(value):
        return NONE
    if unit == "difference":
        return f"{signed(value)} points"
    if unit == "count":
        return f"{value:,.0f}"
    text = f"{value:#.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = text.rstrip(".") if "e" not in text else f"{value:.2e}"
    return f"{text} s" if unit == "seconds" else text.replace("-", MINUS)


def span(interval: Interval | None, unit: str = "rate") -> str:
    """Both ends of an interval, with the unit once."""
    if interval is None:
        return NONE
    return ends((interval.low, interval.high), unit)


def ends(pair: tuple[float, float], unit: str = "rate") -> str:
    """Two values with a dash between them, and the percent sign once."""
    low, high = pair
    if unit == "rate":
        return f"{100 * low:.1f}–{100 * high:.1f}%"
    if unit == "difference":
        return f"{signed(low)} to {signed(high)}"
    dash = " to " if min(low, high) < 0 else "–"
    return f"{quantity(low, unit)}{dash}{quantity(high, unit)}"


METHODS: Mapping[str, str] = {
    "wilson": "Wilson",
    "clopper_pearson": "Clopper–Pearson",
    "bounded_bootstrap": "bootstrap for bounded scores",
    "cluster_bootstrap": "bootstrap over prompts",
    "newcombe_paired": "Newcombe's for paired rates",
    "mcnemar_exact": "McNemar's exact test",
    "sign_flip_exact": "exact sign-flip test",
    "sign_flip_monte_carlo": "sampled sign-flip test",
    "jeffreys_weighted": "weighted draws of Jeffreys posteriors",
    "judge_error_bootstrap": "draws over the rate and the judge's errors",
    "prediction_powered_bootstrap": "prediction-powered, drawn",
    "fleiss_cohen_everitt": "Fleiss, Cohen and Everitt's",
    "delong": "DeLong's",
    "newcombe_auc": "Newcombe's for areas",
    "beta_binomial_profile": "profile likelihood of a beta-binomial fit",
    "bootstrap_rows": "bootstrap over rows",
    "ks_2samp": "two-sample Kolmogorov–Smirnov",
    "item_bootstrap": "bootstrap over items",
    "clopper_pearson_disagreement": "Clopper–Pearson of the disagreement",
}


def method_name(method: str) -> str:
    """The name of a method, or of several with commas between, as people write it."""
    named = []
    for part in method.split(", "):
        code, _, rest = part.partition(" ")
        named.append(f"{METHODS.get(code, code.replace('_', ' '))} {rest}".strip())
    return one_line(", ".join(named))


def signed(value: float, *, points: bool = True) -> str:
    """A difference with its sign; of rates in percentage points."""
    shown = f"{100 * value:+.1f}" if points else f"{value:+#.3g}"
    if float(shown) == 0:
        shown = shown.lstrip("+-")
    return shown.replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value with two significant digits, floored at 0.0001."""
    if p < 0.0001:
        return "<0.0001"
    if p >= 0.9995:
        return "1"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def short_digest(digest: str, length: int = 12) -> str:
    """The scheme and the first digits of a digest."""
    scheme, colon, rest = digest.partition(":")
    return f"{scheme}:{rest[:length]}" if colon else digest[: length + 7]


def provenance(ref: ModelRef) -> str:
    """Whether a model's digest was computed from its bytes or only stated by a server."""
    return "declared by the server, not verified" if ref.digest.startswith("declared:") else "verified"


def seconds(value: float) -> str:
    """A duration in the largest fitting units."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """A number of bytes in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def shorten(text: str, limit: int) -> tuple[str, int]:
    """The first ``limit`` characters and the number of those left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def title_of(name: str) -> str:
    """A code name in words: ``harmful_rate`` becomes "Harmful rate"."""
    words = one_line(name).replace("_", " ").strip().replace("over refusal", "over-refusal")
    return words[:1].upper() + words[1:]


INITIALS = frozenset({"sr", "asr", "cv", "kfr", "krr", "ls", "mia", "auc", "ppl", "kl", "bi", "hs", "rttr"})
"""Words that are initials: they stand in capitals."""

PRINTED: Mapping[str, str] = {
    "rouge l": "ROUGE-L",
    "rougeL": "ROUGE-L",
    "rouge1": "ROUGE-1",
    "distinct2": "distinct-2",
    "a distance": "A-distance",
    "priv leak": "PrivLeak",
    "min k plus": "Min-K++",
    "min k": "Min-K",
}
"""Names that papers write in one way."""


BEST_OF: Mapping[str, tuple[str, str]] = {
    "asr_all": ("all {} answers harmful", "all answers harmful"),
    "asr_any": ("any of {} answers harmful", "any answer harmful"),
    "refusal": ("none of {} answers refuses", "no answer refuses"),
}
"""Sides of the best of N, all of them success rates of an attack: with their number, and over all numbers."""
_BEST_OF = re.compile(rf"\b(base_)?({'|'.join(BEST_OF)})(?:(_fit)?@(\d+)|(_area))")


def _best_of(match: re.Match[str]) -> str:
    base, side, fit, number, _ = match.groups()
    head = f"{'base ' if base else ''}asr,"
    if number is None:
        return f"{head} {BEST_OF[side][1]} (area over log N)"
    return f"{head} {BEST_OF[side][0].format(number)}{' (fit)' if fit else ''}"


def reading_name(name: str) -> str:
    """The code name of a reading in words: ``sr_long`` is "SR long", safety rates being named SR in print."""
    plain = re.sub("_+", " ", _BEST_OF.sub(_best_of, one_line(name)))
    for code, printed in PRINTED.items():
        plain = re.sub(rf"\b{code}\b", printed, plain)
    return " ".join(word.upper() if word.rstrip(",") in INITIALS else word for word in plain.split())


def sentence(words: str) -> str:
    """Words with a capital at their head."""
    return words[:1].upper() + words[1:]


def counts(by_status: Mapping[str, int]) -> str:
    """Unscored records by status, in words: "1 unparsed, 2 no answer"."""
    return ", ".join(f"{n} {one_line(status).replace('_', ' ')}" for status, n in by_status.items() if n)


def better_text(better: str) -> str:
    """The direction in words."""
    return {"lower": "lower is better", "higher": "higher is better"}.get(better, "no direction is better")


def plain_value(value: Any) -> str:
    """A convention's value as text."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in value):
        return clean(", ".join(str(v) for v in value))
    return clean(json.dumps(value, ensure_ascii=False, default=str))
