"""Images a second from files to training batches: Tellapart beside torchvision and timm, in turns, on one machine.

    python benchmarks/input_pipeline.py PHOTOS [--cifar10 PARQUET_FOLDER] [--rounds 3] [--images 3000] [--json]

PHOTOS is a folder of photographs with a folder a class. They are copied until there are enough, each copy with a
comment of its own in its header, so that no two files have the same bytes. Every contender runs in a process of its
own; making its objects does not count, starting its workers does. "first epoch" of Tellapart begins with an empty
cache and includes the pass over all files that checks and hashes them; "later epochs" is the one after it. All deliver
float32 batches of 64 at 224 px: random resized crop, mirroring, normalisation. For CIFAR-10 the images lie in memory on
both sides; batches of 128, shifted by up to 4 px, mirrored, normalised.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NUM_WORKERS = 2
PHOTO_PX, PHOTO_BATCH, CIFAR_BATCH = 224, 64, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.contender:
        print(json.dumps(CONTENDERS[found.contender](found.photos)))
        return
    with tempfile.TemporaryDirectory(prefix="input-pipeline-") as work:
        photos = copy_photos(found.photos, Path(work) / "photos", found.images)
        rates = run_in_turns(dict.fromkeys(("torchvision", "torchvision-tensor", "timm", "tellapart"), photos), found)
        cifar = run_in_turns(dict.fromkeys(("pil-cifar10", "tellapart-cifar10"), found.cifar10), found)
    report = {"machine": machine(), "photos": summary(rates, "first epoch"), "cifar10": summary(cifar, "epoch")}
    print(json.dumps(report) if found.json else in_words(report))


def run_in_turns(contenders: dict[str, Path | None], found: argparse.Namespace) -> dict[str, list[float]]:
    """Return images/s of every contender, a value a round; each round runs all of them, one after another."""
    rates: dict[str, list[float]] = {}
    for number in range(found.rounds):
        for name, data in contenders.items():
            if data is None:
                continue
            with tempfile.TemporaryDirectory(prefix="cache-") as cache:
                environment = {**os.environ, "XDG_CACHE_HOME": cache}
                command = [sys.executable, __file__, str(data), "--contender", name]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            for what, rate in json.loads(done.stdout.splitlines()[-1]).items():
                rates.setdefault(what, []).append(rate)
                print(f"round {number + 1}: {what:34} {rate:9,.0f} images/s", file=sys.stderr, flush=True)
    return rates


def copy_photos(source: Path, target: Path, count: int) -> Path:
    """Copy JPEGs, with their folders, until there are `count`, each with a comment that no other has."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number in range(count):
        path = files[number % len(files)]
        raw, comment = path.read_bytes(), f"copy {number}".encode()
        place = target / path.parent.name / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + raw[2:])
    return target


def timed(batches: Iterable[Any]) -> float:
    """Return images/s over all batches; each is touched, so that nothing is left for later."""
    started_at, count = time.perf_counter(), 0
    for images, *_ in batches:
        count += len(images)
        float(images[-1, -1, -1, -1])
    return count / (time.perf_counter() - started_at)


