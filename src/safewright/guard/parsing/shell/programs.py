"""Programs on a command line in another language: what they do to files and processes, read with ast."""

from __future__ import annotations

import ast
import base64
import posixpath
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from safewright.guard.parsing.shell.computing import number_of
from safewright.guard.parsing.shell.exhausting import MANY_IDS, is_long
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Effect
from safewright.guard.parsing.shell.state import HOME, MOST_TEXT

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call

Read = tuple[list[Effect], list[str], list[str]]
_DELETES = ("os.remove", "os.unlink", "os.rmdir", "os.removedirs", "shutil.rmtree")
_TWO = ("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "os.link", "os.symlink")
_MOVES = ("shutil.move", "os.rename", "os.replace", "os.renames")
_RUNS = (
    "os.system", "os.popen", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.getoutput",
    "subprocess.check_output", "subprocess.Popen", "subprocess.getstatusoutput", "os.execv", "os.execvp", "os.execl",
    "os.execlp", "pty.spawn", "os.spawnlp",
)  # fmt: skip
_FETCHES = ("urllib.", "requests.", "socket.", "http.client", "httpx.")
_SIZED = frozenset(
    [
        "bytearray",
        "bytes",
        "list",
        "tuple",
        "set",
        "sorted",
        "ljust",
        "rjust",
        "zfill",
        "center",
        "urandom",
        "zeros",
        "ones",
        "empty",
        "full",
        "arange",
        "rand",
        "token_bytes",
        "token_hex",
        "randbytes",
        "truncate",
        "posix_fallocate",
    ]
)
MOST_APPARENT = 2**40
MOST_STEPS = 20_000
MOST_MEMORY = 2**30
_DARK = ("ctypes", "importlib", "cffi", "marshal", "pickle")


def read_python(program: str, arguments: tuple[str, ...], call: Call) -> Read:
    """A Python program's effects, the shell commands it runs, and what of it cannot be told."""
    if UNKNOWN in program:
        return [], [], ["a program that is not known"]
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], [], ["a Python program that cannot be parsed"]
    reader = _Python(call, arguments)
    try:
        reader.visit(tree)
    except RecursionError:
        reader.unclear.append("a Python program that is too long, or nested too deeply")
    return reader.effects, reader.scripts, reader.unclear


