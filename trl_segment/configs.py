"""Plain config objects out of the flat arguments of a command or a trainer."""

from dataclasses import fields
from typing import Any, TypeVar, cast


Config = TypeVar("Config")


def config_of(cls: type[Config], args: Any, **changes: Any) -> Config:
    """
    The fields of a config among arguments that hold more, or hold them for something else too.

    Flags are flat, since `TrlParser` and `TrainingArguments` are; everything inside is handed objects that hold their
    own fields and nothing else.

    Args:
        cls (`type`):
            A dataclass.
        args (`Any`):
            Has its fields as attributes.
        **changes:
            Values in place of those of `args`.

    Returns:
        `cls`: An instance of exactly this class.
    """
    names = [field.name for field in fields(cast(Any, cls)) if field.init]
    return cls(**{**{name: getattr(args, name) for name in names}, **changes})
