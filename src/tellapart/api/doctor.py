"""`doctor`: what this environment has, whether it works, and how to mend it."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tellapart import __version__, hardware

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "pyarrow", "scikit-learn", "rich", "timm")
_OPTIONAL = {"timm"}
_OLDEST_TORCH = (2, 11)
_MEND = (
    "Make a new environment and install there: python3 -m venv .venv && . .venv/bin/activate && pip install tellapart"
)


@dataclass
class Report:
    """What was found: facts by name, and problems with their remedy."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"facts": self.facts, "problems": self.problems}


def examine() -> Report:
    """Return versions, devices and precision, and the outcome of one convolution and one torchvision operator."""
    report = Report({"tellapart": __version__, "python": f"{platform.python_version()} ({platform.system()})"})
    for package in _PACKAGES:
        try:
            report.facts[package] = version(package)
        except PackageNotFoundError:
            report.facts[package] = "not installed" + (" (optional)" if package in _OPTIONAL else "")
            if package not in _OPTIONAL:
                report.problems.append(f"{package} is not installed. {_MEND}")
    _check_torch(report)
    _check_torchvision(report)
    free_gib = shutil.disk_usage(".").free / 2**30
    report.facts["free disk here"] = f"{free_gib:.1f} GiB"
    if free_gib < 1:
        report.problems.append("under 1 GiB of disk is free here. Free some, or put the run elsewhere with --run.")
    return report


def _check_torch(report: Report) -> None:
    try:
        import torch

        device = hardware.choose_device()
        report.facts["torch build"] = f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"
        report.facts["device"] = hardware.describe_device(device)
        report.facts["precision"] = f"{hardware.choose_precision(device)} (automatic)"
        image = torch.ones(1, 3, 8, 8, device=device)
        result = torch.nn.functional.conv2d(image, torch.ones(4, 3, 3, 3, device=device), padding=1)
        if float(result[0, 0, 4, 4]) != 27.0:
            report.problems.append(f"a convolution of ones gave {float(result[0, 0, 4, 4])} instead of 27. {_MEND}")
        report.facts["convolution"] = "works"
        if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < _OLDEST_TORCH:
            report.problems.append(
                f"torch {torch.__version__} is older than 2.11: pip install --upgrade torch torchvision"
            )
    except Exception as error:  # A broken install can fail in any way, and this command is there to say so.
        report.problems.append(f"torch does not work: {type(error).__name__}: {error}. {_MEND}")


def _check_torchvision(report: Report) -> None:
    try:
        import torch
        from torchvision.ops import nms

        kept = nms(torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]]), torch.tensor([0.9, 0.8]), 0.5)
        if kept.tolist() != [0]:
            report.problems.append(f"torchvision's nms kept boxes {kept.tolist()} instead of [0]. {_MEND}")
        report.facts["torchvision operator"] = "works"
    except Exception as error:  # As above.
        report.problems.append(
            f"torchvision does not work with this torch: {type(error).__name__}: {error}. The two come in matching "
            "pairs; install both together: pip install --upgrade torch torchvision"
        )
