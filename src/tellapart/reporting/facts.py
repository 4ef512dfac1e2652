"""Everything that a report of a run reads, gathered beforehand; what is not there is None or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tellapart.config import RunConfig
from tellapart.data.sources import Source
from tellapart.data.splits import Split
from tellapart.evaluation.metrics import Estimate
from tellapart.evaluation.predictions import Predictions
from tellapart.exporting.classifier import Classifier


@dataclass(frozen=True)
class RunFacts:
    """A run as its report sees it.

    Attributes:
        name: the name of its folder.
        path: its folder as the user wrote it.
        config: the resolved config.
        split: the stored division.
        source: where the images are, or None where they are no longer to be had; `source_problem` says why.
        classifier: what is shipped.
        history: the lines of history.jsonl.
        result: result.json.
        environment: environment.json: the command, versions, hardware, the git commit.
        looks: the lines of evaluations.jsonl, oldest first.
        findings: what the quick audit found, worst first, as findings.json has it (see `auditing.findings.as_plain`).
        unreadable: the reason for each path that could not be read.
        predictions: the stored tables, by split; "val" is always there.
        metrics: by split, what `evaluate_predictions` says of each table.
        uncalibrated: by split, the same of the probabilities before the temperature.
        robustness: robustness.json, what corruptions leave of the accuracy; empty where nobody asked.
        ood: ood.json, how well images of something else are noticed; empty where nobody asked.
    """

    name: str
    path: str
    config: RunConfig
    split: Split
    source: Source | None
    classifier: Classifier
    predictions: Mapping[str, Predictions]
    metrics: Mapping[str, Mapping[str, Estimate]]
    uncalibrated: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    looks: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    robustness: Mapping[str, Any] = field(default_factory=dict)
    ood: Mapping[str, Any] = field(default_factory=dict)
    source_problem: str = ""

    @property
    def judged_on(self) -> str:
        """The split whose number is the answer: test where it was looked at, else val."""
        return "test" if "test" in self.predictions else "val"
