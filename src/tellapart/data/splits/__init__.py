"""Train, val and test: drawn once, by content, and stored. Choices look at val; test is for the final number."""

from __future__ import annotations

from tellapart.data.splits.division import make_split
from tellapart.data.splits.drawn import apportion
from tellapart.data.splits.settings import check_division, unread_fractions
from tellapart.data.splits.stored import SPLITS, UNUSED, Split, leaked_groups, leaked_rows

__all__ = [
    "SPLITS",
    "UNUSED",
    "Split",
    "apportion",
    "check_division",
    "leaked_groups",
    "leaked_rows",
    "make_split",
    "unread_fractions",
]
