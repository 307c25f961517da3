"""Text from anywhere, made safe to show."""

from ..printing import printable


__all__ = ["printable"]
