"""``METHOD.KEY=VALUE`` arguments: which of several methods a value is for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from safewright.errors import BadInput, nearest

Assigned = dict[str, dict[str, str]]


def assign(
    values: Iterable[str],
    option: str,
    places: Mapping[str, Sequence[str]],
    *,
    shared: Collection[str] = (),
) -> Assigned:
    """Values by method and key.

    ``METHOD.KEY=VALUE`` names both. ``METHOD=VALUE`` does for a method with one key, ``KEY=VALUE`` for a key
    that only one method has.

    Args:
        values: What was written after the option.
        option: Its name, for the errors.
        places: The keys of every method.
        shared: Keys that go to every method that has them, where no method is named.

    Raises:
        BadInput: No ``=``, an unknown method or key (with the nearest), one that fits several, or one given twice.
    """
    found: Assigned = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"{option} {value!r} is not METHOD.NAME=VALUE.", fix=_example(option, places))
        for method, key in _places(name.strip(), option, places, shared):
            own = found.setdefault(method, {})
            if key in own:
                raise BadInput(f"{option} gives {method}.{key} twice.", fix="Keep one of them.")
            own[key] = rest
    return found


def _example(option: str, places: Mapping[str, Sequence[str]]) -> str:
    first = next((f"{method}.{key}" for method, keys in places.items() for key in keys), "")
    return f"Write, for example: {option} {first}=VALUE" if first else f"Leave out {option}."


def _places(
    name: str, option: str, places: Mapping[str, Sequence[str]], shared: Collection[str]
) -> list[tuple[str, str]]:
    method, dot, key = name.partition(".")
    if dot:
        if method not in places:
            raise BadInput(
                f"{option} {name}: no method {method!r} is part of this.", fix=nearest(method, places)
            )
        if key not in places[method]:
            raise BadInput(f"{option}: {method} has no {key!r}.", fix=nearest(key, places[method]))
        return [(method, key)]
    if name in places and not places[name]:
        raise BadInput(f"{option} {name}: {name} takes none.", fix=f"Leave out {option} for it.")
    fitting = [(name, places[name][0])] if len(places.get(name, ())) == 1 else []
    fitting += [(each, name) for each, keys in places.items() if name in keys and (each, name) not in fitting]
    if len(fitting) == 1 or (fitting and name in shared):
        return fitting
    if fitting:
        said = ", ".join(f"{each}.{key}" for each, key in fitting)
        raise BadInput(f"{option} {name} fits several methods.", fix=f"Name one: {said}")
    if name in places:
        said = ", ".join(f"{name}.{key}" for key in places[name])
        raise BadInput(f"{option} {name}: {name} has several.", fix=f"Name one: {said}")
    every = [f"{each}.{key}" for each, keys in places.items() for key in keys]
    hint = nearest(name, [*every, *places, *(key for keys in places.values() for key in keys)])
    raise BadInput(f"{option} names {name!r}, which no method here has.", fix=hint)
