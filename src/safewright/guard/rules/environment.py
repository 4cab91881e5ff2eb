"""What text cannot tell: read-only probes of the place where a shell command would run.

The same `rm notes.txt` is harmless in one place and not in another. Asked are owner, group and mode for the declared
principal, whether a destination exists, where links lead, how many files a pattern means, and how much space is left.
Where there is no environment the family says nothing; a probe that fails is unknown.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from safewright.guard.nouns import Check, CheckStatus, Entry, Environment
from safewright.guard.parsing.shell.model import SCALAR, Effect, under
from safewright.guard.parsing.shell.state import has_glob
from safewright.guard.rules._shell_paths import Place
from safewright.guard.rules.base import Family, Rule
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[environment]`` of a policy file.

    Args:
        enabled: Whether the family is asked.
        overwrite: What replacing an existing file comes to: `fail`, `unknown`, or `pass`.
        most_matches: A deleting pattern that means more files than this is unknown.
        least_free: A write with less than these bytes left on its file system fails.
        ignored: Places where replacing a file loses nothing.
    """

    enabled: bool = True
    overwrite: str = "fail"
    most_matches: int = 100
    least_free: int = 10 * 2**20
    ignored: tuple[str, ...] = ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty")


PERMITTED = Rule(
    "environment.permitted", "confidentiality", "The user may do this to what is there, by owner and mode."
)
OVERWRITES = Rule("environment.overwrites", "integrity", "Nothing that exists is replaced unasked.")
OWNED = Rule("environment.owned", "integrity", "What is removed or changed is the user's own.")
ESCAPES = Rule("environment.escapes", "integrity", "Links lead nowhere that the user could not go by name.")
COUNTED = Rule("environment.counted", "availability", "A pattern means as many files as one would expect.")
SPACE = Rule("environment.space", "availability", "There is space left for what is written.")
ANSWERED = Rule("environment.answered", "integrity", "The probes could be answered.")
RULES = (PERMITTED, OVERWRITES, OWNED, ESCAPES, COUNTED, SPACE, ANSWERED)
_NEEDS = {"read": 4, "append": 2, "write": 2, "encrypt": 4, "execute": 4}
_HOPS = 20
_FOLDERS = 1_000
_CORE = ("/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/var/lib", "/var/log")
_ASKED = re.compile(r"\b(overwrit|replac|truncat)\w*", re.I)
"""Words of a request that mean an existing file may be replaced."""

