"""The floors of the house: imports only ever point down."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "lepjax"
FLOORS = (
    ("core",),
    ("ops",),
    ("models", "data"),
    ("tasks",),
    ("checks",),
    ("experiment",),
    ("run",),
    ("report", "plan", "testing", "chaos", "tune"),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def rooms_imported(source):
    """The rooms of lepjax that a file imports, also inside functions; imports for types alone do not count."""
    tree = ast.parse(source)
    typing_only = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lepjax":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("lepjax."))


def climbs(room, source):
    """Imports that point up, or across to a neighbour on the same floor."""
    return [
        other for other in rooms_imported(source) if other in LEVEL and other != room and LEVEL[other] >= LEVEL[room]
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in LEVEL:
        assert climbs(room, path.read_text()) == []


def test_sabotage_a_climbing_import_is_noticed():
    assert climbs("core", "from lepjax.run.fit import fit") == ["run"]
    assert climbs("models", "def f():\n    from lepjax import data") == ["data"]
