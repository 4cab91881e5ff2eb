"""``python -m safewright.guard.oracle verify|rederive|score``: check the committed effects, make them anew, or judge
the rules by them. Where bubblewrap or namespaces are missing, `verify` and `rederive` are *not run*: exit code 5."""

from __future__ import annotations

import sys
from pathlib import Path

from safewright.guard.oracle.files import differs, rewritten, row, rows, write
from safewright.guard.oracle.running import Oracle, why_not
from safewright.guard.oracle.scoring import loosened, score, softened

HERE = Path(__file__).parent
USAGE = "python -m safewright.guard.oracle verify [N] | rederive [rewrites] | score [design|untouched]"


def main(words: list[str]) -> int:
    """Run a verb; its exit code."""
    verb = words[0] if words else ""
    if verb == "score":
        for half in words[1:] or ("design", "untouched"):
            for rate in score(half):
                print(rate)
        loose, n = loosened()
        print(f"rewrites of equal effects: {n}; let through: {len(loose)}; only escalated: {len(softened())}")
        for each in loose:
            print(f"  let through: {each['base']}, {each['rewrite']}: {each['command']}")
        return 0
    if verb not in ("verify", "rederive"):
        print(USAGE, file=sys.stderr)
        return 2
    reason = why_not()
    if reason is not None:
        print(f"not run: {reason}")
        return 5
    if verb == "rederive":
        with Oracle() as oracle:
            if words[1:] != ["rewrites"]:
                write(HERE / "commands.jsonl", [row(oracle, each) for each in rows()])
            write(HERE / "rewrites.jsonl", rewritten(oracle))
        print(
            "written: commands.jsonl, rewrites.jsonl"
            if words[1:] != ["rewrites"]
            else "written: rewrites.jsonl"
        )
        return 0
    return _verify(words[1:])


def _verify(words: list[str]) -> int:
    committed = rows()
    step = max(1, len(committed) // int(words[0])) if words and words[0].isdigit() else 1
    wrong = 0
    with Oracle() as oracle:
        chosen = committed[::step]
        for each in chosen:
            if said := differs(each, row(oracle, each)):
                wrong += 1
                print(f"{each['id']} ({each['command'][:60]}): {said}")
    print(f"{len(chosen) - wrong} of {len(chosen)} agree with the committed file")
    return 0 if not wrong else 10


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