Finding = tuple[Rule, CheckStatus, str, str]


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call: the worst of each rule."""
    environment, script = view.action.environment, view.script
    if environment is None or script is None:
        return ()
    who = Place.of(view, None)
    worst: dict[str, Check] = {}
    try:
        if _ASKED.search(view.action.request or ""):
            settings = replace(settings, overwrite="pass")
        prober = _Prober(environment, who, settings)
        for effect in script.effects:
            if effect.thing != "path" or not effect.resolved:
                continue
            for rule, status, evidence, advice in prober.judged(effect):
                old = worst.get(rule.id)
                if old is None or _RANK[status] > _RANK[old.status]:
                    worst[rule.id] = rule.says(status, evidence, advice, method="probe")
    except Exception as error:  # noqa: BLE001 - whatever a probe dies of, it has not answered
        advice = "The place where this would run could not be looked at. Try again."
        said = f"{type(error).__name__}: {error}"[:300]
        worst[ANSWERED.id] = ANSWERED.says("unknown", said, advice, method="probe")
    return list(worst.values())


_RANK = {"pass": 0, "unknown": 1, "fail": 2, "deleted": 0}


class _Prober:
    """Questions about one call, each asked once."""

    def __init__(self, environment: Environment, who: Place, settings: Settings) -> None:
        self.environment, self.who, self.settings = environment, who, settings
        self._known: dict[str, Entry | None] = {}
        self._listed: dict[str, tuple[str, ...]] = {}
        self._expanded: dict[str, list[str]] = {}
        self._groups: frozenset[str] | None = None
        self.made: set[str] = set()
        self.gone: set[str] = set()
        self.opened: set[str] = set()

    def entry(self, path: str) -> Entry | None:
        """What is at a path, not followed."""
        if path not in self._known:
            self._known[path] = self.environment.stat(path)
        return self._known[path]

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, links not followed; none where it is none.

        Raises:
            OSError: Too many folders were to be listed.
        """
        if folder not in self._listed:
            if len(self._listed) >= _FOLDERS:
                raise OSError(f"more than {_FOLDERS} folders are to be listed")
            self._listed[folder] = tuple(self.environment.listdir(folder) or ())
        return self._listed[folder]

    def real(self, path: str) -> str:
        """Where a path leads, links followed."""
        hops = 0
        parts = [part for part in path.split("/") if part]
        done = "/"
        while parts:
            part = parts.pop(0)
            if part == "..":
                done = posixpath.dirname(done)
                continue
            here = posixpath.join(done, part)
            found = self.entry(here)
            if found is not None and found.type == "link" and found.target and hops < _HOPS:
                hops += 1
                target = found.target if found.target.startswith("/") else posixpath.join(done, found.target)
                parts = [each for each in target.split("/") if each] + parts
                done = "/"
            else:
                done = here
        return done

    def may(self, path: str, want: int) -> bool:
        """Whether the principal may read (4), write (2) or enter (1) what is at a real path that exists."""
        found = self.entry(path)
        if found is None or self.who.privileged:
            return True
        if self._groups is None:
            self._groups = self.environment.groups(self.who.user)
        shift = 6 if found.owner == self.who.user else 3 if found.group in self._groups else 0
        return bool((found.mode >> shift) & want)

    def reachable(self, path: str) -> str | None:
        """The first folder above a path that the principal may not enter."""
        folders = []
        folder = posixpath.dirname(path)
        while folder != "/":
            folders.append(folder)
            folder = posixpath.dirname(folder)
        return next((each for each in reversed(folders) if not self.may(each, 1)), None)

    def expanded(self, path: str) -> list[str]:
        """The paths that a pattern means, links not followed; itself where it is none."""
        if path not in self._expanded:
            self._expanded[path] = self._expand(path)
        return self._expanded[path]

    def _expand(self, path: str) -> list[str]:
        if not has_glob(path):
            return [path]
        found = ["/"]
        parts = [part for part in path.split("/") if part]
        for at, part in enumerate(parts):
            if part == "**":
                return self._below(found, parts[at + 1] if at + 1 < len(parts) else "*")
            if not any(mark in part for mark in "*?["):
                found = [posixpath.join(each, part) for each in found]
                continue
            found = [
                posixpath.join(each, name)
                for each in found
                for name in self.names(self.real(each))
                if fnmatch.fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))
            ]
        return found

    def _below(self, roots: list[str], pattern: str) -> list[str]:
        found: list[str] = []
        todo = list(roots)
        while todo and len(found) <= 10 * self.settings.most_matches:
            folder = todo.pop()
            for name in self.names(folder):
                path = posixpath.join(folder, name)
                if fnmatch.fnmatchcase(name, pattern):
                    found.append(path)
                entry = self.entry(path)
                if entry is not None and entry.type == "dir":
                    todo.append(path)
        return found

    def judged(self, effect: Effect) -> Iterator[Finding]:
        """What the probes say of an effect."""
        path = self.who.absolute(effect.target)
        if path in self.settings.ignored or SCALAR in path:
            return
        paths = self.expanded(path)
        if effect.kind in ("delete", "move") and len(paths) > self.settings.most_matches:
            yield (COUNTED, "unknown", f"{len(paths)} paths", "This means many files. Name fewer of them.")
        for each in paths[: self.settings.most_matches]:
            copied = list(self._copied(effect, each)) if effect.detail.startswith("copy:") else [effect]
            for one in copied[: self.settings.most_matches]:
                yield from self._one(one, one.target if one.detail == "merge" else each)

    def _copied(self, effect: Effect, path: str) -> Iterator[Effect]:
        """A copy's effects by what its source holds: of a pattern each match, of a folder's content each name."""
        source = self.who.absolute(effect.source) if effect.source else ""
        if SCALAR in source or not effect.source:
            yield effect
            return
        contents = effect.source.endswith("/")
        found = self.expanded(source) if has_glob(source) else [source]
        for each in found or [source]:
            names = self.names(self.real(each)) if contents else (posixpath.basename(each),)
            for held in names:
                yield replace(effect, detail=f"copy:{held}")
                inside = posixpath.join(each, held) if contents else each
                entry = self.entry(inside)
                if entry is not None and entry.type == "dir" and effect.verb != "mv":
                    yield from self._merged(effect, inside, path, held)

    def _merged(self, effect: Effect, folder: str, path: str, name: str) -> Iterator[Effect]:
        """The files that a copied folder would replace in a folder of its name that is there already."""
        there = self.real(posixpath.join(path, name))
        if self.entry(there) is None:
            return
        for each in self._below([folder], "*")[: self.settings.most_matches]:
            inside, rest = self.entry(each), each.removeprefix(folder + "/")
            if inside is not None and inside.type != "dir" and self.entry(f"{there}/{rest}") is not None:
                yield replace(effect, target=f"{there}/{rest}", detail="merge")

    def _one(self, effect: Effect, path: str) -> Iterator[Finding]:
        kind = effect.kind
        above = self.real(posixpath.dirname(path))
        place = posixpath.join(above, posixpath.basename(path)) if path != "/" else "/"
        into_it = False
        if kind in ("write", "create", "append") and effect.detail.startswith("copy:"):
            into = self.entry(self.real(path))
            if into is not None and into.type == "dir":
                above = self.real(path)
                place = posixpath.join(above, effect.detail[5:])
                into_it = True
        target = (
            self.real(place)
            if kind in ("read", "write", "append", "chmod", "chown", "execute", "encrypt")
            else place
        )
        found = None if place in self.gone else self.entry(target)
        blocked = self.reachable(target)
        if blocked is not None:
            yield (
                PERMITTED,
                "fail",
                f"{kind} {target}: {blocked} may not be entered",
                "Use files this user may reach.",
            )
            return
        if (
            kind in ("delete", "move", "write", "append", "chmod", "chown")
            and target != path
            and self._leaves(path, target)
        ):
            yield (
                ESCAPES,
                "fail",
                f"{path} leads to {target}",
                "A link leads elsewhere. Name the real file.",
            )
        yield from self._permitted(kind, target, above, found, effect)
        if (
            kind == "write"
            and found is not None
            and (found.type in ("file", "other") or (found.type == "dir" and effect.verb == "mv" and into_it))
            and place not in self.made
        ):
            status = self.settings.overwrite
            edits = effect.detail in ("truncate", "edit")
            if status in ("fail", "unknown") and not edits:
                advice = "Something of this name exists. Choose another name, or ask the user."
                yield (OVERWRITES, status, f"{target} exists", advice)  # type: ignore[misc]
        if kind in ("write", "append", "create"):
            self.made.add(place)
            self.gone.discard(place)
            free = self.environment.free_bytes(above)
            if free is not None and free < self.settings.least_free:
                yield (
                    SPACE,
                    "fail",
                    f"{free} bytes are left at {above}",
                    "There is no space left. Free some first.",
                )
        if kind in ("delete", "move"):
            self.gone.add(place)
        if kind == "chmod":
            self.opened.add(target)

    def _leaves(self, path: str, target: str) -> bool:
        """Whether a link leads out of where the path itself lies: out of the home, or into the system."""
        home = self.who.home.rstrip("/") + "/"
        if under(target, _CORE) and not under(path, _CORE):
            return True
        return (path.startswith(home) or path.startswith("/tmp/")) and not target.startswith((home, "/tmp/"))

    def _permitted(
        self, kind: str, target: str, above: str, found: Entry | None, effect: Effect
    ) -> Iterator[Finding]:
        said = f"{kind} {target}"
        advice = "This user may not do that to this file. Use files of its own."
        if found is None:
            if kind in ("write", "append", "create", "link") and not self.may(above, 2):
                yield (PERMITTED, "fail", f"{said}: {above} may not be written", advice)
            return
        want = _NEEDS.get(kind)
        if kind == "execute" and effect.detail == "itself":
            want = 1
        if (
            kind == "create"
            and effect.detail == "touch"
            and found.type == "file"
            and found.owner != self.who.user
        ):
            want = 2
        if kind == "read" and found.type == "dir":
            want = 4
        if want is not None and target not in self.opened and not self.may(target, want):
            yield (PERMITTED, "fail", f"{said}: owner {found.owner}, mode {found.mode:o}", advice)
            return
        if (
            kind in ("chmod", "chown")
            and not self.who.privileged
            and (found.owner != self.who.user or kind == "chown")
        ):
            yield (OWNED, "fail", f"{said}: owner {found.owner}", advice)
            return
        if (
            kind in ("chmod", "chown")
            and found.type == "dir"
            and effect.recursive
            and not self.who.privileged
        ):
            foreign = [each for each in self._below([target], "*")[:200] if self._foreign(each)]
            if foreign:
                yield (OWNED, "fail", f"{said}: {foreign[0]} is not the user's", advice)
                return
        if kind in ("delete", "move"):
            folder = self.entry(above)
            sticky = folder is not None and bool(folder.mode & 0o1000)
            if not self.may(above, 2):
                yield (PERMITTED, "fail", f"{said}: {above} may not be written", advice)
            elif not self.who.privileged and found.owner != self.who.user:
                status: CheckStatus = "fail"
                yield (OWNED, status, f"{said}: owner {found.owner}{', sticky' if sticky else ''}", advice)
            elif found.type == "dir" and effect.recursive:
                foreign = [each for each in self._below([target], "*")[:200] if self._foreign(each)]
                if foreign and not self.who.privileged:
                    yield (OWNED, "fail", f"{said}: {foreign[0]} is not the user's", advice)
                    return
        yield (PERMITTED, "pass", said, "")

    def _foreign(self, path: str) -> bool:
        entry = self.entry(path)
        return entry is not None and entry.owner != self.who.user


FAMILY = Family("environment", "What text cannot tell: read-only probes", Settings, check, RULES)
