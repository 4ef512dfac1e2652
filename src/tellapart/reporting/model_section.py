"""The network, what it costs, how it was configured, and how to make it again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

import torch

from tellapart import hardware
from tellapart.auditing.findings import printable
from tellapart.errors import ConfigError
from tellapart.exporting.classifier import Classifier
from tellapart.models import summary
from tellapart.models.summary import LayerRow, ModelSummary
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.reproduce import Choice, as_python, choices, command, recipe_config, recorded
from tellapart.reporting.section import Section, render

_MAX_LATENCY_SECONDS = 0.25
# Measured once for each network, so that a page that is made twice from the same facts says the same.
_MEASURED: WeakKeyDictionary[torch.nn.Module, float | None] = WeakKeyDictionary()
_FEWEST_CALLS, _MOST_CALLS = 3, 30
_MOST_LAYERS = 400
_BY = {"you": "you", "recipe": "the recipe", "found": "data or machine"}


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return what the network is and costs, the config by who chose it, where it was made, and how to make it again."""
    base = recipe_config(facts.config, facts.source)
    found = choices(facts.config, base)
    layers = layers_of(facts.classifier)
    html = render(
        "model.html",
        name=printable(facts.config.model.name),
        machine=printable(hardware.describe_device(facts.classifier.device)),
        tiles=tiles(facts, layers),
        layers=[] if layers is None else [_layer(row) for row in layers.rows[:_MOST_LAYERS]],
        num_layers=0 if layers is None else len(layers.rows),
        num_layers_left_out=0 if layers is None else max(0, len(layers.rows) - _MOST_LAYERS),
        prominent=prominent(found),
        everything=[_printable(choice) for choice in found],
        by=_BY,
        recipe=printable(facts.config.recipe),
        knows_recipe=base is not None,
        facts_of_run=where_made(facts.environment),
        commands=how_to_reproduce(facts, command(facts, base)),
        python="" if facts.config.data.source != "<arrays>" else as_python(facts.config, base),
        path=printable(facts.path),
        license=printable(str(facts.classifier.info.get("license") or "")),
    )
    return Section("model", "The model, and how to make it again", html)


# --- what it is and costs --------------------------------------------------------------------------------------------


def layers_of(classifier: Classifier) -> ModelSummary | None:
    """Return the table of layers for one image, or None for a network that gives none."""
    preprocess = classifier.module.preprocess
    try:
        return summary(classifier.module.network, (preprocess.num_channels, preprocess.size_px, preprocess.size_px))
    except ConfigError:
        return None


def _layer(row: LayerRow) -> dict[str, Any]:
    return {
        "name": printable(row.name) or "(model)",
        "type": printable(row.type),
        "shape": "–" if row.output_shape is None else " x ".join(map(str, row.output_shape)),
        "params": "reused" if row.is_reused else f"{row.num_params:,}",
        "flops": in_flops(2 * row.multiply_adds) if row.multiply_adds else "",
    }


def tiles(facts: RunFacts, layers: ModelSummary | None) -> list[tuple[str, str, str]]:
    """Return (what, how much, what that means) of the network."""
    classifier, preprocess = facts.classifier, facts.classifier.module.preprocess
    channels = "colour" if preprocess.num_channels == 3 else "grey"
    found = [("input", f"{preprocess.size_px} x {preprocess.size_px}", f"pixels, {channels}")]
    if layers is not None:
        found += [
            ("parameters", in_short(layers.total_params), f"{layers.total_params:,}"),
            (
                "computation",
                in_flops(2 * layers.multiply_adds),
                f"for one image: {in_short(layers.multiply_adds)} multiply-adds x 2",
            ),
        ]
    if size := weights_bytes(facts.path):
        found.append(("file", in_bytes(size), "model.safetensors"))
    network = classifier.module.network
    if network not in _MEASURED:
        _MEASURED[network] = latency_s(classifier)
    seconds = _MEASURED[network]
    if seconds is not None:
        found.append(("time for one image", in_seconds(seconds), "network alone, batch of 1, when this page was made"))
    return found


@torch.inference_mode()
def latency_s(classifier: Classifier, max_seconds: float = _MAX_LATENCY_SECONDS) -> float | None:
    """Return the median of a few timed calls with one image of zeros, in seconds; None where it cannot be called.

    The first call, which sets up memory, is not counted. No more calls are made after `max_seconds`, except that one
    is always timed.
    """
    preprocess = classifier.module.preprocess
    side = preprocess.resize_px
    image = torch.zeros((1, preprocess.num_channels, side, side), dtype=torch.uint8)
    image = image.contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    started_at = time.perf_counter()
    try:
        classifier.outputs(image).cpu()
        while len(times) < _MOST_CALLS:
            called_at = time.perf_counter()
            # Copied to the CPU, because a GPU would otherwise only have been told to begin.
            classifier.outputs(image).cpu()
            times.append(time.perf_counter() - called_at)
            if time.perf_counter() - started_at > max_seconds:
                break
    except RuntimeError:  # out of memory, or a network that refuses zeros
        return None
    return median(times)


