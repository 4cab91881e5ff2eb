"""What commands do to files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options, value_of
from safewright.guard.parsing.shell.scripts import copied, wrote
from safewright.guard.parsing.shell.state import HOME, place
from safewright.guard.parsing.shell.touching import BOTTOMLESS, amount_of, on, paths, size_of

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call


MOST_APPARENT = 2**40
"""From this size on, a file with holes is asked about."""


def does_reads(call: Call) -> list[Effect]:
    valued = {
        "head": "nc",
        "tail": "nc",
        "cut": "dfcb",
        "sort": "koStT",
        "fold": "w",
        "base64": "w",
        "xxd": "slc",
        "od": "ANtjw",
        "paste": "d",
        "join": "t12",
        "column": "ts",
        "nl": "bsw",
        "strings": "n",
        "uniq": "fsw",
        "shuf": "nio",
        "jq": "",
    }
    words = call.fields[1:]
    letters, operands = options(words, valued.get(call.verb, ""))
    found: list[Effect] = []
    if call.verb in ("jq", "yq") and operands:
        operands = operands[1:]
        if call.verb == "yq" and "i" in letters:
            return paths(call, "write", operands, detail="edit")
    if call.verb == "sort" and (out := value_of(words, "-o", "--output")):
        found += paths(call, "write", [out])
    if call.verb in ("uniq", "xxd") and len(operands) > 1:
        found += paths(call, "write", operands[1:2])
        operands = operands[:1]
    if call.verb == "tail" and ("f" in letters or "F" in letters or "--follow" in letters):
        pass
    return found + paths(call, "read", operands)


def does_searches(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(words, "efmABCdDgt", ("-e", "-f", "--include", "--exclude-dir"))
    if not (value_of(words, "-e", "--regexp", "-f") or call.verb == "x"):
        operands = operands[1:]
    recursive = bool(letters & {"r", "R", "--recursive"}) or call.verb in ("rg", "ag", "ack")
    return paths(call, "read", operands, recursive=recursive)


def does_builds(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb in ("npm", "pnpm", "yarn", "gem") and ("-g" in words or "--global" in words):
        return [on(call, "package", " ".join(words[:2]), "package", "global")]
    if call.verb in ("gcc", "g++", "cc", "clang", "clang++", "go", "rustc", "ld", "pandoc") and (
        out := value_of(words, "-o")
    ):
        return paths(call, "write", [out])
    if call.verb == "gdb" and (
        value_of(words, "-p", "--pid") or any(re.fullmatch(r"\d+", each) for each in words)
    ):
        return [on(call, "trace", value_of(words, "-p", "--pid") or words[-1], "process")]
    if call.verb == "make" and "install" in words:
        return [on(call, "package", "make install", "package", "make")]
    if call.verb in ("sqlite3", "psql", "mysql", "redis-cli"):
        text = " ".join(words)
        if re.search(
            r"\b(drop|truncate)\s+(table|database|schema)\b|\bdelete\s+from\b(?!.*\bwhere\b)|\bflushall\b|\bflushdb\b",
            text,
            re.I,
        ):
            return [on(call, "delete", UNKNOWN, "system", "tables")]
    if call.verb == "terraform" and ("destroy" in words or "apply" in words):
        return [on(call, "unknown", "terraform", "system")]
    return []


def does_rm(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:])
    recursive = bool(letters & {"r", "R", "--recursive"}) or (call.verb == "rmdir" and False)
    return paths(
        call, "delete", operands, recursive=recursive, detail="empty" if call.verb == "rmdir" else ""
    )


def does_shred(call: Call) -> list[Effect]:
    return paths(call, "delete", options(call.fields[1:], "ns")[1], detail="shred")


def does_destination(call: Call, valued: str = "tSm") -> tuple[set[str], list[str], str]:
    words = call.fields[1:]
    letters, operands = options(
        words, valued, ("--target-directory", "--mode", "--owner", "--group", "--suffix")
    )
    into = value_of(words, "-t", "--target-directory") if "t" in valued else None
    if into is None and len(operands) > 1:
        return letters, operands[:-1], operands[-1]
    return letters, operands, into or ""


def does_cp(call: Call) -> list[Effect]:
    letters, sources, target = does_destination(call, "tSmog" if call.verb == "install" else "tSe")
    if call.verb == "install" and "d" in letters:
        return paths(call, "create", [*sources, target])
    kept = bool(letters & {"n", "--no-clobber", "--update", "u"})
    if call.verb in ("rsync", "scp"):
        found = []
        remote = [each for each in (*sources, target) if re.match(r"^[\w.@-]+:", each)]
        sources = [each for each in sources if each not in remote]
        if target in remote:
            found = [on(call, "send", target, "host")]
            return found + paths(call, "read", sources, recursive=True)
        if remote:
            found = [on(call, "fetch", remote[0], "host")]
        if "--delete" in letters or "--delete-after" in letters:
            found += paths(call, "delete", [target], recursive=True)
        return found + paths(call, "read", sources, recursive=True) + _copies(call, "write", sources, target)
    found = paths(call, "read", sources, recursive=bool(letters & {"r", "R", "a"}))
    from_zero = any(BOTTOMLESS.match(each) for each in sources)
    if from_zero and not target.startswith("/dev/null"):
        found += [on(call, "exhaust", "disk", "system", "without end")]
    kind = "create" if kept else "write"
    return found + _copies(call, kind, sources, target)


def _copies(call: Call, kind: str, sources: list[str], target: str) -> list[Effect]:
    found = []
    for source in sources:
        name = source.rstrip("/").rsplit("/", 1)[-1]
        copied(call.state, source, target, name)
        content = name == "." or (call.verb == "rsync" and source.endswith("/"))
        origin = place(source, call.state.cwds[0]).rstrip("/") + ("/" if content else "")
        found += paths(call, kind, [target], detail="copy:" + name, source=origin)
    return found


def does_mv(call: Call) -> list[Effect]:
    letters, sources, target = does_destination(call, "tS")
    kind = "create" if letters & {"n", "--no-clobber"} else "write"
    found = paths(call, "move", sources, recursive=True)
    return found + _copies(call, kind, sources, target)


def does_rename(call: Call) -> list[Effect]:
    return paths(call, "move", options(call.fields[1:])[1][1:])


def does_ln(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "tS")
    if len(operands) == 1:
        operands.append(operands[0].rsplit("/", 1)[-1])
    kind = "write" if "f" in letters else "create"
    found = paths(call, "link", operands[:-1]) + paths(call, kind, operands[-1:], detail="link")
    if len(operands) == 2 and letters & {"s", "--symbolic"}:
        name = place(operands[1], call.state.cwds[0])
        target = (
            operands[0]
            if operands[0].startswith(("/", HOME))
            else name.rpartition("/")[0] + "/" + operands[0]
        )
        call.walk.found.links[name] = place(
            target.lstrip("/") if "/" not in name else target, call.state.cwds[0]
        )
    return found


def does_chmod(call: Call) -> list[Effect]:
    letters, _ = options(call.fields[1:])
    words = [
        each for each in call.fields[1:] if not re.fullmatch(r"-[RvcfhHLP]+|--\w[\w-]*|--reference=.*", each)
    ]
    reference = any(each.startswith("--reference") for each in call.fields)
    detail, targets = ("", words) if reference else (words[0] if words else "", words[1:])
    recursive = bool(letters & {"R", "--recursive"})
    kind = "chmod" if call.verb in ("chmod", "chattr", "setfacl") else "chown"
    if call.verb == "setfacl":
        detail, targets = "acl", options(call.fields[1:], "mxMX")[1]
    if call.verb == "chattr":
        detail = "attr" + detail
    return paths(call, kind, targets, recursive=recursive, detail=detail)


def does_setcap(call: Call) -> list[Effect]:
    """File capabilities are a setuid bit by another name."""
    return paths(call, "chmod", options(call.fields[1:], "n")[1][1:], detail="u+s")


def does_tee(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:])
    for each in operands:
        wrote(call.state, each, call.stdin, more=bool(letters & {"a", "--append"}))
    return paths(call, "append" if letters & {"a", "--append"} else "write", operands)


def does_sed(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(words, "ef")
    script = (
        [value_of(words, "-e", "--expression") or ""]
        if letters & {"e", "--expression", "f"}
        else operands[:1]
    )
    files = operands if letters & {"e", "--expression", "f"} else operands[1:]
    found = []
    if re.search(r"(?:^|[;}/])\s*w\s+(\S+)", script[0] if script else ""):
        found += paths(call, "write", re.findall(r"(?:^|[;}/])\s*w\s+(\S+)", script[0]))
    if script and re.search(r"(^|[;/}\d])\s*e(\s|$)|/[gip\d]*e[gip]*$", script[0]):
        call.walk.found.unclear("a command in a sed program")
    inplace = any(letter.startswith("i") or letter == "--in-place" for letter in letters)
    if inplace and script and re.fullmatch(r"(?:1?,?\$?|/(?:\^|\.\*|\.)?/)\s*d;?", script[0].strip()):
        return found + paths(call, "write", files, detail="truncate")
    return found + paths(call, "append" if inplace else "read", files, detail="edit" if inplace else "")


def does_dd(call: Call) -> list[Effect]:
    given = dict(each.partition("=")[::2] for each in call.fields[1:] if "=" in each)
    found: list[Effect] = []
    source, target = given.get("if", ""), given.get("of", "")
    if source and not BOTTOMLESS.match(source):
        found += paths(call, "read", [source])
    if target:
        found += paths(call, "write", [target], detail="dd")
    given_input = source or ("/dev/zero" if call.state.bottomless else "")
    kept = target != "/dev/null" if target else not call.state.paced
    if BOTTOMLESS.match(given_input) and kept:
        found += _poured(call, given)
    return found


def _poured(call: Call, given: dict[str, str]) -> list[Effect]:
    """What dd takes of a source without end: blocks by their count."""
    count = given.get("count", "")
    if any(UNKNOWN in each or SCALAR in each for each in (count, given.get("bs", ""), given.get("ibs", ""))):
        call.walk.found.unclear("the size of a file")
        return []
    blocks = amount_of(count)
    if blocks is None:
        return [on(call, "exhaust", "disk", "system", "without end")]
    block = amount_of(given.get("bs", given.get("ibs", "512"))) or 512
    size = (
        blocks if count.upper().endswith("B") or "count_bytes" in given.get("iflag", "") else blocks * block
    )
    return [on(call, "exhaust", "disk", "system", str(size))] if size > 2**30 else []


def does_sized(call: Call) -> list[Effect]:
    words = call.fields[1:]
    operands = options(words, "slorz", ("--size", "--length"))[1]
    size = value_of(words, "-s", "--size", "-l", "--length") or ""
    amount = size_of("=" + size)
    found = paths(
        call,
        "write" if call.verb == "truncate" else "create",
        operands,
        detail="truncate" if call.verb == "truncate" and not size.startswith("+") else "",
    )
    if UNKNOWN in size and call.verb == "fallocate":
        call.walk.found.unclear("the size of a file")
    if amount and amount >= MOST_APPARENT and call.verb == "truncate":
        # With holes it takes no space, until something copies, packs or fills it.
        call.walk.found.unclear("a file of that size, even with holes")
    if amount and amount > 2**30 and call.verb == "fallocate":
        found.append(on(call, "exhaust", "disk", "system", str(amount)))
    return found


def does_creates(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "mdtrZ")
    if call.verb == "mkdir":
        return paths(call, "create", operands, detail="dir")
    if call.verb == "touch":
        return paths(call, "create", operands, detail="touch")
    del letters
    return paths(call, "create", operands[:1])


def does_tar(call: Call) -> list[Effect]:
    words = call.fields[1:]
    joined = words[0].lstrip("-") if words else ""
    if joined.startswith("-"):
        joined = ""
    archive = value_of(words, "-f", "--file")
    if archive is None and "f" in joined:
        archive = next((each for each in words[1:] if each == "-" or not each.startswith("-")), None)
    folder = value_of(words, "-C", "--directory")
    operands = [each for each in words[1:] if not each.startswith("-") and each not in (archive, folder)]
    if any(
        each.startswith(("--to-command", "--checkpoint-action", "-I", "--use-compress-program"))
        for each in words
    ):
        call.walk.found.unclear("a program that tar runs")
    if "x" in joined or "--extract" in words:
        found = paths(call, "read", [archive or "-"]) + paths(
            call, "create", [folder or "."], recursive=True, detail="unpack"
        )
        return found
    if "c" in joined or "--create" in words:
        if "--remove-files" in words:
            return paths(call, "delete", operands, recursive=True) + paths(call, "write", [archive or "-"])
        return paths(call, "read", operands, recursive=True) + paths(call, "write", [archive or "-"])
    return paths(call, "read", [archive or "-"])


def does_zip(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "Pdxb")
    if call.verb in ("unzip", "7z", "unrar") and not (operands and operands[0] == "a"):
        folder = value_of(call.fields[1:], "-d") or "."
        return paths(call, "read", operands[:1]) + (
            [] if "l" in letters else paths(call, "create", [folder], recursive=True, detail="unpack")
        )
    operands = operands[1:] if call.verb == "7z" else operands
    found = paths(call, "write", operands[:1]) + paths(call, "read", operands[1:], recursive=True)
    if "m" in letters or "-sdel" in call.fields:
        found += paths(call, "delete", operands[1:], recursive=True)
    return found


def does_compress(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "S")
    if letters & {"c", "l", "t", "k", "--keep", "--stdout"}:
        return paths(call, "read", operands)
    return paths(call, "move", operands, detail="compress", recursive="r" in letters)


def _random(call: Call, words: list[str]) -> list[Effect]:
    """``openssl rand``: what it makes, and into which file."""
    out = value_of(words, "-out")
    number = next((each for each in reversed(words) if each != out and not each.startswith("-")), "")
    size = amount_of(number)
    if size is None and UNKNOWN in number:
        call.walk.found.unclear("the size of what is made")
    found = paths(call, "write", [out] if out else [])
    return found + ([on(call, "exhaust", "disk", "system", str(size))] if size and size > 2**30 else [])


def does_crypt(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "openssl":
        if words[:1] == ["rand"]:
            return _random(call, words[1:])
        if not words or (
            words[0] not in ("enc", "aes-256-cbc", "smime", "rsautl", "cms", "pkeyutl")
            and not words[0].startswith(("aes", "des"))
        ):
            return paths(
                call,
                "write",
                [each for each in (value_of(words, "-out"), value_of(words, "-keyout")) if each],
            )
        source, target = value_of(words, "-in"), value_of(words, "-out")
        found = paths(call, "read", [source] if source else []) + paths(
            call, "write", [target] if target else []
        )
        if "-d" in words or "-base64" in words:
            return found
        return found + paths(call, "encrypt", [source] if source else [])
    if call.verb in ("gpg", "gpg2", "ccrypt", "age", "ccencrypt"):
        letters, operands = options(
            words,
            "ro",
            (
                "--recipient",
                "--output",
                "--passphrase",
                "--passphrase-file",
                "--cipher-algo",
                "--pinentry-mode",
            ),
        )
        if letters & {"c", "e", "--symmetric", "--encrypt"} or call.verb in ("ccrypt", "ccencrypt"):
            return paths(call, "encrypt", operands, recursive="r" in letters) + (
                paths(call, "delete", operands) if call.verb.startswith("cc") else []
            )
        if any(each.startswith("--export-secret") for each in words):
            return paths(call, "read", ["~/.gnupg"])
        return paths(call, "read", operands)
    return paths(call, "write", options(words)[1][-1:], detail="format")
