"""The rooms of the package: what each may import, and that nothing goes round in circles."""

import ast
import graphlib
import importlib
import json
import subprocess
import sys

import pytest
from helpers import REPOSITORY


PACKAGE = REPOSITORY / "trl_segment"


def modules_after(statement):
    """Names in `sys.modules` after a statement in a fresh process."""
    result = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (
            "import trl_segment; assert len(dir(trl_segment)) > 5",
            {"torch", "transformers", "trl", "datasets", "numpy"},
        ),
        ("from trl_segment import build_trace, Trace, TraceConfig, segment_text", {"torch", "transformers", "trl"}),
        ("from trl_segment import SelectionConfig, select_segments", {"torch", "transformers", "trl"}),
        ("from trl_segment.traces import attributed_sequence", {"torch", "transformers", "trl"}),
        ("import trl_segment.traces", {"torch", "trl"}),
        ("import trl_segment.selection", {"torch", "transformers", "trl"}),
        ("import trl_segment.store", {"torch", "transformers", "trl", "huggingface_hub"}),
        ("from trl_segment import AttributionStore, open_store, push_store", {"torch", "transformers", "trl"}),
        (
            "from trl_segment.attribution import AttributionConfig, RULES; AttributionConfig()",
            {"torch", "transformers"},
        ),
        ("import trl_segment.attribution, trl_segment.trainer", {"torch", "transformers", "trl", "numpy"}),
        ("from trl_segment.trainer.options import SelectiveTrainingConfig", {"torch", "transformers", "trl"}),
        ("import trl_segment.models", {"trl"}),
        ("import trl_segment.evaluation, trl_segment.evaluation.tuning, trl_segment.evaluation.generation", {"trl"}),
        ("import trl_segment.report, trl_segment.report.terminal, trl_segment.report.trace_page", {"torch", "trl"}),
        ("from trl_segment import AttributionConfig, AttributionStore, attribute_traces", {"trl"}),
    ],
)
def test_light_names_load_nothing_heavy(statement, heavy):
    modules = modules_after(statement)
    assert "trl_segment" in modules
    assert modules & heavy == set()


def test_public_names_can_be_imported():
    import trl_segment

    for name in trl_segment.__all__:
        value = getattr(trl_segment, name)
        assert value.__name__ == name and value.__module__.startswith("trl_segment.")
        assert name in dir(trl_segment)
    with pytest.raises(AttributeError, match="'trl_segment' has no attribute 'nonsense'"):
        _ = trl_segment.nonsense


