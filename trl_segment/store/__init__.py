"""Scores on disk and on the Hub. No torch: what reads a store starts at once."""

from .hub import fetch_store, open_store, push_store
from .index import KeyIndex
from .locks import exclusive_run
from .managed import open_or_renew
from .rows import StoredAttribution
from .settings import CUSTOM_SEGMENTER, STORE_VERSION, StoreSettings
from .store import AttributionStore, read_settings, settings_of


__all__ = [
    "CUSTOM_SEGMENTER",
    "STORE_VERSION",
    "AttributionStore",
    "KeyIndex",
    "StoreSettings",
    "StoredAttribution",
    "exclusive_run",
    "fetch_store",
    "open_or_renew",
    "open_store",
    "push_store",
    "read_settings",
    "settings_of",
]
