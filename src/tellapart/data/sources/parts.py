"""Names of parts in one place: folders, files and cells that say train, val or test in one of their usual words."""

from __future__ import annotations

from collections.abc import Iterable

from tellapart.data.sources.base import part_of

_EVALUATION = frozenset({"eval", "evaluation", "evalset", "evaluationset"})


def parts_of(names: Iterable[str]) -> dict[str, str | None]:
    """Return the part that each name says, or None, as `part_of` but with all the names in view.

    "eval" is val by itself; where another name says val and none says test, it is test.

    >>> parts_of(["train", "valid", "eval"])
    {'train': 'train', 'valid': 'val', 'eval': 'test'}
    """
    parts = {name: part_of(name) for name in names}
    evals = {name for name in parts if "".join(filter(str.isalnum, name.lower())) in _EVALUATION}
    others = {part for name, part in parts.items() if name not in evals}
    if "val" in others and "test" not in others:
        parts.update(dict.fromkeys(evals, "test"))
    return parts