class _Python(ast.NodeVisitor):
    def __init__(self, call: Call, arguments: tuple[str, ...]) -> None:
        self.call, self.arguments = call, arguments
        self.effects: list[Effect] = []
        self.scripts: list[str] = []
        self.unclear: list[str] = []
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.names_of: dict[str, list[str]] = {}
        self.numbers: dict[str, str] = {}
        self.sequences: set[str] = set()
        self.locks = False
        self.steps = 0

    def visit(self, node: ast.AST) -> Any:
        """Visit a node; loops are read several times, so nodes are counted.

        Raises:
            RecursionError: There were too many.
        """
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise RecursionError("too long a program")
        return super().visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )
            if alias.name.split(".")[0] in _DARK:
                self.unclear.append(f"a program that uses {alias.name}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        if (node.module or "").split(".")[0] in _DARK:
            self.unclear.append(f"a program that uses {node.module}")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                known = self.values.get(target.id)
                value = self.text(node.value)
                value = value if len(value) <= MOST_TEXT else UNKNOWN
                self.values[target.id] = value if known is None or known == value else UNKNOWN
                (self.sequences.add if self.sequence(node.value) else self.sequences.discard)(target.id)
                number = self.number(node.value)
                if number is not None:
                    self.numbers[target.id] = str(number)
                else:
                    self.numbers.pop(target.id, None)
                if isinstance(node.value, ast.Attribute):
                    self.names[target.id] = self.name(node.value)

    def sequence(self, node: ast.expr) -> bool:
        """Whether a value is a text or a list, of which a product is as many of them."""
        if isinstance(node, ast.Constant):
            return isinstance(node.value, (str, bytes))
        if isinstance(node, ast.Name):
            return node.id in self.sequences
        if isinstance(node, ast.BinOp):
            return self.sequence(node.left) or (isinstance(node.op, ast.Mult) and self.sequence(node.right))
        if isinstance(node, ast.Call):
            return self.name(node.func) in ("str", "bytes", "bytearray", "list", "tuple", "os.urandom")
        return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp))

    def number(self, node: ast.expr | None) -> int | None:
        """The whole number that an expression comes to, names that were given one among it."""
        if isinstance(node, ast.Call) and self.name(node.func) == "int" and node.args:
            node = node.args[0]
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and abs(node.value) < 1e15:
            return int(node.value)
        return None if node is None else number_of(node, self.numbers.get)

    def sized(self, name: str, node: ast.Call) -> None:
        """Calls that make something as large as they are told."""
        plain = name.rsplit(".", 1)[-1]
        at = 1 if plain in ("truncate", "posix_fallocate") and name.startswith("os.") else 0
        at = 2 if plain == "posix_fallocate" else at
        size = self.number(node.args[at]) if len(node.args) > at else None
        if plain in ("list", "tuple", "set", "sorted", "bytearray", "bytes") and node.args:
            inner = node.args[0]
            held = _range(inner, self.numbers.get) if isinstance(inner, ast.Call) else None
            size = held * 8 if held is not None else size if plain.startswith("byte") else None
        elif name.startswith(("numpy.", "np.", "torch.", "array.")):
            size = size * 8 if size is not None else None
        if size is not None and size > (MOST_APPARENT if plain == "truncate" else MOST_MEMORY):
            self.add(
                "exhaust",
                "disk" if plain in ("truncate", "posix_fallocate") else "memory",
                "system",
                detail=str(size),
            )

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.generic_visit(node)
        if isinstance(node.op, (ast.Pow, ast.LShift)):
            base = self.number(node.left) if isinstance(node.op, ast.Pow) else 2
            power = self.number(node.right)
            if (
                base is not None
                and power is not None
                and abs(base) > 1
                and power * abs(base).bit_length() > MOST_MEMORY
            ):
                self.add("exhaust", "cpu", "system", detail="a number of that length")
        if isinstance(node.op, ast.Mult):
            for one, two in ((node.left, node.right), (node.right, node.left)):
                size = (
                    len(one.value)
                    if isinstance(one, ast.Constant) and isinstance(one.value, (str, bytes))
                    else 0
                )
                size = size or (8 if isinstance(one, (ast.List, ast.Tuple)) else 0)
                named = isinstance(one, ast.Name) and one.id in self.sequences
                size = size or (1 if named else 0)
                times = self.number(two) if size else None
                if times is not None and times * size > MOST_MEMORY:
                    self.add("exhaust", "memory", "system", detail=str(times * size))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        times = self.number(node.value) if isinstance(node.op, ast.Mult) else None
        name = node.target.id if isinstance(node.target, ast.Name) else ""
        if times is not None and times > MOST_MEMORY and name in self.sequences:
            self.add("exhaust", "memory", "system", detail=str(times))

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.comprehended(node.generators, [node.elt])

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self.comprehended(node.generators, [node.elt])

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.comprehended(node.generators, [node.elt])

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.comprehended(node.generators, [node.key, node.value])

    def comprehended(self, generators: list[ast.comprehension], parts: list[ast.expr]) -> None:
        """A comprehension is a loop."""
        before = len(self.effects) + len(self.scripts)
        count = 1
        for each in generators:
            self.visit(each.iter)
            self.bind(each.target, self.listing(each.iter), each.iter)
            count *= _range(each.iter) or 1
        for part in (*parts, *(test for each in generators for test in each.ifs)):
            self.visit(part)
        self.repeated(count, before)

    def repeated(self, count: int, before: int) -> None:
        """What a loop of so many rounds comes to, by what was found in it."""
        if count >= MANY_IDS and any(each.kind == "kill" and SCALAR in each.target for each in self.effects):
            self.add("kill", "name:*", "process")
        if count > 10**10:
            self.add("exhaust", "cpu", "system", detail=f"{count} times")
        elif count >= 1000 and len(self.effects) + len(self.scripts) > before:
            self.add("exhaust", "disk", "system", detail=f"{count} times")

    def bind(self, target: ast.expr, listed: list[str] | None, source: ast.expr) -> None:
        """Give a loop's names their first values."""
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        walked = isinstance(source, ast.Call) and self.name(source.func) in ("os.walk", "os.fwalk")
        number = _range(source) is not None
        for at, each in enumerate(targets):
            if isinstance(each, ast.Name):
                first = listed[0] if listed and (at == 0 or len(targets) == 1) else None
                self.values[each.id] = first if first is not None else SCALAR if number else UNKNOWN
                if walked and at:
                    self.names_of[each.id] = ["*"]

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        listed = self.listing(node.iter)
        targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
        self.bind(node.target, listed, node.iter)
        options = listed if listed and len(listed) <= 16 and len(targets) == 1 else [None]
        count = _range(node.iter)
        before = len(self.effects) + len(self.scripts)
        for option in options:
            if option is not None and isinstance(node.target, ast.Name):
                self.values[node.target.id] = option
            for child in node.body:
                self.visit(child)
        self.repeated(count or 1, before)

    def visit_While(self, node: ast.While) -> None:
        endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
        said = ast.dump(node)
        endless = endless and "Break" not in said and "Return" not in said
        self.generic_visit(node)
        if endless and "'sleep'" not in said:
            self.add(
                "exhaust",
                "memory" if "append" in said or "AugAssign" in said else "cpu",
                "system",
                detail="without end",
            )

    def listing(self, node: ast.expr) -> list[str] | None:
        """The values a loop goes over, as far as they are known: paths of a folder are patterns."""
        if isinstance(node, ast.Name):
            return self.names_of.get(node.id)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return [self.text(each) for each in node.elts]
        if isinstance(node, ast.Call):
            name = self.name(node.func)
            if name in ("glob.glob", "glob.iglob") and node.args:
                return [self.text(node.args[0])]
            if name == "os.walk" and node.args:
                return [self.text(node.args[0]).rstrip("/") + "/**"]
            if name == "os.listdir" and node.args:
                return ["*"]
            if name.endswith((".rglob", ".glob", ".iterdir")) and isinstance(node.func, ast.Attribute):
                return [self.text(node.func.value).rstrip("/") + "/**"]
            if name in ("sorted", "list", "reversed", "set", "enumerate") and node.args:
                return self.listing(node.args[0])
        return None

    def name(self, node: ast.expr) -> str:
        """A dotted name, imports and aliases resolved."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.name(node.value)}.{node.attr}"
        if isinstance(node, ast.Call):
            inner = self.name(node.func)
            if inner in ("__import__", "importlib.import_module") and node.args:
                return self.text(node.args[0])
            if inner == "getattr" and len(node.args) > 1:
                return f"{self.name(node.args[0])}.{self.text(node.args[1])}"
            return inner + "()"
        return "?"

    def text(self, node: ast.expr | None) -> str:
        """The text a value is; `UNKNOWN` in it for what cannot be told."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bytes):
                return node.value.decode("utf-8", "replace")
            return str(node.value)
        if isinstance(node, ast.Name):
            value = self.values.get(node.id, UNKNOWN)
            return value if isinstance(value, str) else UNKNOWN
        if isinstance(node, ast.JoinedStr):
            return "".join(
                self.text(part.value) if isinstance(part, ast.FormattedValue) else self.text(part)
                for part in node.values
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.text(node.left) + self.text(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return posixpath.join(self.text(node.left), self.text(node.right))
        if isinstance(node, ast.Subscript) and self.name(node.value) in ("os.environ", "sys.argv"):
            key = self.text(node.slice)
            if self.name(node.value) == "sys.argv" and key.isdigit() and 0 < int(key) <= len(self.arguments):
                return self.arguments[int(key) - 1]
            return HOME if key == "HOME" else UNKNOWN
        if isinstance(node, ast.Call):
            return self.called(node)
        return UNKNOWN

    def called(self, node: ast.Call) -> str:
        name, given = self.name(node.func), [self.text(each) for each in node.args]
        if (
            name
            in (
                "os.path.join",
                "pathlib.Path",
                "Path",
                "pathlib.PurePath",
                "str",
                "os.fspath",
                "pathlib.PosixPath",
            )
            and given
        ):
            return posixpath.join(*given)
        if name == "os.path.expanduser" and given:
            return HOME + given[0][1:] if given[0].startswith("~") else given[0]
        if name in ("pathlib.Path.home", "Path.home"):
            return HOME
        if name in ("base64.b64decode",) and given:
            try:
                return base64.b64decode(given[0]).decode("utf-8", "replace")
            except ValueError:
                return UNKNOWN
        if name == "bytes.fromhex" and given:
            try:
                return bytes.fromhex(given[0]).decode("utf-8", "replace")
            except ValueError:
                return UNKNOWN
        if name == "chr" and given and given[0].isdigit() and int(given[0]) < 0x110000:
            return chr(int(given[0]))
        if isinstance(node.func, ast.Attribute) and node.func.attr in (
            "decode",
            "encode",
            "strip",
            "expanduser",
            "resolve",
            "absolute",
        ):
            inner = self.text(node.func.value)
            return HOME + inner[1:] if node.func.attr == "expanduser" and inner.startswith("~") else inner
        if isinstance(node.func, ast.Attribute) and node.func.attr == "join" and len(node.args) == 1:
            if isinstance(node.args[0], (ast.List, ast.Tuple)):
                return self.text(node.func.value).join(self.text(each) for each in node.args[0].elts)
            if isinstance(node.args[0], (ast.Call, ast.GeneratorExp, ast.ListComp)):
                return UNKNOWN
        return UNKNOWN

    def add(
        self, kind: Any, target: str, thing: Any = "path", detail: str = "", *, recursive: bool = False
    ) -> None:
        """Note an effect."""
        state = self.call.state
        if thing == "path":
            self.effects += self.call.walk.paths(
                kind, target, state, self.call.verb, detail=detail, recursive=recursive
            )
        else:
            self.effects.append(
                Effect(
                    kind,
                    target,
                    thing,
                    self.call.verb,
                    privileged=state.privileged,
                    detail=detail,
                    resolved=UNKNOWN not in target,
                )
            )

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name, given = self.name(node.func), node.args
        one = self.text(given[0]) if given else UNKNOWN
        two = self.text(given[1]) if len(given) > 1 else UNKNOWN
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name.rsplit(".", 1)[-1] in _SIZED:
            self.sized(name, node)
        if name in _DELETES:
            self.add("delete", one, recursive=name.endswith("rmtree"))
        elif name in _TWO:
            self.add("read", one)
            self.add("write", two, detail="copy:" + one.rsplit("/", 1)[-1])
        elif name in _MOVES:
            self.add("move", one)
            self.add("write", two, detail="copy:" + one.rsplit("/", 1)[-1])
        elif name in ("os.chmod", "os.chown", "os.lchown", "shutil.chown"):
            mode = self.mode(given[1]) if name == "os.chmod" and len(given) > 1 else two
            self.add("chmod" if name == "os.chmod" else "chown", one, detail=mode)
        elif name in ("os.kill", "os.killpg"):
            negative = (
                isinstance(given[0], ast.UnaryOp) and isinstance(given[0].op, ast.USub) if given else False
            )
            self.add("kill", "-1" if negative else one, "process", two)
        elif name in ("os.nice", "os.setpriority"):
            pass
        elif name == "os.fork" or name == "os.forkpty":
            self.add("exhaust", "processes", "system", detail="forks")
        elif name in ("os.truncate",):
            self.add("write", one, detail="truncate")
        elif name in ("os.makedirs", "os.mkdir"):
            self.add("create", one, detail="dir")
        elif name in ("open", "io.open", "os.open", "codecs.open"):
            mode = (
                two
                if len(given) > 1
                else next((self.text(k.value) for k in node.keywords if k.arg == "mode"), "r")
            )
            kind = (
                "append"
                if "a" in mode or "+" in mode
                else "write"
                if "w" in mode or "x" in mode or name == "os.open"
                else "read"
            )
            self.add("unknown" if UNKNOWN in mode else kind, one)
        elif name in _RUNS:
            self.run(given[0] if given else None, node)
        elif name in ("exec", "eval", "compile"):
            inside = [each for arg in given for each in ast.walk(arg) if isinstance(each, ast.Call)]
            if any(self.name(each.func).startswith(_FETCHES) for each in inside):
                self.add("execute", "download", "host")
            self.again(one)
        elif name in ("fcntl.flock", "fcntl.lockf"):
            self.locks = True
        elif name == "time.sleep":
            if self.locks and is_long(one):
                self.add("exhaust", "lock", "system", detail="held long")
        elif name.startswith(("urllib.", "requests.", "socket.", "http.client", "ftplib", "smtplib")):
            sends = method in ("post", "put", "send", "sendall", "connect", "sendmail")
            self.add("send" if sends else "fetch", one, "host")
        elif name in ("__import__",) and one.split(".")[0] in _DARK:
            self.unclear.append(f"a program that uses {one}")
        elif name == "getattr" and UNKNOWN in two:
            self.unclear.append("a function that is not known")
        elif (method in ("unlink", "rmdir") and "Path" in name) or method == "unlink":
            self.add(
                "delete", self.text(node.func.value) if isinstance(node.func, ast.Attribute) else UNKNOWN
            )
        elif method in (
            "write_text",
            "write_bytes",
            "touch",
            "read_text",
            "read_bytes",
            "chmod",
            "rename",
            "mkdir",
        ) and isinstance(node.func, ast.Attribute):
            kinds: dict[str, Any] = {"touch": "create", "mkdir": "create", "chmod": "chmod", "rename": "move"}
            kind = kinds.get(method, "read" if method.startswith("read") else "write")
            self.add(kind, self.text(node.func.value), detail=one if method == "chmod" else "")

    def mode(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return format(node.value, "o")
        return UNKNOWN

    def run(self, node: ast.expr | None, whole: ast.Call) -> None:
        if isinstance(node, (ast.List, ast.Tuple)):
            from safewright.guard.parsing.shell.calls import requoted

            text = " ".join(requoted(self.text(each)) for each in node.elts)
        else:
            text = self.text(node)
        if text.strip(UNKNOWN + " ") == "":
            self.unclear.append("a command of a program")
        else:
            self.scripts.append(text)

    def again(self, text: str) -> None:
        if UNKNOWN in text:
            self.unclear.append("a program made by a program")
            return
        effects, scripts, unclear = read_python(text, self.arguments, self.call)
        self.effects += effects
        self.scripts += scripts
        self.unclear += unclear


def _range(node: ast.expr, known: Callable[[str], str | None] = lambda name: None) -> int | None:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "range"
        and node.args
    ):
        last = node.args[1] if len(node.args) > 1 else node.args[0]
        return number_of(last, known)
    return None


_QUOTED = r"""(?:'([^']*)'|"([^"]*)"|q[qw]?[({]([^)}]*)[)}])"""
_FOREVER = re.compile(
    r"\bwhile\s*\(?\s*(?:1|true)\b|\bfor\s*\(\s*;\s*;|\bloop\s*(?:\{|do\b)|\buntil\s*\(?\s*0\b"
)
_ACTIVE = re.compile(
    r"\b(system|exec|unlink|rmtree|rmdir|rename|open|chmod|chown|kill|fork|eval|require|readFile|writeFile|spawn|File|"
    r"FileUtils|IO|Dir|fs|child_process|shell_exec|passthru|popen|socket|fetch|http)\b|`"
)


_REPEATED = re.compile(
    r"(?:['\")\]]\s*(?:x=?|\*)\s*|(?:repeat|alloc|allocUnsafe|padStart|padEnd|padEnd|str_repeat|fill|Array|Array\.new|ArrayBuffer"
    r"|Uint8Array|range)\(\s*(?:'[^']*'\s*,\s*|\"[^\"]*\"\s*,\s*)?)(\d[\d_]{0,18})(?:\s*\*\*\s*(\d{1,3})|e(\d{1,3}))?"
)
"""Something made by repeating: its count, and a power or an exponent."""


def _huge(match: re.Match[str]) -> bool:
    base = int(match[1].replace("_", ""))
    power = int(match[2] or 1)
    return base.bit_length() * power > 200 or base**power * 10 ** min(int(match[3] or 0), 60) > MOST_MEMORY


def read_other(language: str, program: str, call: Call) -> Read:
    """A program in perl, ruby, node or php: single calls with plain texts are read, the rest is not known."""
    effects: list[Effect] = []
    scripts: list[str] = []
    left = program
    for match in re.finditer(
        rf"\b(?:system|exec|execSync|shell_exec|passthru)\s*\(?\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*", program
    ):
        pieces = list(re.findall(_QUOTED, match[0]))
        scripts.append(" ".join(next((part for part in piece if part), "") for piece in pieces))
        left = left.replace(match[0], "")
    deletes = r"(?:unlink|rmtree|rmdir|unlinkSync|rmSync|rm_rf|File\.delete|rmdirSync|remove_tree)"
    if language in ("perl", "ruby", "php"):
        for match in re.finditer(
            r"`([^`]*)`|(?:\bqx\s*|%x)(?:\{([^}]*)\}|\(([^)]*)\)|/([^/]*)/|\[([^\]]*)\]|!([^!]*)!|\|([^|]*)\|)",
            left,
        ):
            said = next((each for each in match.groups() if each), "")
            scripts.append(re.sub(r"[$@#]\{?\w+\}?", UNKNOWN, said))
            left = left.replace(match[0], "")
    if _FOREVER.search(left) and not re.search(
        r"\b(sleep|last|break|exit|return|die|usleep|setTimeout)\b", left
    ):
        effects.append(Effect("exhaust", "memory", "system", call.verb, detail="without end"))
    for match in re.finditer(rf"\b{deletes}\s*\(?\s*(?:glob\s*\(?\s*)?(?:{_QUOTED}|<([^<>$]+)>)", program):
        effects += call.walk.paths(
            "delete",
            next((each for each in match.groups() if each), ""),
            call.state,
            call.verb,
            recursive=True,
        )
        left = left.replace(match[0], "")
    if any(_huge(match) for match in _REPEATED.finditer(left)):
        effects.append(Effect("exhaust", "memory", "system", call.verb, detail="of that size"))
    if re.search(r"\bfork\b", left) and re.search(r"\bwhile\b|\bfor\b|\bloop\b|while\(1\)", left):
        effects.append(Effect("exhaust", "processes", "system", call.verb, detail="forks"))
    left = re.sub(
        r"\b(?:require|use)\s*\(?['\"]?(?:fs|child_process|fileutils|File::Path)['\"]?\)?[.;]?", "", left
    )
    left = re.sub(r"\brequire\s*\(\s*['\"][./\w-]+\.json['\"]\s*\)", "", left)
    unclear = [f"a {language} program"] if _ACTIVE.search(left) else []
    return effects, scripts, unclear
