"""The house: floors, start-up, files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hsae_hub
from hsae_hub.assets import assets, embedded_model

PACKAGE = Path(hsae_hub.__file__).parent
FLOORS = [
    ["errors", "assets", "problems", "launch", "lazy"],
    ["lock", "signals", "ops", "metrics", "render"],
    ["architectures"],
    ["artifact", "recipes"],
    ["models"],
    ["activations"],
    ["training", "attach"],
    ["evaluation", "features"],
    ["card", "interop", "onnx", "suites"],
    ["hub"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
"""A room imports from the floors before its own, and from itself."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms named by any import of a file, those inside functions included."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "hsae_hub":
            modules += [f"hsae_hub.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            modules.append(node.module)
    parts = [m.split(".") for m in modules if m.startswith("hsae_hub.")]
    return {p[1] for p in parts if not p[1].startswith("__")}


FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py" and "_assets" not in path.relative_to(PACKAGE).parts
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_the_floors_before_it(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path) & FLOOR.keys():
        assert other == room or FLOOR[other] < FLOOR[room], f"{room} imports {other}"
    assert imported_rooms(path) <= FLOOR.keys(), f"unknown room in {imported_rooms(path)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_holds_one_thing(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_package_and_its_command_load_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'nnsight', 'datasets', 'huggingface_hub', 'numpy'}"
    code = f"import sys, hsae_hub, hsae_hub.cli.main; print({heavy} & set(sys.modules))"
    assert run(code) == "set()"


def test_public_names_are_found_and_listed() -> None:
    for name in hsae_hub.__all__:
        assert getattr(hsae_hub, name) is not None
    assert set(hsae_hub.__all__) <= set(dir(hsae_hub))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hsae_hub.nothing


def test_no_public_name_is_hidden_by_what_nnsight_gives_every_object() -> None:
    code = (
        "import nnsight, hsae_hub\n"
        "print([n for n in hsae_hub.__all__ if type(getattr(hsae_hub, n)).__name__ == 'method'])"
    )
    assert run(code) == "[]"


def test_what_travels_with_the_package_is_there() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (embedded_model() / "model.safetensors").stat().st_size > 10**7
    assert any(assets("train").iterdir()) and any(assets("cards").iterdir())
