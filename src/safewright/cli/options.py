"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.errors import BadInput, nearest

JsonOut = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Limit = Annotated[int | None, typer.Option("--limit", help="At most so many rows of each data set.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of row samples and of decoding.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME-DIGEST.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start anew where the folder holds another run.")
]
MaxUnscored = Annotated[
    float, typer.Option("--max-unscored", help="Share of unscored records above which the exit code is 11.")
]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="An option of the method.")]
Config = Annotated[Path | None, typer.Option("--config", help="Options of the method as a TOML file.")]
Engine = Annotated[str, typer.Option("--engine", help="auto, hf or endpoint.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto (as saved), float32, bfloat16, float16.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Prompts answered together, or requests at once.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds for one request to an endpoint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print calls, tokens, memory and time; run nothing.")]


def seeds(count: int, named: str | None) -> list[int]:
    """The seeds 0 to count - 1, or those named.

    Raises:
        BadInput: There is none, or a name is no whole number.
    """
    if named is not None:
        return whole_numbers(named, "--seed-list")
    if count < 1:
        raise BadInput(f"--seeds is {count}.", fix="It must be at least 1.")
    return list(range(count))


def whole_numbers(text: str, option: str) -> list[int]:
    """Different whole numbers from 0 up, written with commas.

    Raises:
        BadInput: They are not.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise BadInput(f"{option} is {text!r}.", fix="Write different whole numbers: 100,101,102")
    return [int(part) for part in parts]


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` arguments as a mapping.

    Raises:
        BadInput: An argument without ``=``, or a key given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key.strip():
            shape = "KEY=VALUE" if option == "--set" else "ROLE=VALUE"
            raise BadInput(f"{option} {value!r} is not {shape}.")
        if key.strip() in found:
            raise BadInput(f"{option} gives {key.strip()!r} twice.")
        found[key.strip()] = rest
    return found


def method_options(sets: Iterable[str], config: Path | None) -> dict[str, Any]:
    """Options of a method: the TOML file's, over which ``--set`` wins.

    Raises:
        BadInput: The file is missing or not TOML.
    """
    options: dict[str, Any] = {}
    if config is not None:
        try:
            options = tomllib.loads(config.read_text("utf-8"))
        except OSError as error:
            raise BadInput(f"--config {config} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise BadInput(f"--config {config} is not TOML: {error}.") from error
    return {**options, **pairs(sets, "--set")}


def by_role(values: Iterable[str], option: str, roles: Iterable[str]) -> dict[str, str]:
    """``ROLE=VALUE`` arguments; a value alone belongs to the only role.

    Raises:
        BadInput: An unknown role, with the nearest.
    """
    known, given = list(roles), list(values)
    if given and not known:
        raise BadInput(f"{option} {given[0]!r} has no use here.", fix=f"Leave out {option}.")
    if len(known) == 1:
        given = [value if _names_role(value, known) else f"{known[0]}={value}" for value in given]
    found = pairs(given, option)
    for role in found:
        if role not in known:
            raise BadInput(f"{option} names the unknown role {role!r}.", fix=nearest(role, known))
    return found


def _names_role(value: str, known: list[str]) -> bool:
    """Whether a value begins with a role, right or mistyped, and is not a path or address with a ``=`` in it."""
    role, equals, _ = value.partition("=")
    if not equals or role.strip() in known:
        return bool(equals)
    return role.strip().isidentifier() and not Path(value).exists()


def share(value: float, option: str) -> float:
    """A share in [0, 1].

    Raises:
        BadInput: It is not.
    """
    if not 0 <= value <= 1:
        raise BadInput(f"{option} is {value}.", fix="It must lie in [0, 1].")
    return value
