"""The house's rules: imports run one way, and light rooms stay light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(importlib.util.find_spec("safewright").submodule_search_locations[0])  # type: ignore[union-attr, index]

FLOOR = {"types", "errors", "catalog"}
BELOW: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "catalog": {"types", "errors"},
    "stats": FLOOR,
    "runs": FLOOR,
    "prompts": FLOOR | {"runs"},
    "data": FLOOR | {"stats", "runs", "prompts"},
    "models": FLOOR | {"stats", "runs", "prompts", "data"},
    "judges": FLOOR | {"stats", "runs", "prompts", "data", "models"},
}
METHODS = FLOOR | {"stats", "runs", "prompts", "data", "models", "judges"}
BELOW["training"] = FLOOR | {"stats", "runs", "prompts", "data", "models"}
BELOW["measures"] = METHODS | {"training"}
BELOW["treatments"] = METHODS | {"training"}
BELOW["compose"] = METHODS | {"training", "measures", "treatments"}
BELOW["report"] = BELOW["compose"] | {"compose"}
BELOW["lab"] = FLOOR | {"stats", "runs", "data", "models"}
BELOW["guard"] = {"types", "errors", "stats", "runs", "prompts", "models"}
BELOW["replications"] = BELOW["report"] | {"report", "lab", "guard"}
BELOW["cli"] = BELOW["replications"] | {"replications"}
BELOW["inspect_plugin"] = BELOW["cli"]
"""Which rooms each room may import; measures and treatments, besides, no sibling of theirs."""

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "inspect_ai",
    "datasets",
    "httpx",
    "pyarrow",
    "rouge_score",
    "fastapi",
)


def imports(file: Path) -> list[str]:
    """Modules a file imports, at the top or inside functions, for types or for use."""
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def room_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def back_edges(source: Path) -> list[str]:
    """Imports that go against the dependency direction."""
    wrong = []
    for file in sorted(source.rglob("*.py")):
        room = file.relative_to(source).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for name in imports(file):
            parts = name.split(".")
            if parts[0] != "safewright" or len(parts) < 2:
                continue
            target = parts[1]
            if target not in BELOW or target == room or target in BELOW[room]:
                continue
            wrong.append(f"{file.relative_to(source)} imports safewright.{target}")
    return wrong


def test_imports_run_one_way() -> None:
    assert back_edges(SOURCE) == []


def test_a_back_edge_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "load.py").write_text("def f():\n    from safewright.models import load\n")
    assert back_edges(tmp_path) == ["data/load.py imports safewright.models"]


def test_every_room_has_its_place() -> None:
    rooms = {room_of(file) for file in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(BELOW), f"rooms without a rule: {rooms - set(BELOW)}"


@pytest.mark.parametrize("room", ["measures", "treatments"])
def test_methods_do_not_import_their_siblings(room: str) -> None:
    shared = {
        "behaviour",
        "plan",
        "driver",
        "answering",
        "scoring",
        "journal",
        "overflow",
        "deriving",
        "rescoring",
    }
    shared |= {
        "losses",
        "job",
        "editing",
        "blending",
        "sources",
        "placing",
        "comparing",
        "asking",
        "bounds",
        "taking",
    }
    folder = SOURCE / room
    if not folder.exists():
        assert room == "treatments"  # opens with the first treatment
        return
    methods = {
        entry.stem for entry in folder.iterdir() if entry.stem not in shared | {"__init__", "__pycache__"}
    }
    for file in folder.rglob("*.py"):
        own = file.relative_to(folder).parts[0].removesuffix(".py")
        used = {name.split(".")[2] for name in imports(file) if name.startswith(f"safewright.{room}.")}
        assert not (used & methods) - {own}, f"{file} imports a sibling"


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``."""
    program = f"{code}\nimport sys\nprint('MODULES', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import safewright",
        "import safewright.measures, safewright.judges, safewright.data, safewright.models, safewright.lab",
        "from safewright import catalog; assert catalog.entries()",
        "from safewright.cli.main import run; assert run(['list', '--json']) == 0",
        "from safewright.cli.main import run; assert run(['doctor', '--json']) == 0",
        "from safewright.cli.main import run; assert run(['show', 'utility']) == 0",
    ],
)
def test_light_commands_import_nothing_heavy(code: str) -> None:
    assert loaded_after(code).isdisjoint(HEAVY)


def test_importing_safewright_costs_nothing() -> None:
    assert loaded_after("import safewright").isdisjoint({"numpy", "scipy", "typer", "rich", "jinja2"})


def test_files_stay_readable() -> None:
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in SOURCE.rglob("*.py")}
    assert {str(file): n for file, n in lengths.items() if n > 600} == {}
