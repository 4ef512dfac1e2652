"""How a run's images came to be in train, val or test, in sentences."""

from __future__ import annotations

from tellapart.auditing.findings import counted, printable
from tellapart.config import DataConfig
from tellapart.data.splits import UNUSED, leaked_rows
from tellapart.reporting.facts import RunFacts


def how_divided(facts: RunFacts) -> list[str]:
    """Return sentences: what the division was drawn by, what stays together, and what lies on two sides of it."""
    data, split = facts.config.data, facts.split
    sentences = [_origin(facts, data)]
    groups = {group for group in split.groups if group}
    if groups:
        sentences.append(f"{counted(len(groups), 'group')} of images that belong together lie on one side each.")
    elif not data.split and not all(_own_parts(facts)):
        sentences.append("Images with the same pixels lie on one side.")
    if unused := split.num_given(UNUSED):
        sentences.append(f"{counted(unused, 'image')} {'is' if unused == 1 else 'are'} left out.")
    for name, rows in leaked_rows(split).items():
        if len(rows):
            sentences.append(
                f"{counted(len(rows), 'image')} of {name} {'is' if len(rows) == 1 else 'are'} in train too."
            )
    return sentences


def _own_parts(facts: RunFacts) -> list[bool]:
    """Return whether the source itself says which part val and test are, as far as that is known."""
    if facts.source is None:
        return [False, False]
    given = set(facts.source.parts)
    present = [name for name in ("val", "test") if facts.split.num_given(name)]
    return [name in given for name in present]


def _origin(facts: RunFacts, data: DataConfig) -> str:
    seed = facts.config.seed if data.split_seed < 0 else data.split_seed
    if data.split:
        return f"Divided as {printable(data.split)} says."
    if data.folds:
        return (
            f"Fold {data.fold} of {data.folds}: dealt by seed {seed}, this fold is test, val is drawn from the others."
        )
    if data.time_column or data.time_pattern:
        by = f"the column {data.time_column}" if data.time_column else f"the pattern {data.time_pattern} in the paths"
        return f"Divided by time, after {printable(by)}: the newest images are test, the next val."
    if facts.source is None:
        return f"How it was divided is stored in split.parquet; what was drawn was drawn by seed {seed}."
    given = set(facts.source.parts)
    own = [name for name in ("val", "test") if name in given and facts.split.num_given(name)]
    drawn = [name for name in ("val", "test") if name not in given and facts.split.num_given(name)]
    sentences = []
    if own:
        sentences.append(f"The data itself says what is {' and '.join(own)}.")
    if drawn:
        shares = {"val": data.val_fraction, "test": data.test_fraction}
        said = " and ".join(f"{shares[name]:.0%} for {name}" for name in drawn)
        by_class = ", class by class," if facts.config.data.task == "multiclass" else ""
        sentences.append(f"Of the {'others' if own else 'images'}, {said} were drawn{by_class} by seed {seed}.")
    return " ".join(sentences)