# Floors of the house: a room may import rooms of its own floor and of those below, and no room one that imports it
_FLOORS = {
    "traces": 1,
    "selection": 1,
    "store": 1,
    "models": 1,
    "attribution": 2,
    "evaluation": 3,
    "report": 3,
    "trainer": 4,
    "cli": 5,
}
# Files that are in no room, for all to use
_GROUND = {"configs", "lazy", "precisions", "presets", "printing", "progress", "workers", "__init__"}
# What a room does without, so that it starts at once or can be used by itself
_HEAVY = {"torch", "trl", "accelerate", "peft"}
_WITHOUT = {
    "configs": {*_HEAVY, "transformers", "datasets"},
    "progress": {*_HEAVY, "datasets"},
    "workers": {*_HEAVY, "transformers", "datasets"},
    "traces": {*_HEAVY, "datasets"},
    "selection": {*_HEAVY, "transformers", "datasets"},
    "store": {*_HEAVY, "datasets"},
    "models": {"trl"},
    "attribution": {"trl"},
    "evaluation": {"trl"},
    "report": {"trl"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    parts = ("trl_segment", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def statements(node):
    """Everything in a file that runs, wherever it stands."""
    yield node
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:
                yield from statements(other)
        else:
            yield from statements(child)


def imports_of(file):
    """(module, name) of everything that a file imports: absolute, `None` where a module is imported as a whole."""
    package = module_of(file).split(".")
    package = package if file.name == "__init__.py" else package[:-1]
    for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{module}.{alias.name}"
                yield (inside, None) if inside in MODULES else (module, alias.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((a.value, None) for a in node.args[:1] if isinstance(a, ast.Constant) and a.value[0] != ".")


def room_of(module):
    """The folder right inside the package that a module is in, or its own name."""
    parts = module.split(".")
    return (parts[1] if len(parts) > 1 else "__init__") if parts[0] == "trl_segment" else None


def test_every_part_of_the_package_has_its_floor():
    assert {room_of(module) for module in MODULES} == {*_FLOORS, *_GROUND}


def test_the_scan_sees_imports():
    """So that the tests below can fail."""
    imports = {module: set(imports_of(file)) for module, file in MODULES.items()}
    assert ("trl", "SFTConfig") in imports["trl_segment.trainer.config"]
    assert ("torch", None) in imports["trl_segment.models.passes"]
    assert ("trl_segment.selection", "SelectionConfig") in imports["trl_segment.attribution.decision"]
    assert any(module == "trl_segment.report.dataset_page" for module, _ in imports["trl_segment.cli.report"])
    # In a function
    assert ("peft", "PeftModel") in imports["trl_segment.models.loading"]
    # For the type checker only
    assert ("trl_segment.attribution.config", "AttributionConfig") not in imports[
        "trl_segment.attribution.scorers.base"
    ]
    assert len(MODULES) > 50


@pytest.mark.parametrize("part", sorted({*_FLOORS, *_GROUND}))
def test_rooms_import_lower_floors_only(part):
    for module, file in MODULES.items():
        if room_of(module) != part:
            continue
        for imported, name in imports_of(file):
            where = f"{module} imports {name or ''} from {imported}"
            assert imported.split(".")[0] not in _WITHOUT.get(part, set()), where
            other = room_of(imported)
            if other in (None, part) or other in _GROUND:
                continue
            assert part not in _GROUND, where
            assert _FLOORS[other] <= _FLOORS[part], where


def import_graph(of=lambda module: module):
    """What each module imports of the package, by module or by what `of` makes of it."""
    graph = {}
    for module, file in MODULES.items():
        imported = {of(imported) for imported, _ in imports_of(file) if imported in MODULES}
        graph.setdefault(of(module), set()).update(imported - {of(module)})
    return graph


def find_circle(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " <- ".join(error.args[1])
    return None


def test_no_file_imports_itself_by_way_of_others():
    """Also where an import stands in a function: a circle is one file that pretends to be two."""
    graph = import_graph()
    assert sum(map(len, graph.values())) > 150
    assert find_circle(graph) is None
    assert find_circle({**graph, "trl_segment.progress": {"trl_segment.cli.attribute"}}) is not None


def test_no_room_imports_itself_by_way_of_others():
    graph = import_graph(room_of)
    assert graph["trainer"] >= {"attribution", "selection", "store"}
    assert find_circle(graph) is None


def test_what_a_room_takes_from_another_is_public():
    taken = 0
    for module, file in MODULES.items():
        for imported, name in imports_of(file):
            if room_of(imported) in (None, room_of(module)):
                continue
            taken += 1
            names = [*imported.split(".")[1:], *([name] if name else [])]
            private = [part for part in names if part.startswith("_") and part != "__version__"]
            assert private == [], f"{module} imports {name} from {imported}"
    assert taken > 100


@pytest.mark.parametrize("room", sorted(set(_FLOORS) - {"cli", "report"}))
def test_a_room_says_what_is_public_and_has_it(room):
    """`__all__` in order, each name there, and of each other room's imports from it none that `__all__` lacks."""
    module = importlib.import_module(f"trl_segment.{room}")
    if not hasattr(module, "__all__"):
        pytest.skip(f"trl_segment.{room} has no names of its own")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    for other, file in MODULES.items():
        for imported, name in imports_of(file):
            if imported == module.__name__ and room_of(other) != room and name is not None:
                assert name in module.__all__, f"{other} imports {name} from {imported}"


def test_nothing_in_the_package_unpickles():
    for file in FILES:
        assert {"pickle", "dill", "cloudpickle"}.isdisjoint(module.split(".")[0] for module, _ in imports_of(file)), (
            file
        )
