"""The rules of the house: who may import whom, how long a file may be, what must be documented."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# From the top of the house down: a room imports only from rooms to its right.
ROOMS = (
    "prism",
    "pipelines",
    "cluster",
    "actors",
    "evaluation",
    "trainer",
    "rewards_service",
    "cot_service",
    "foundation",
    "scenes",
    "media",
    "settings",
)
FORBIDDEN = {
    "rewards_service": {"trainer"},
    "cot_service": {"rewards_service", "ray"},
    "foundation": {"ray"},
    "scenes": {"ray", "torch"},
    "media": {"ray", "torch"},
    "settings": {"ray", "torch", "numpy"},
}
# Light actors: importing torch would cost each process a second and 170 MB.
TORCH_FREE = ("actors/weights.py", "actors/buffer.py", "actors/coordinator.py", "actors/messages.py")
MAX_LINES = 450
MEDIAN_LINES = 140


def _sources(room: str) -> list[Path]:
    if room == "prism":
        return [ROOT / "prism.py"]
    return sorted((ROOT / room).rglob("*.py"))


ALL_SOURCES = [path for room in ROOMS for path in _sources(room)]


def _imports(tree: ast.AST, typing_too: bool = True) -> Iterator[str]:
    """Dotted names of all imported modules, at any depth of the file."""
    skipped = set() if typing_too else {id(node) for block in _typing_blocks(tree) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield node.module or ""


def _typing_blocks(tree: ast.AST) -> Iterator[ast.If]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield node


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_below_it(room: str) -> None:
    above = set(ROOMS[: ROOMS.index(room)]) | {"tests", "benchmarks"}
    allowed_otherwise = FORBIDDEN.get(room, set())
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _sources(room)
        for name in _imports(_parse(path))
        if name.split(".")[0] in above | allowed_otherwise
    ]
    assert not wrong, "\n".join(wrong)


def test_every_top_level_folder_with_code_is_a_known_room() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found - {"tests", "benchmarks"} == set(ROOMS) - {"prism"}


def test_the_package_list_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        if room != "prism"
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == found


def test_light_actors_do_not_load_torch() -> None:
    modules = ", ".join(name.removesuffix(".py").replace("/", ".") for name in TORCH_FREE)
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "prism"])
def test_a_room_says_what_it_is(room: str) -> None:
    docstring = ast.get_docstring(_parse(ROOT / room / "__init__.py"))
    assert docstring is not None
    assert len(docstring) > 20


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_SOURCES}
    too_long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not too_long
    real = sorted(length for name, length in lengths.items() if not name.endswith("__init__.py"))
    assert real[len(real) // 2] <= MEDIAN_LINES


def test_every_test_folder_is_a_package_and_mirrors_a_room() -> None:
    folders = [path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name not in {"__pycache__"}]
    for folder in folders:
        assert (folder / "__init__.py").is_file(), folder
        assert folder.name in {*ROOMS, "benchmarks"}, folder


def test_errors_survive_the_way_between_processes() -> None:
    """An exception is unpickled by calling its class with `args`; an `__init__` of its own needs `__reduce__` too."""
    wrong = []
    for path in ALL_SOURCES:
        for node in ast.walk(_parse(path)):
            bases = {ast.unparse(base).split(".")[-1] for base in node.bases} if isinstance(node, ast.ClassDef) else ()
            if isinstance(node, ast.ClassDef) and any(base.endswith(("Error", "Exception")) for base in bases):
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                if "__init__" in methods and "__reduce__" not in methods:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not wrong, "\n".join(wrong)


def test_no_module_names_clash_with_the_standard_library() -> None:
    assert not set(ROOMS) & sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.name)
def test_a_recipe_opens_with_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line of a recipe says in a comment what it is for"
    assert isinstance(yaml.safe_load(text), dict)


def test_the_operations_guide_lists_every_metric() -> None:
    emitted = {
        name
        for room in ("actors", "trainer", "rewards_service")
        for path in _sources(room)
        for name in re.findall(r'"(prism_[a-z_]+)"', path.read_text(encoding="utf-8"))
    }
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert emitted == set(re.findall(r"`(prism_[a-z_]+)", guide))


def test_pre_commit_and_make_run_the_same_checks() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    for tool in re.findall(r"\$\(BIN\)/(\w+(?: (?:check|format))?)", lint):
        assert any(hook["entry"].startswith(f".venv/bin/{tool}") for hook in hooks), tool
