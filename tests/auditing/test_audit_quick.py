"""What `train` asks before it starts: which findings stop it, and which option goes on in spite of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tellapart.auditing.findings import Finding
from tellapart.auditing.quick import MAX_LEAKED_SHARE, line, quick_findings, stopping
from tellapart.config import RunConfig
from tellapart.data.sources import ArraySource
from tellapart.data.splits import Split


def case(num_train: int, num_test: int, num_leaked: int, errors: dict[int, str] | None = None) -> tuple[Any, ...]:
    count = num_train + num_test
    source = ArraySource(np.zeros((count, 4, 4), np.uint8), ["ab"[row % 2] for row in range(count)])
    hashes = [f"{row:032x}" for row in range(count)]
    for number in range(num_leaked):
        hashes[num_train + number] = hashes[number]
    for row in errors or {}:
        hashes[row] = ""
    splits = ("train",) * num_train + ("test",) * num_test
    labels = tuple(source.label_name(row) for row in range(count))
    return source, Split(tuple(source.paths), labels, splits, tuple(hashes)), errors or {}, hashes


def kinds(found: list[Finding]) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in found}


def with_data(**values: Any) -> RunConfig:
    config = RunConfig()
    return replace(config, data=replace(config.data, **values))


def test_clean_data_says_nothing() -> None:
    assert quick_findings(*case(40, 20, 0)) == []


def test_few_leaked_images_warn_and_many_stop() -> None:
    most = int(MAX_LEAKED_SHARE * 100)
    assert kinds(quick_findings(*case(200, 100, most))) == {"leak": "warning"}
    found = quick_findings(*case(200, 100, most + 1))
    assert kinds(found) == {"leak": "error"}
    assert found[0].override == "--data.allow-leaks yes"
    assert stopping(quick_findings(*case(200, 100, most)), RunConfig()) == []


def test_unreadable_images_stop_unless_they_are_to_be_skipped() -> None:
    source, split, errors, hashes = case(40, 20, 0, {3: "damaged PNG", 50: "truncated JPEG"})
    found = quick_findings(source, split, errors, hashes)
    assert kinds(found) == {"unreadable": "error", "truncated": "error"}
    assert stopping(found, RunConfig()) == found
    assert stopping(found, with_data(bad_images="skip")) == []


def test_where_nothing_can_be_read_no_option_helps() -> None:
    found = quick_findings(*case(4, 2, 0, dict.fromkeys(range(6), "not an image")))
    assert [finding.kind for finding in stopping(found, with_data(bad_images="skip"))] == ["unreadable"]


def test_every_override_is_an_option_of_the_config() -> None:
    from tellapart.config import options

    found = [*quick_findings(*case(20, 10, 10)), *quick_findings(*case(20, 10, 0, {1: "x", 2: "truncated JPEG"}))]
    given = {finding.override for finding in found} - {""}
    assert len(given) == 2
    for override in given:
        name = override.removeprefix("--").split()[0].replace("-", "_")
        if name == "data.allow_leaks" and name not in options():
            pytest.skip("the config has no data.allow_leaks yet")
        assert name in options()


def test_a_finding_is_one_line_with_examples_and_what_to_do() -> None:
    source, split, errors, hashes = case(40, 20, 0, {row: f"bad\n{row}" for row in range(5)})
    text = line(quick_findings(source, split, errors, hashes)[0], source)
    assert text == (
        "error: 5 of 60 images cannot be read: arrays/0000 (bad\\n0), arrays/0001 (bad\\n1), arrays/0002 (bad\\n2), "
        "and 2 more. Mend or remove them, or leave them out with --data.bad-images skip."
    )
    leak = line(quick_findings(*case(20, 10, 4))[0], source)
    assert leak == (
        "error: 4 of 10 test images (40.0%) have the pixels of one in train: arrays/0020 = arrays/0000, "
        "arrays/0021 = arrays/0001, arrays/0022 = arrays/0002, and 1 more. The number on test flatters: the network "
        "has seen them. tellapart check --fix OUT writes a manifest without the train copies; test is never changed. "
        "To go on as it is: --data.allow-leaks yes."
    )


def test_equal_images_under_two_labels_warn() -> None:
    source, split, errors, hashes = case(40, 20, 0)
    hashes[1] = hashes[0]
    assert kinds(quick_findings(source, split, errors, hashes)) == {"conflict": "warning"}
