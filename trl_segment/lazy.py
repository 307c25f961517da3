"""Names of a package that are loaded when they are first used, so that importing the package costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    What a package defines as `__getattr__` and `__dir__`, so that its names are loaded when they are first used.

    Args:
        package (`str`):
            Its `__name__`.
        names (`Mapping[str, Sequence[str]]`):
            Public names by the module or package inside that has them.

    Returns:
        `tuple`: `__getattr__` and `__dir__`.
    """
    module_of = {name: module for module, found in names.items() for name in found}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{module_of[name]}", package), name)

    return load, lambda: sorted({*vars(sys.modules[package]), *module_of})
