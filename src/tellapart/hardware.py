"""The device and the precision that this machine computes fast in."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tellapart.errors import MissingError

if TYPE_CHECKING:
    import torch


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device: `wanted`, or for "auto" the first of CUDA, MPS and the CPU that is there.

    Raises:
        MissingError: the wanted device is not there, or is no device at all.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise MissingError(f"unknown device '{wanted}'. Expected auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise MissingError(
                f"device '{wanted}' is not there: torch {torch.__version__} sees {count} CUDA device(s). "
                "Use --device auto, or see `tellapart doctor`."
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise MissingError("device 'mps' is not there. Use --device auto, or see `tellapart doctor`.")
    elif device.type not in ("cpu", "mps"):
        raise MissingError(f"device '{wanted}' is not supported. Expected auto, cpu, cuda, cuda:1 or mps.")
    return device


def choose_precision(device: torch.device, wanted: str = "auto") -> str:
    """Return "bf16" or "float32": `wanted`, or for "auto" bf16 where the hardware is fast at it.

    bf16 without hardware for it is emulated: the article's CIFAR-10 network trained 12 times slower than in float32
    on a CPU with AVX2 alone (docs/LOG.md).
    """
    if wanted != "auto":
        return wanted
    return "bf16" if has_fast_bf16(device) else "float32"


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 in hardware: CUDA from compute capability 8, CPUs with the units."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a network computes in `precision` over float32 weights."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@cache
def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags as Linux names them; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def num_cpus() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_bytes(device: torch.device) -> int:
    """Return about how many bytes of memory are free on the device (on the CPU: what the system calls available)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _container_free_bytes())
    except OSError:
        pass
    return 2 * 2**30  # Not known (not Linux): assume what any machine of today can spare.


def _container_free_bytes() -> int:
    """Return what a container's memory limit leaves (cgroup v2), or a very large number where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit == "max":
            return 2**62
        # Files read lately count as used until the kernel needs their place; reading a data set fills it with them.
        counts = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        return max(int(limit) - used + int(counts.get("inactive_file", 0)), 0)
    except (OSError, ValueError):
        return 2**62


# Of malloc.h: how much free memory is handed back, how many blocks may be fetched from the system one by one, and how
# many pools the threads have: with one, a thread uses again what another has freed.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@cache
def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back; return whether that could be set.

    The C library hands every freed block above 32 MiB back to the system and fetches the next one anew, page by page.
    A batch of photographs and most activations are larger: normalising one took eight times as long, a training step a
    tenth longer (docs/LOG.md). The process then keeps what it needed at its peak. Source: mallopt(3) of glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    return all(mallopt(parameter, value) for parameter, value in settings.items())


def describe_device(device: torch.device) -> str:
    """Return the device in words: its type and its maker's name for it."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({cpu_name()}, {num_cpus()} cores, {torch.get_num_threads()} threads)"
    return str(device)


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