def weights_bytes(path: str) -> int:
    """Return the size of the weights that ship, in bytes; 0 where they are not in the run's folder."""
    try:
        return (Path(path) / "bundle" / "model.safetensors").stat().st_size
    except OSError:
        return 0


def in_short(number: int) -> str:
    """Return a count with three digits and what it counts in.

    >>> in_short(815018), in_short(11177538), in_short(42)
    ('815 k', '11.2 M', '42')
    """
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g}{unit}"
    return str(number)


def in_flops(number: int) -> str:
    """Return floating-point operations with their unit.

    >>> in_flops(78320640)
    '78.3 MFLOPs'
    """
    short = in_short(number)
    return (
        short.replace(" k", " kFLOPs").replace(" M", " MFLOPs").replace(" G", " GFLOPs")
        if " " in short
        else (f"{short} FLOPs")
    )


def in_bytes(number: int) -> str:
    """Return a size, in powers of ten as disks are sold.

    >>> in_bytes(3273456), in_bytes(900)
    ('3.27 MB', '900 bytes')
    """
    short = in_short(number)
    return short.replace(" k", " kB").replace(" M", " MB").replace(" G", " GB") if " " in short else f"{short} bytes"


def in_seconds(seconds: float) -> str:
    """Return a short time.

    >>> in_seconds(0.00123), in_seconds(0.25), in_seconds(2.5)
    ('1.2 ms', '250 ms', '2.5 s')
    """
    if seconds >= 1:
        return f"{seconds:.2g} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.00995 else f"{1000 * seconds:.1f} ms"


# --- the config ------------------------------------------------------------------------------------------------------


def _printable(choice: Choice) -> Choice:
    return Choice(choice.name, printable(choice.value), printable(choice.default), choice.doc, choice.by)


def prominent(found: list[Choice]) -> list[Choice]:
    """Return what is not as by default: the user's choices first, then the recipe's, then what was found out."""
    order = list(_BY)
    return sorted((_printable(each) for each in found if each.by), key=lambda each: order.index(each.by))


# --- where it was made, and how to make it again ---------------------------------------------------------------------


def where_made(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, value) of all that is known of where the run was made; nothing that is known is left out."""
    found: list[tuple[str, str]] = []
    if typed := recorded(environment):
        found.append(("command", typed))
    elif isinstance(environment.get("command"), list):
        found.append(("command", shlex.join(map(str, environment["command"]))))
    found += _of_git(environment.get("git"))
    known = ("command", "git", "hardware", "platform", "versions")
    for inner in (environment.get("hardware"), environment.get("versions")):
        found += _flat("", inner or {})
    found += _flat("", {key: value for key, value in environment.items() if key not in known})
    if environment.get("platform"):
        found.append(("platform", str(environment["platform"])))
    return [(printable(name), printable(value)) for name, value in found]


def _of_git(git: Any) -> list[tuple[str, str]]:
    if not isinstance(git, Mapping) or not git.get("commit"):
        return []
    changed = {True: ", with changes that are not committed", None: ", maybe with changes"}.get(git.get("dirty"), "")
    return [("git commit of the working folder", f"{git['commit']}{changed}")]


def _flat(prefix: str, values: Any) -> list[tuple[str, str]]:
    """Return nested plain data as (dotted name, value), what is None or empty left out."""
    if isinstance(values, Mapping):
        return [pair for key, value in values.items() for pair in _flat(f"{prefix} {key}".strip(), value)]
    return [] if values is None or values == "" else [(prefix, str(values))]


def how_to_reproduce(facts: RunFacts, again: str) -> list[tuple[list[str], str]]:
    """Return (a command in pieces that belong on one line, why): train again where that can be said, judge, report."""
    split = facts.judged_on
    steps = [(again, "train it again")] if again else []
    steps += [
        (shlex.join(["tellapart", "evaluate", facts.path, "--split", split]), f"measure it again on {split}"),
        (shlex.join(["tellapart", "report", facts.path]), "make this page again"),
    ]
    return [(_pieces(line), why) for line, why in steps]


def _pieces(line: str) -> list[str]:
    """Return a command in pieces: an option and its value are one."""
    pieces: list[str] = []
    for word in map(shlex.quote, shlex.split(line)):
        if pieces and pieces[-1].startswith("--") and "=" not in pieces[-1] and " " not in pieces[-1]:
            pieces[-1] += f" {printable(word)}"
        else:
            pieces.append(printable(word))
    return pieces