def torchvision_photos(folder: Path, *, as_tensor: bool) -> dict[str, float]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    varied = [v2.RandomResizedCrop(PHOTO_PX, antialias=True), v2.RandomHorizontalFlip()]
    varied = [v2.ToImage(), *varied] if as_tensor else [*varied, v2.ToImage()]
    transform = v2.Compose([*varied, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    loader = DataLoader(ImageFolder(str(folder), transform), PHOTO_BATCH, shuffle=True, num_workers=NUM_WORKERS)
    return {f"torchvision, {'tensors' if as_tensor else 'PIL'}": timed(loader)}


def timm_photos(folder: Path) -> dict[str, float]:
    import torch
    from timm.data import create_dataset, create_loader

    options = {"is_training": True, "color_jitter": None, "num_workers": NUM_WORKERS, "interpolation": "bilinear"}
    dataset = create_dataset("", root=str(folder), split="")
    loader = create_loader(
        dataset, (3, PHOTO_PX, PHOTO_PX), PHOTO_BATCH, device=torch.device("cpu"), persistent_workers=False, **options
    )
    return {"timm": timed(loader)}


def tellapart_photos(folder: Path) -> dict[str, float]:
    import numpy as np
    import torch

    from tellapart import hardware
    from tellapart.api.reading import open_cache
    from tellapart.config import AugmentConfig, RunConfig, override
    from tellapart.data.augment import Augment
    from tellapart.data.loader import Order, WorkerLoader
    from tellapart.data.preprocess import Preprocess
    from tellapart.data.reading import ReducedImages
    from tellapart.data.scan import scan
    from tellapart.data.sources import open_source

    hardware.keep_freed_memory()  # as `tellapart train` does
    started_at = time.perf_counter()
    source = open_source(folder)
    preprocess = Preprocess(PHOTO_PX, MEAN, STD, resize_px=256)
    cache = open_cache(source, override(RunConfig(), {}), preprocess)
    assert cache is not None
    found = scan(source, preprocess, keep=False, cache=cache)
    loader = WorkerLoader(
        ReducedImages(source, preprocess, cache, cache.find(found.content_hashes)),
        torch.from_numpy(source.targets),
        np.arange(len(source)),
        batch_size=PHOTO_BATCH,
        augment=Augment(AugmentConfig(transforms=("random-resized-crop", "flip"), min_scale=0.08), PHOTO_PX, 0),
        order=Order(0),
        device=torch.device("cpu"),
    )

    def batches(epoch: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        return ((preprocess.normalize(batch.images), batch.targets) for batch in loader.epoch(epoch))

    timed(batches(0))
    first = len(source) / (time.perf_counter() - started_at)
    return {"tellapart, first epoch": first, "tellapart, later epochs": timed(batches(1))}


def pil_cifar10(folder: Path) -> dict[str, float]:
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    images, targets = cifar10_pixels(folder)
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(32, padding=4),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    class InMemory(Dataset[Any]):
        def __len__(self) -> int:
            return len(targets)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.fromarray(images[index])), int(targets[index])

    return {
        "PIL through a DataLoader": timed(DataLoader(InMemory(), CIFAR_BATCH, shuffle=True, num_workers=NUM_WORKERS))
    }


def tellapart_cifar10(folder: Path) -> dict[str, float]:
    import numpy as np
    import torch

    from tellapart.config import AugmentConfig
    from tellapart.data.augment import Augment
    from tellapart.data.loader import MemoryLoader, Order
    from tellapart.data.preprocess import Preprocess

    images, targets = cifar10_pixels(folder)
    preprocess = Preprocess(32, MEAN, STD)
    loader = MemoryLoader(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(targets),
        np.arange(len(targets)),
        batch_size=CIFAR_BATCH,
        augment=Augment(AugmentConfig(transforms=("flip-crop",)), 32, 0),
        order=Order(0),
    )
    return {"tellapart": timed((preprocess.normalize(batch.images), batch.targets) for batch in loader.epoch(0))}


def cifar10_pixels(folder: Path) -> tuple[Any, Any]:
    """Return CIFAR-10's training images, uint8 `(N, 32, 32, 3)`, and targets."""
    import numpy as np

    from tellapart.data.decode import decode
    from tellapart.data.sources import open_source

    source = open_source(folder)
    rows = [row for row, part in enumerate(source.parts) if part != "test"]
    return np.stack([decode(source.read(row), 3).transpose(1, 2, 0) for row in rows]), source.targets[rows]


CONTENDERS: dict[str, Callable[[Path], dict[str, float]]] = {
    "torchvision": lambda folder: torchvision_photos(folder, as_tensor=False),
    "torchvision-tensor": lambda folder: torchvision_photos(folder, as_tensor=True),
    "timm": timm_photos,
    "tellapart": tellapart_photos,
    "pil-cifar10": pil_cifar10,
    "tellapart-cifar10": tellapart_cifar10,
}


def summary(rates: dict[str, list[float]], unit: str) -> dict[str, Any]:
    """Return the median rates, and each of Tellapart's over the best rival's, round by round."""
    rivals = [values for name, values in rates.items() if not name.startswith("tellapart")]
    best = [max(values) for values in zip(*rivals, strict=True)]
    ratios = {
        name: [own / rival for own, rival in zip(values, best, strict=True)]
        for name, values in rates.items()
        if name.startswith("tellapart")
    }
    return {"unit": unit, "images_per_s": {k: statistics.median(v) for k, v in rates.items()}, "ratios": ratios}


def machine() -> dict[str, Any]:
    import timm
    import torch
    import torchvision

    from tellapart import hardware

    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
    return {"cpu": hardware.cpu_name(), "cores": hardware.num_cpus(), **versions}


def in_words(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{key} {value}" for key, value in report["machine"].items())]
    for title in ("photos", "cifar10"):
        part = report[title]
        lines += ["", f"{title:34} {'images/s':>10}   over the best rival (least to most)"]
        for name, rate in part["images_per_s"].items():
            ratios = part["ratios"].get(name)
            shown = f"{statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})" if ratios else ""
            lines.append(f"  {name:32} {rate:10,.0f}   {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
