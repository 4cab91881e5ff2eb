"""What each command does to its targets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options, value_of
from safewright.guard.parsing.shell.state import HOME, place

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call

Reader = Callable[["Call"], list[Effect]]

SILENT = frozenset(
    [
        "echo",
        "printf",
        "true",
        "false",
        ":",
        "pwd",
        "date",
        "whoami",
        "id",
        "groups",
        "uname",
        "uptime",
        "free",
        "df",
        "ps",
        "top",
        "htop",
        "pgrep",
        "pidof",
        "which",
        "whereis",
        "type",
        "printenv",
        "sleep",
        "wait",
        "jobs",
        "fg",
        "bg",
        "seq",
        "test",
        "[",
        "[[",
        "expr",
        "basename",
        "dirname",
        "tput",
        "clear",
        "locale",
        "getent",
        "nproc",
        "lscpu",
        "lsblk",
        "lsof",
        "vmstat",
        "iostat",
        "lsmod",
        "w",
        "who",
        "last",
        "lastlog",
        "users",
        "tty",
        "stty",
        "ulimit",
        "umask",
        "shift",
        "return",
        "exit",
        "break",
        "continue",
        "let",
        "getopts",
        "hash",
        "shopt",
        "nslookup",
        "dig",
        "host",
        "ping",
        "traceroute",
        "tracepath",
        "arch",
        "man",
        "help",
        "info",
        "apropos",
        "factor",
        "numfmt",
        "cal",
        "bc",
        "dc",
        "logname",
        "findmnt",
        "pstree",
        "sar",
        "mpstat",
        "ss",
        "netstat",
        "loginctl",
        "cd",
        "dirs",
        "popd",
        "yes",
        "uuidgen",
        "apt-cache",
        "dpkg-query",
        "hostnamectl",
        "timedatectl",
        "localectl",
        "lspci",
        "lsusb",
        "lshw",
        "dmidecode",
        "getopt",
        "tsort",
        "fc",
        "compgen",
        "complete",
        "bind",
        "disown",
        "suspend",
        "times",
        "exec",
        "unset",
        "loop",
        "logger",
        "mesg",
        "write",
        "wall",
        "ldd",
        "nm",
        "size",
        "getconf",
        "read",
        "dmesg",
        "history",
    ]
)
READS = frozenset(
    [
        "cat",
        "less",
        "more",
        "head",
        "tail",
        "tac",
        "nl",
        "wc",
        "od",
        "xxd",
        "hexdump",
        "strings",
        "file",
        "md5sum",
        "sha1sum",
        "sha224sum",
        "sha256sum",
        "sha384sum",
        "sha512sum",
        "b2sum",
        "cksum",
        "sum",
        "cmp",
        "diff",
        "diff3",
        "sdiff",
        "cut",
        "paste",
        "join",
        "comm",
        "column",
        "fold",
        "fmt",
        "rev",
        "base64",
        "base32",
        "zcat",
        "bzcat",
        "xzcat",
        "zless",
        "jq",
        "yq",
        "bat",
        "batcat",
        "view",
        "expand",
        "unexpand",
        "pr",
        "uniq",
        "sort",
        "tsort",
        "csvlook",
        "xmllint",
        "iconv",
        "objdump",
        "readelf",
        "exiftool",
        "ffprobe",
        "identify",
        "shuf",
        "nano_view",
        "lz4cat",
    ]
)
NAMES = frozenset(
    [
        "ls",
        "tree",
        "du",
        "stat",
        "readlink",
        "realpath",
        "dir",
        "vdir",
        "lsattr",
        "getfacl",
        "namei",
        "exa",
        "eza",
        "locate",
        "mountpoint",
    ]
)
SEARCHES = frozenset(["grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack"])
BUILDS = frozenset(
    [
        "make",
        "cmake",
        "ninja",
        "gcc",
        "g++",
        "cc",
        "c++",
        "clang",
        "clang++",
        "rustc",
        "javac",
        "java",
        "kotlinc",
        "scalac",
        "go",
        "cargo",
        "mvn",
        "gradle",
        "ant",
        "npm",
        "npx",
        "yarn",
        "pnpm",
        "bun",
        "deno",
        "tsc",
        "eslint",
        "prettier",
        "jest",
        "vitest",
        "mocha",
        "pytest",
        "tox",
        "nox",
        "ruff",
        "black",
        "isort",
        "flake8",
        "mypy",
        "pylint",
        "pyright",
        "uv",
        "poetry",
        "pipenv",
        "conda",
        "mamba",
        "hatch",
        "pre-commit",
        "coverage",
        "sphinx-build",
        "mkdocs",
        "jupyter",
        "rake",
        "bundle",
        "rails",
        "composer",
        "phpunit",
        "dotnet",
        "swift",
        "stack",
        "cabal",
        "ghc",
        "ocaml",
        "dune",
        "mix",
        "elixir",
        "terraform",
        "ansible",
        "helm",
        "meson",
        "autoconf",
        "automake",
        "./configure",
        "bazel",
        "ctest",
        "gdb",
        "valgrind",
        "shellcheck",
        "shfmt",
        "hadolint",
        "pdflatex",
        "latexmk",
        "pandoc",
        "convert",
        "magick",
        "ffmpeg",
        "dot",
        "sqlite3",
        "psql",
        "mysql",
        "redis-cli",
        "git-lfs",
        "gh",
        "ld",
        "ar",
        "ranlib",
        "strip",
        "nasm",
        "as",
        "tsx",
        "ts-node",
        "vite",
        "webpack",
        "rollup",
        "next",
        "django-admin",
        "flask",
        "gunicorn",
        "uvicorn",
        "alembic",
    ]
)
EDITORS = frozenset(["vi", "vim", "nano", "emacs", "ed", "ex", "pico", "micro", "nvim"])


def effects_of(call: Call) -> list[Effect]:
    """The effects of a command whose wrappers are off; `unknown` where nobody declared it."""
    verb = call.verb
    words = call.fields[1:]
    if verb in _READERS:
        return _READERS[verb](call)
    if len(words) == 1 and words[0] in ("--version", "--help", "-h", "-V", "-v"):
        return []
    if verb in SILENT:
        return _endless(call)
    if verb in READS:
        return _endless(call) + _reads(call)
    if verb in NAMES:
        letters, operands = options(words)
        return _paths(call, "read", operands or ["."], detail="names", recursive="R" in letters)
    if verb in SEARCHES:
        return _searches(call)
    if verb in BUILDS:
        return _builds(call)
    if verb in EDITORS:
        return _paths(call, "append", options(words)[1], detail="edit")
    if verb.startswith("mkfs"):
        return _paths(
            call,
            "write",
            [options(words, "tLbm")[1][-1]] if options(words, "tLbm")[1] else [UNKNOWN],
            detail="format",
        )
    name = call.fields[0]
    if "/" in name:
        return [*_paths(call, "execute", [name])]
    return [_on(call, "unknown", verb, "system")]


def _on(call: Call, kind: Any, target: str, thing: Any, detail: str = "") -> Effect:
    return Effect(
        kind, target, thing, call.verb, privileged=call.state.privileged, detail=detail,
        resolved=UNKNOWN not in target,
    )  # fmt: skip


def _paths(call: Call, kind: Any, targets: list[str], **more: Any) -> list[Effect]:
    return [
        effect
        for target in targets
        for effect in call.walk.paths(kind, target, call.state, call.verb, **more)
    ]


_BOTTOMLESS = re.compile(r"^/dev/(zero|urandom|random|full)$")


def _endless(call: Call) -> list[Effect]:
    """Producers without an end, where nothing bounds them."""
    words = call.fields[1:]
    bottomless = call.verb == "yes" or any(_BOTTOMLESS.match(each) for each in words)
    if call.verb in ("head", "od", "xxd", "hexdump") and any(
        each.startswith(("-c", "-n", "-N", "-l", "--bytes")) or re.fullmatch(r"-\d+", each) for each in words
    ):
        limit = next((size_of(each) for each in words if size_of(each) is not None), None)
        return [_on(call, "exhaust", "disk", "system", str(limit))] if limit and limit > 2**30 else []
    if not bottomless or call.state.paced or call.verb in ("ls", "stat", "file"):
        return []
    if call.verb == "yes" and call.state.piped:
        return []
    if (
        call.verb == "tail"
        or call.state.piped
        or call.verb in ("cat", "yes", "tac", "sort", "base64", "od", "strings")
    ):
        return [
            _on(
                call,
                "exhaust",
                "memory" if call.verb in ("tail", "tac", "sort") else "disk",
                "system",
                "without end",
            )
        ]
    return [_on(call, "exhaust", "cpu", "system", "without end")]


def size_of(text: str) -> int | None:
    """The bytes in ``10M``, ``-c5G`` or ``bs=1M``; None where it is no size."""
    match = re.search(r"(?:^|=|-c|-n|-l|-s|\+)(\d{1,15})([kKmMgGtTpP]?)(?:i?[bB])?$", text)
    if match is None:
        return None
    power = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}[match[2].lower()]
    return int(int(match[1]) * 1024**power)


def _reads(call: Call) -> list[Effect]:
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
            return _paths(call, "write", operands, detail="edit")
    if call.verb == "sort" and (out := value_of(words, "-o", "--output")):
        found += _paths(call, "write", [out])
    if call.verb in ("uniq", "xxd") and len(operands) > 1:
        found += _paths(call, "write", operands[1:2])
        operands = operands[:1]
    if call.verb == "tail" and ("f" in letters or "F" in letters or "--follow" in letters):
        pass
    return found + _paths(call, "read", operands)


def _searches(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(words, "efmABCdDgt", ("-e", "-f", "--include", "--exclude-dir"))
    if not (value_of(words, "-e", "--regexp", "-f") or call.verb == "x"):
        operands = operands[1:]
    recursive = bool(letters & {"r", "R", "--recursive"}) or call.verb in ("rg", "ag", "ack")
    return _paths(call, "read", operands, recursive=recursive)


def _builds(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb in ("npm", "pnpm", "yarn", "gem") and ("-g" in words or "--global" in words):
        return [_on(call, "package", " ".join(words[:2]), "package", "global")]
    if call.verb in ("gcc", "g++", "cc", "clang", "clang++", "go", "rustc", "ld", "pandoc") and (
        out := value_of(words, "-o")
    ):
        return _paths(call, "write", [out])
    if call.verb == "gdb" and (
        value_of(words, "-p", "--pid") or any(re.fullmatch(r"\d+", each) for each in words)
    ):
        return [_on(call, "trace", value_of(words, "-p", "--pid") or words[-1], "process")]
    if call.verb == "make" and "install" in words:
        return [_on(call, "package", "make install", "package", "make")]
    if call.verb in ("sqlite3", "psql", "mysql", "redis-cli"):
        text = " ".join(words)
        if re.search(
            r"\b(drop|truncate)\s+(table|database|schema)\b|\bdelete\s+from\b(?!.*\bwhere\b)|\bflushall\b|\bflushdb\b",
            text,
            re.I,
        ):
            return [_on(call, "delete", UNKNOWN, "system", "tables")]
    if call.verb == "terraform" and ("destroy" in words or "apply" in words):
        return [_on(call, "unknown", "terraform", "system")]
    return []


def _rm(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:])
    recursive = bool(letters & {"r", "R", "--recursive"}) or (call.verb == "rmdir" and False)
    return _paths(
        call, "delete", operands, recursive=recursive, detail="empty" if call.verb == "rmdir" else ""
    )


def _shred(call: Call) -> list[Effect]:
    return _paths(call, "delete", options(call.fields[1:], "ns")[1], detail="shred")


def _destination(call: Call, valued: str = "tSm") -> tuple[set[str], list[str], str]:
    words = call.fields[1:]
    letters, operands = options(
        words, valued, ("--target-directory", "--mode", "--owner", "--group", "--suffix")
    )
    into = value_of(words, "-t", "--target-directory") if "t" in valued else None
    if into is None and len(operands) > 1:
        return letters, operands[:-1], operands[-1]
    return letters, operands, into or ""


def _cp(call: Call) -> list[Effect]:
    letters, sources, target = _destination(call, "tSmog" if call.verb == "install" else "tSe")
    if call.verb == "install" and "d" in letters:
        return _paths(call, "create", [*sources, target])
    kept = bool(letters & {"n", "--no-clobber", "--update", "u"})
    if call.verb in ("rsync", "scp"):
        found = []
        remote = [each for each in (*sources, target) if re.match(r"^[\w.@-]+:", each)]
        sources = [each for each in sources if each not in remote]
        if target in remote:
            found = [_on(call, "send", target, "host")]
            return found + _paths(call, "read", sources, recursive=True)
        if remote:
            found = [_on(call, "fetch", remote[0], "host")]
        if "--delete" in letters or "--delete-after" in letters:
            found += _paths(call, "delete", [target], recursive=True)
        return (
            found
            + _paths(call, "read", sources, recursive=True)
            + _paths(call, "write", [target], recursive=True, detail="copy")
        )
    found = _paths(call, "read", sources, recursive=bool(letters & {"r", "R", "a"}))
    from_zero = any(_BOTTOMLESS.match(each) for each in sources)
    if from_zero and not target.startswith("/dev/null"):
        found += [_on(call, "exhaust", "disk", "system", "without end")]
    kind = "create" if kept else "write"
    for source in sources:
        found += _paths(call, kind, [target], detail="copy:" + source.rstrip("/").rsplit("/", 1)[-1])
    return found


def _mv(call: Call) -> list[Effect]:
    letters, sources, target = _destination(call, "tS")
    kind = "create" if letters & {"n", "--no-clobber"} else "write"
    found = _paths(call, "move", sources, recursive=True)
    for source in sources:
        found += _paths(call, kind, [target], detail="copy:" + source.rstrip("/").rsplit("/", 1)[-1])
    return found


def _rename(call: Call) -> list[Effect]:
    return _paths(call, "move", options(call.fields[1:])[1][1:])


def _ln(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "tS")
    if len(operands) == 1:
        operands.append(operands[0].rsplit("/", 1)[-1])
    kind = "write" if "f" in letters else "create"
    found = _paths(call, "link", operands[:-1]) + _paths(call, kind, operands[-1:], detail="link")
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


def _chmod(call: Call) -> list[Effect]:
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
    return _paths(call, kind, targets, recursive=recursive, detail=detail)


def _tee(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:])
    return _paths(call, "append" if letters & {"a", "--append"} else "write", operands)


def _sed(call: Call) -> list[Effect]:
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
        found += _paths(call, "write", re.findall(r"(?:^|[;}/])\s*w\s+(\S+)", script[0]))
    if script and re.search(r"(^|[;/}\d])\s*e(\s|$)|/[gip\d]*e[gip]*$", script[0]):
        call.walk.found.unclear("a command in a sed program")
    inplace = any(letter.startswith("i") or letter == "--in-place" for letter in letters)
    return found + _paths(call, "append" if inplace else "read", files, detail="edit" if inplace else "")


def _awk(call: Call) -> list[Effect]:
    words = call.fields[1:]
    _, operands = options(words, "Fvf", ("-i",))
    program = "" if value_of(words, "-f") else (operands[0] if operands else "")
    files = operands if value_of(words, "-f") else operands[1:]
    found: list[Effect] = []
    for text in re.findall(r"system\s*\(\s*\"([^\"]*)\"\s*\)|\|\s*\"([^\"]+)\"", program):
        call.walk.inner(text[0] or text[1], call.inside("awk"))
    if re.search(r"system\s*\(\s*[^\"\s]|\|\s*getline|print[^}]*\|\s*[^\"\s|]", program):
        call.walk.found.unclear("a command in an awk program")
    found += _paths(call, "write", re.findall(r"print[^;}]*>+\s*\"([^\"]+)\"", program))
    if "inplace" in words:
        return found + _paths(call, "append", files, detail="edit")
    return found + _paths(call, "read", [each for each in files if "=" not in each])


def _dd(call: Call) -> list[Effect]:
    given = dict(each.partition("=")[::2] for each in call.fields[1:] if "=" in each)
    found: list[Effect] = []
    source, target = given.get("if", ""), given.get("of", "")
    if source and not _BOTTOMLESS.match(source):
        found += _paths(call, "read", [source])
    if target:
        found += _paths(call, "write", [target], detail="dd")
    if _BOTTOMLESS.match(source) and target not in ("/dev/null", ""):
        block = size_of("=" + given.get("bs", "512")) or 512
        count = given.get("count")
        size = block * int(count) if count and count.isdigit() else None
        if size is None and UNKNOWN not in (count or ""):
            found.append(_on(call, "exhaust", "disk", "system", "without end"))
        elif size is not None and size > 2**30:
            found.append(_on(call, "exhaust", "disk", "system", str(size)))
    return found


def _sized(call: Call) -> list[Effect]:
    words = call.fields[1:]
    operands = options(words, "slorz", ("--size", "--length"))[1]
    size = value_of(words, "-s", "--size", "-l", "--length") or ""
    amount = size_of("=" + size)
    found = _paths(
        call,
        "write" if call.verb == "truncate" else "create",
        operands,
        detail="truncate" if call.verb == "truncate" and not size.startswith("+") else "",
    )
    if amount and amount > 2**30 and call.verb == "fallocate":
        found.append(_on(call, "exhaust", "disk", "system", str(amount)))
    return found


def _creates(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "mdtrZ")
    if call.verb == "mkdir":
        return _paths(call, "create", operands, detail="dir")
    if call.verb == "touch":
        return _paths(call, "create", operands, detail="touch")
    del letters
    return _paths(call, "create", operands[:1])


def _tar(call: Call) -> list[Effect]:
    words = call.fields[1:]
    joined = words[0].lstrip("-") if words else ""
    if joined.startswith("-"):
        joined = ""
    archive = value_of(words, "-f", "--file")
    if archive is None and "f" in joined:
        archive = next((each for each in words[1:] if not each.startswith("-")), None)
    folder = value_of(words, "-C", "--directory")
    operands = [each for each in words[1:] if not each.startswith("-") and each not in (archive, folder)]
    if any(
        each.startswith(("--to-command", "--checkpoint-action", "-I", "--use-compress-program"))
        for each in words
    ):
        call.walk.found.unclear("a program that tar runs")
    if "x" in joined or "--extract" in words:
        found = _paths(call, "read", [archive or "-"]) + _paths(
            call, "create", [folder or "."], recursive=True, detail="unpack"
        )
        return found
    if "c" in joined or "--create" in words:
        if "--remove-files" in words:
            return _paths(call, "delete", operands, recursive=True) + _paths(call, "write", [archive or "-"])
        return _paths(call, "read", operands, recursive=True) + _paths(call, "write", [archive or "-"])
    return _paths(call, "read", [archive or "-"])


def _zip(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "Pdxb")
    if call.verb in ("unzip", "7z", "unrar") and not (operands and operands[0] == "a"):
        folder = value_of(call.fields[1:], "-d") or "."
        return _paths(call, "read", operands[:1]) + (
            [] if "l" in letters else _paths(call, "create", [folder], recursive=True, detail="unpack")
        )
    operands = operands[1:] if call.verb == "7z" else operands
    found = _paths(call, "write", operands[:1]) + _paths(call, "read", operands[1:], recursive=True)
    if "m" in letters or "-sdel" in call.fields:
        found += _paths(call, "delete", operands[1:], recursive=True)
    return found


def _compress(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "S")
    if letters & {"c", "l", "t", "k", "--keep", "--stdout"}:
        return _paths(call, "read", operands)
    return _paths(call, "move", operands, detail="compress", recursive="r" in letters)


def _crypt(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "openssl":
        if not words or (
            words[0] not in ("enc", "aes-256-cbc", "smime", "rsautl", "cms", "pkeyutl")
            and not words[0].startswith(("aes", "des"))
        ):
            return _paths(
                call,
                "write",
                [each for each in (value_of(words, "-out"), value_of(words, "-keyout")) if each],
            )
        source, target = value_of(words, "-in"), value_of(words, "-out")
        found = _paths(call, "read", [source] if source else []) + _paths(
            call, "write", [target] if target else []
        )
        if "-d" in words or "-base64" in words:
            return found
        return found + _paths(call, "encrypt", [source] if source else [])
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
            return _paths(call, "encrypt", operands, recursive="r" in letters) + (
                _paths(call, "delete", operands) if call.verb.startswith("cc") else []
            )
        return _paths(call, "read", operands)
    return _paths(call, "write", options(words)[1][-1:], detail="format")


def _download(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(
        words,
        "oOXHdFuAeTbcmxwUPTtQ",
        (
            "--output",
            "--request",
            "--header",
            "--data",
            "--user",
            "--url",
            "--data-binary",
            "--retry",
            "--max-time",
        ),
    )
    urls = [each for each in operands if each] or (
        [value_of(words, "--url") or ""] if "--url" in letters else []
    )
    data = (
        value_of(words, "-d", "--data", "--data-binary", "-F", "--form", "-T", "--upload-file", "--data-raw")
        if call.verb == "curl"
        else value_of(words, "--post-file", "--post-data", "--body-file")
    )
    found = [_on(call, "send" if data is not None else "fetch", url, "host") for url in urls]
    if data is not None:
        sent = re.search(r"@(.+)", data)
        file = value_of(words, "-T", "--upload-file", "--post-file", "--body-file") or (
            sent[1] if sent else None
        )
        found += _paths(call, "read", [file.split(";")[0]] if file else [])
    out = (
        value_of(words, "-o", "--output")
        if call.verb == "curl"
        else value_of(words, "-O", "--output-document")
    )
    name = urls[0].split("?")[0].rstrip("/").rsplit("/", 1)[-1] if urls else ""
    if out and out != "-":
        found += _paths(call, "write", [out], detail="download")
    elif (call.verb == "wget" and out is None) or (call.verb == "curl" and letters & {"O", "--remote-name"}):
        folder = value_of(words, "-P", "--directory-prefix") if call.verb == "wget" else None
        found += _paths(
            call, "create", [(folder + "/" if folder else "") + (name or "index.html")], detail="download"
        )
    return found


def _net(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb in ("nc", "ncat", "netcat", "socat", "telnet"):
        if any(re.match(r"-\w*[ec]$", each) or "exec:" in each.lower() or each == "--exec" for each in words):
            return [_on(call, "execute", "download", "host", "shell")]
        if any("l" in each for each in words if each.startswith("-")):
            return [_on(call, "fetch", "listen", "host")]
        if any(re.fullmatch(r"-\w*z\w*", each) for each in words):
            return []
        return [_on(call, "send", " ".join(words), "host")]
    if call.verb in ("ssh", "sftp", "ftp", "mosh"):
        return [_on(call, "send", " ".join(words), "host", "remote")]
    return [_on(call, "send", " ".join(words), "host")]


def _kill(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if any(each in ("-l", "-L", "--list") for each in words) or "-0" in words:
        return []
    signal = next((each for each in words if re.fullmatch(r"-(\d+|[A-Z][A-Z0-9]+)", each)), "")
    signal = value_of(words, "-s", "--signal", "-n") or signal
    pids = [
        each
        for each in words
        if each != signal
        and (
            not each.startswith("-")
            or (each in ("-1",) and each != words[0])
            or (re.fullmatch(r"-\d+", each) and each != words[0])
        )
    ]
    pids = [each for each in pids if each not in (signal.lstrip("-"), "--")]
    if words[:1] == ["-1"] and len(words) == 1:
        pids = ["-1"]
    return [_on(call, "kill", each, "process", signal) for each in pids]


def _pkill(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "killall5":
        return [_on(call, "kill", "-1", "process")]
    user = value_of(words, "-u", "-U", "--user", "--euid")
    letters, operands = options(words, "uUsgPt", ("--user", "--euid", "--signal", "-signal"))
    if call.verb == "fuser":
        return [_on(call, "kill", " ".join(operands), "process", "fuser")] if letters & {"k", "-kill"} else []
    if user and not operands:
        return [_on(call, "kill", f"user:{user}", "process")]
    operands = [each for each in operands if not each.isdigit() or len(operands) == 1]
    return [_on(call, "kill", f"name:{each}", "process") for each in operands]


def _renice(call: Call) -> list[Effect]:
    words = call.fields[1:]
    level = value_of(words, "-n", "--priority") or next(
        (each for each in words if re.fullmatch(r"[+-]?\d+", each)), ""
    )
    rest = list(words)
    if level in rest:
        rest.remove(level)
    users = [value_of(words, "-u", "--user", "-g")] if value_of(words, "-u", "--user", "-g") else []
    targets = [each for each in rest if not each.startswith("-")]
    found = [f"user:{each}" for each in users if each] or targets
    return [_on(call, "priority", each, "process", level) for each in found]


def _trace(call: Call) -> list[Effect]:
    words = call.fields[1:]
    targets = [each for each in options(words, "o")[1]] or [value_of(words, "-p", "--pid") or UNKNOWN]
    return [_on(call, "trace", each, "process") for each in targets]


_ACCOUNT_TOOLS = frozenset(
    [
        "useradd",
        "adduser",
        "userdel",
        "deluser",
        "usermod",
        "groupadd",
        "groupdel",
        "groupmod",
        "addgroup",
        "delgroup",
        "gpasswd",
        "chage",
        "newusers",
        "chpasswd",
        "chgpasswd",
        "vipw",
        "vigr",
        "visudo",
        "pwconv",
        "pwunconv",
        "grpconv",
        "faillock",
        "pam_tally2",
        "chfn",
        "chsh",
        "passwd",
    ]
)


def _account(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(
        words,
        "cdegGkKpsuEWIMmLUR" if call.verb in ("useradd", "usermod", "chage") else "",
        ("--groups", "--shell", "--home", "--password", "--gid", "--uid", "--comment"),
    )
    name = operands[-1] if operands else ""
    if call.verb in ("gpasswd", "adduser", "deluser") and operands:
        name = operands[0]
        flagged = value_of(words, "-a", "-d") if call.verb == "gpasswd" else None
        name = flagged or name
    detail = call.verb + (":" + ",".join(sorted(letters)) if letters else "")
    if call.verb in ("passwd", "chpasswd", "chgpasswd", "newusers"):
        if call.verb == "passwd" and letters & {"S", "--status"}:
            return []
        if call.verb == "chpasswd":
            name = (call.stdin or UNKNOWN).partition(":")[0].strip()
        locks = letters & {"l", "u", "e", "d", "--lock", "--unlock", "--expire", "--delete"}
        return [_on(call, "account" if locks else "password", name, "account", detail)]
    if call.verb == "chage" and letters <= {"l", "--list"} and letters:
        return []
    if call.verb == "visudo" and "c" in letters:
        return []
    groups = value_of(words, "-G", "--groups") or ""
    if call.verb in ("gpasswd", "adduser") and len(operands) > 1:
        groups = operands[-1]
    if call.verb == "gpasswd" and operands:
        groups = operands[-1]
    if set(groups.split(",")) & {"sudo", "wheel", "root", "admin", "docker", "shadow", "disk"}:
        detail += ";admin"
    if value_of(words, "-u", "--uid") == "0":
        detail += ";uid0"
    return [_on(call, "account", name, "account", detail)]


def _cron(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "u")
    user = value_of(call.fields[1:], "-u") or ""
    if "l" in letters and "r" not in letters:
        return [_on(call, "read", user or "crontab", "system", "names")] if user else []
    text = call.stdin or ""
    remove = "remove" if "r" in letters else "install"
    found = [_on(call, "cron", user or "own", "system", remove)]
    lines = [
        line
        for line in text.split("\n")
        if line.strip() and not line.startswith("#") and UNKNOWN not in line[:1]
    ]
    for line in lines[:20]:
        parts = line.split(None, 1 if line.startswith("@") else 5)
        if len(parts) > 1:
            call.walk.inner(parts[-1], call.inside("crontab"))
    del operands
    return found


def _service(call: Call) -> list[Effect]:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    if not words:
        return []
    verb = words[0]
    names = words[1:]
    if (call.verb in ("service", "rc-service", "invoke-rc.d") and len(words) > 1) or (
        call.verb in ("update-rc.d", "chkconfig") and len(words) > 1
    ):
        names, verb = [words[0]], words[1]
    if "--user" in call.fields:
        return []
    if verb in (
        "status",
        "show",
        "is-active",
        "is-enabled",
        "list-units",
        "list-unit-files",
        "list-timers",
        "cat",
        "is-failed",
        "list-sockets",
        "list-dependencies",
        "get-default",
        "is-system-running",
        "list-jobs",
        "help",
    ):
        return []
    if verb in (
        "poweroff",
        "reboot",
        "halt",
        "kexec",
        "suspend",
        "hibernate",
        "rescue",
        "emergency",
        "isolate",
        "exit",
        "soft-reboot",
    ):
        return [_on(call, "power", verb, "system")]
    return [_on(call, "service", name.removesuffix(".service"), "service", verb) for name in names or ["*"]]


def _power(call: Call) -> list[Effect]:
    if "-c" in call.fields:
        return []
    return [_on(call, "power", " ".join(call.fields[1:]), "system")]


def _sysctl(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "sysctl" and not any("=" in each or each in ("-w", "-p", "--system") for each in words):
        return []
    if call.verb in ("ip", "ifconfig", "route", "tc", "nmcli", "resolvectl"):
        changing = set(words) & {
            "set",
            "add",
            "del",
            "delete",
            "flush",
            "down",
            "up",
            "replace",
            "disconnect",
            "off",
            "change",
        }
        return [_on(call, "firewall", " ".join(words), "system")] if changing else []
    if call.verb in ("iptables", "ip6tables", "nft", "ufw", "firewall-cmd", "iptables-restore", "ebtables"):
        listing = set(words) & {"-L", "-S", "list", "status", "--list", "--list-all", "--state"}
        return (
            []
            if listing
            else [
                _on(
                    call,
                    "firewall",
                    " ".join(words),
                    "system",
                    "off" if set(words) & {"-F", "flush", "disable", "-P"} else "",
                )
            ]
        )
    return [_on(call, "kernel", " ".join(words), "system")]


def _mount(call: Call) -> list[Effect]:
    operands = options(call.fields[1:], "toUL")[1]
    if not operands and call.verb == "mount" and not any(each.startswith("-a") for each in call.fields[1:]):
        return []
    return [_on(call, "mount", " ".join(operands), "system", call.verb)]


def _package(call: Call) -> list[Effect]:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    verb = words[0] if words else ""
    if call.verb in ("pip", "pip3", "gem", "brew"):
        return (
            []
            if verb not in ("install", "uninstall")
            else [_on(call, "package", " ".join(words[1:]), "package", "own:" + verb)]
        )
    if (
        verb
        in (
            "list",
            "search",
            "show",
            "policy",
            "info",
            "depends",
            "rdepends",
            "changelog",
            "provides",
            "repolist",
            "history",
            "check",
            "madison",
        )
        or not call.fields[1:]
    ):
        return []
    if call.verb in ("dpkg", "rpm") and not re.match(
        r"-\w*[irPeUF]|--(install|remove|purge|erase|upgrade|force|unpack|configure)",
        call.fields[1] if len(call.fields) > 1 else "",
    ):
        return []
    if call.verb in ("dpkg", "rpm"):
        verb = "remove" if re.match(r"-\w*[rPe]|--(remove|purge|erase)", call.fields[1]) else "install"
    if call.verb == "pacman":
        verb = (
            "remove"
            if call.fields[1].startswith("-R")
            else "install"
            if "S" in call.fields[1] and "s" not in call.fields[1]
            else ""
        )
        if not verb:
            return []
    return [_on(call, "package", " ".join(words[1:]), "package", verb)]


def _log(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "journalctl":
        cuts = [each for each in words if each.startswith(("--vacuum", "--rotate", "--flush"))]
        return [_on(call, "log", "journal", "system", cuts[0])] if cuts else []
    if call.verb == "dmesg":
        return [_on(call, "log", "kernel ring", "system")] if set(words) & {"-C", "-c", "--clear"} else []
    if call.verb == "history":
        return [_on(call, "log", "history", "system", "history")] if set(words) & {"-c", "-cw", "-wc"} else []
    if call.verb == "auditctl":
        return [_on(call, "log", "audit", "system")] if set(words) & {"-e", "-D", "-d"} else []
    return [_on(call, "log", " ".join(words), "system")]


def _stress(call: Call) -> list[Effect]:
    return [_on(call, "exhaust", "cpu", "system", "without end")]


def _hostname(call: Call) -> list[Effect]:
    operands = options(call.fields[1:])[1]
    return [_on(call, "kernel", "hostname", "system")] if operands else []


def _git(call: Call) -> list[Effect]:
    words = list(call.fields[1:])
    folder = "."
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("-C", "--git-dir", "--work-tree", "-c") and words:
            value = words.pop(0)
            folder = value if option in ("-C", "--work-tree") else folder
            if option == "-c" and re.match(
                r"(alias|core\.(sshcommand|pager|editor|hookspath)|.*\.(command|helper))", value, re.I
            ):
                call.walk.found.unclear("a program that git runs")
    verb = words[0] if words else ""
    if verb == "clean" and any("f" in each for each in words if each.startswith("-")):
        rest = [each for each in words[1:] if not each.startswith("-")]
        return _paths(call, "delete", rest or [folder + "/*"], recursive=True, detail="clean")
    if verb in ("clone", "fetch", "pull"):
        urls = [each for each in words[1:] if "://" in each or each.startswith("git@")]
        return [_on(call, "fetch", each, "host", "git") for each in urls]
    if verb == "push" and any(
        each in ("-f", "--force", "--mirror", "--delete") or each.startswith("+") for each in words
    ):
        return [_on(call, "send", "remote", "host", "force")]
    if verb == "config" and "--system" in words:
        return _paths(call, "append", ["/etc/gitconfig"])
    return []


def _docker(call: Call) -> list[Effect]:
    words = call.fields[1:]
    text = " ".join(words)
    if re.search(
        r"(-v|--volume|--mount)[ =](type=bind,(source|src)=)?/(etc|usr|root|var|home)?[:,/ ]|--privileged|--pid[ =]host",
        text,
    ):
        return [_on(call, "become", "root", "account", "host mounted")]
    verb = words[0] if words else ""
    if verb in (
        "ps",
        "images",
        "logs",
        "inspect",
        "version",
        "info",
        "stats",
        "top",
        "port",
        "diff",
        "history",
        "search",
    ):
        return []
    if verb in ("build", "compose", "pull", "tag", "run", "start", "create"):
        return []
    return [_on(call, "unknown", call.verb, "system")]


def _split(call: Call) -> list[Effect]:
    return _paths(call, "read", options(call.fields[1:], "lbnaC")[1][:1])


def module_effects(call: Call, module: str, rest: list[str]) -> list[Effect]:
    """What ``python -m MODULE`` does."""
    if module == "pip":
        verb = rest[0] if rest else ""
        return (
            [_on(call, "package", " ".join(rest[1:]), "package", "own:" + verb)]
            if verb in ("install", "uninstall")
            else []
        )
    if module == "venv":
        return _paths(call, "create", [each for each in rest if not each.startswith("-")], recursive=True)
    if module in (
        "json.tool",
        "pytest",
        "unittest",
        "http.server",
        "compileall",
        "timeit",
        "cProfile",
        "pdb",
        "doctest",
        "build",
        "mypy",
        "ruff",
        "black",
        "coverage",
        "this",
        "site",
        "sysconfig",
        "zipfile",
        "tarfile",
        "calendar",
        "platform",
        "ensurepip",
        "flake8",
        "isort",
        "pylint",
        "py_compile",
    ):
        return []
    return _paths(call, "execute", ["./" + module.split(".")[0]])


_READERS: dict[str, Reader] = {
    "rm": _rm, "unlink": _rm, "rmdir": _rm, "srm": _rm, "shred": _shred, "wipe": _shred, "trash": _rm,
    "cp": _cp, "install": _cp, "rsync": _cp, "scp": _cp, "mv": _mv, "rename": _rename, "ln": _ln, "link": _ln,
    "chmod": _chmod, "chown": _chmod, "chgrp": _chmod, "chattr": _chmod, "setfacl": _chmod,
    "tee": _tee, "sponge": _tee, "sed": _sed, "awk": _awk, "gawk": _awk, "mawk": _awk, "dd": _dd,
    "truncate": _sized, "fallocate": _sized, "mkdir": _creates, "touch": _creates, "mkfifo": _creates,
    "mknod": _creates, "mktemp": lambda call: [], "split": _split,
    "tar": _tar, "zip": _zip, "unzip": _zip, "7z": _zip, "gzip": _compress, "gunzip": _compress,
    "bzip2": _compress, "xz": _compress, "zstd": _compress, "bunzip2": _compress, "unxz": _compress,
    "openssl": _crypt, "gpg": _crypt, "gpg2": _crypt, "ccrypt": _crypt, "ccencrypt": _crypt, "age": _crypt,
    "cryptsetup": _crypt, "fdisk": _crypt, "sfdisk": _crypt, "parted": _crypt, "wipefs": _crypt,
    "blkdiscard": _crypt, "mkswap": _crypt, "sgdisk": _crypt, "mke2fs": _crypt,
    "curl": _download, "wget": _download, "aria2c": _download, "nc": _net, "ncat": _net, "netcat": _net,
    "socat": _net, "telnet": _net, "ssh": _net, "sftp": _net, "ftp": _net, "mail": _net, "sendmail": _net,
    "kill": _kill, "skill": _kill, "pkill": _pkill, "killall": _pkill, "killall5": _pkill, "fuser": _pkill,
    "xkill": _pkill, "renice": _renice, "prlimit": _renice, "gcore": _trace, "crontab": _cron,
    "systemctl": _service, "service": _service, "rc-service": _service, "update-rc.d": _service,
    "chkconfig": _service, "invoke-rc.d": _service, "initctl": _service, "snap_service": _service,
    "shutdown": _power, "reboot": _power, "halt": _power, "poweroff": _power, "init": _power, "telinit": _power,
    "sysctl": _sysctl, "modprobe": _sysctl, "insmod": _sysctl, "rmmod": _sysctl, "kexec": _sysctl,
    "setenforce": _sysctl, "swapoff": _sysctl, "swapon": _sysctl, "hwclock": _sysctl, "ip": _sysctl,
    "ifconfig": _sysctl, "route": _sysctl, "tc": _sysctl, "iptables": _sysctl, "ip6tables": _sysctl,
    "nft": _sysctl, "ufw": _sysctl, "firewall-cmd": _sysctl, "nmcli": _sysctl, "hostname": _hostname,
    "mount": _mount, "umount": _mount, "losetup": _mount, "pivot_root": _mount,
    "apt": _package, "apt-get": _package, "aptitude": _package, "dpkg": _package, "yum": _package,
    "dnf": _package, "rpm": _package, "apk": _package, "pacman": _package, "zypper": _package,
    "snap": _package, "pip": _package, "pip3": _package, "gem": _package, "brew": _package,
    "journalctl": _log, "logrotate": _log, "auditctl": _log, "dmesg": _log, "history": _log,
    "stress": _stress, "stress-ng": _stress, "git": _git, "docker": _docker, "podman": _docker,
    "patch": lambda call: _paths(call, "append", options(call.fields[1:], "pidor")[1][:1], detail="edit"),
    **dict.fromkeys(_ACCOUNT_TOOLS, _account),
}  # fmt: skip
