import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[1]
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


# Which packages a floor may not import, by design: dependencies point downward only
_FLOORS = {
    "traces": {"torch", "trl", "datasets", "accelerate", "peft"},
    "selection.py": {"torch", "transformers", "trl", "datasets", "accelerate", "peft"},
    "attribution": {"trl"},
    "report": {"trl"},
    "evaluation": {"trl"},
}
_HIGHER = {
    "traces": {"selection", "attribution", "evaluation", "report", "trainer", "cli"},
    "selection.py": {"traces", "attribution", "evaluation", "report", "trainer", "cli"},
    "attribution": {"evaluation", "report", "trainer", "cli"},
    "report": {"trainer", "cli"},
    "evaluation": {"trainer", "cli"},
    "trainer": {"cli"},
}


def imports_of(file):
    """(level, dotted name) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if not node.module:
                yield from ((node.level, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from ((0, argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def files_of(part):
    path = PACKAGE / part
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def test_the_scan_sees_imports():
    """So that the next test can fail."""
    assert any(name.split(".")[0] == "trl" for file in files_of("trainer") for _, name in imports_of(file))
    assert any(name.split(".")[0] == "torch" for file in files_of("attribution") for _, name in imports_of(file))


@pytest.mark.parametrize("part", sorted({*_FLOORS, *_HIGHER}))
def test_lower_floors_import_no_higher_ones(part):
    files = files_of(part)
    if not files:
        pytest.skip(f"there is no trl_segment/{part} yet")
    for file in files:
        depth = len(file.relative_to(PACKAGE).parts)
        for level, name in imports_of(file):
            first = name.split(".")[0]
            assert level or first not in _FLOORS.get(part, set()), f"{file.name} imports {name}"
            inside = first if level == depth else name.split(".")[1] if name.startswith("trl_segment.") else None
            assert inside not in _HIGHER.get(part, set()), f"{file.name} imports {name} from a higher floor"


def test_nothing_in_the_package_unpickles():
    for file in PACKAGE.rglob("*.py"):
        assert {"pickle", "dill", "cloudpickle"}.isdisjoint(name.split(".")[0] for _, name in imports_of(file)), file
