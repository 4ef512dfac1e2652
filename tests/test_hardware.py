"""Which device and precision are chosen, and how much memory is believed to be free, on machines that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from tellapart import hardware
from tellapart.errors import MissingError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FakeFiles = Callable[[dict[str, str]], None]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> FakeFiles:
    """Return a function that makes these the only files of the machine."""

    def install(texts: dict[str, str]) -> None:
        class FakePath:
            def __init__(self, name: str) -> None:
                self.name = name

            def read_text(self, **_: object) -> str:
                if self.name not in texts:
                    raise FileNotFoundError(self.name)
                return texts[self.name]

        monkeypatch.setattr(hardware, "Path", FakePath)

    return install


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


# --- device ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert hardware.choose_device() == CPU
    assert hardware.choose_device("cpu") == CPU


def test_auto_prefers_cuda_then_mps(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hardware.choose_device() == torch.device("mps")
    assert hardware.choose_device("mps") == torch.device("mps")
    assert hardware.choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.choose_device() == CUDA


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_chosen_by_its_number() -> None:
    assert hardware.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(MissingError, match=r"'cuda:2' is not there: torch .* sees 2 CUDA"):
        hardware.choose_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_no_silent_cpu(wanted: str) -> None:
    with pytest.raises(MissingError, match=r"is not there.*--device auto"):
        hardware.choose_device(wanted)


@pytest.mark.parametrize("wanted", ["", "gpu", "CUDA", "cuda:-1", "cuda:x", "cuda:9999999999999999999", "cpu ", "meta"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(MissingError, match=r"Expected auto, cpu, cuda, cuda:1 or mps"):
        hardware.choose_device(wanted)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), "float32"), (("avx2", "avx512f"), "float32"), (("avx512_bf16",), "bf16"), (("avx2", "amx_bf16"), "bf16")],
)
def test_auto_precision_on_a_cpu(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: str) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert hardware.choose_precision(CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bf16"), ((12, 0), "bf16")])
def test_auto_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.choose_precision(CUDA) == expected


@pytest.mark.parametrize("wanted", ["bf16", "float32"])
def test_a_wanted_precision_is_taken(wanted: str) -> None:
    assert hardware.choose_precision(CPU, wanted) == wanted


def test_mps_computes_in_float32() -> None:
    assert hardware.choose_precision(torch.device("mps")) == "float32"


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_autocast_computes_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    weights = torch.ones(2, 2)
    with hardware.autocast(CPU, precision):
        assert (weights @ weights).dtype == dtype
    assert (weights @ weights).dtype == torch.float32


# --- processor -------------------------------------------------------------------------------------------------------


def test_cpu_flags_and_name_are_read_from_linux(files: FakeFiles) -> None:
    files({"/proc/cpuinfo": "processor\t: 0\nmodel name\t: Deep: Thought 42\nflags\t\t: fpu avx2\nflags\t\t: other\n"})
    assert hardware.cpu_flags.__wrapped__() == {"fpu", "avx2"}
    assert hardware.cpu_name() == "Deep: Thought 42"


@pytest.mark.parametrize("texts", [{}, {"/proc/cpuinfo": "processor : 0\nFeatures : bf16\n"}], ids=["no file", "ARM"])
def test_a_machine_that_does_not_say_has_no_flags_and_a_name(files: FakeFiles, texts: dict[str, str]) -> None:
    files(texts)
    assert hardware.cpu_flags.__wrapped__() == frozenset()
    assert hardware.cpu_name()


def test_num_cpus_counts_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= hardware.num_cpus() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert hardware.num_cpus() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert hardware.num_cpus() == 1


def test_the_cpu_is_described() -> None:
    text = hardware.describe_device(CPU)
    assert text.startswith("cpu (")
    assert f"{hardware.num_cpus()} cores, {torch.get_num_threads()} threads" in text


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Deep Thought")
    assert hardware.describe_device(torch.device("cuda:1")) == "cuda:1 (Deep Thought)"


# --- memory ----------------------------------------------------------------------------------------------------------

MEMINFO = {"/proc/meminfo": "MemTotal:  900 kB\nMemFree:  100 kB\nMemAvailable:  500 kB\n"}


def cgroup(limit: str, used: int, stat: str = "anon 1\ninactive_file 0\n") -> dict[str, str]:
    root = "/sys/fs/cgroup/memory"
    return {f"{root}.max": f"{limit}\n", f"{root}.current": f"{used}\n", f"{root}.stat": stat}


def test_free_memory_is_what_the_system_calls_available(files: FakeFiles) -> None:
    files(MEMINFO)
    assert hardware.free_memory_bytes(CPU) == 500 * 1024
    files(MEMINFO | cgroup("max", 10**9))
    assert hardware.free_memory_bytes(CPU) == 500 * 1024


@pytest.mark.parametrize(
    ("limit", "used", "stat", "expected"),
    [
        ("300000", 100000, "anon 1\ninactive_file 0\n", 200000),
        # What was read from disk counts as used, and makes room for whoever asks.
        ("300000", 290000, "anon 1\ninactive_file 150000\nactive_file 9\n", 160000),
        ("300000", 300001, "anon 1\n", 0),
        ("9000000", 0, "", 500 * 1024),
    ],
)
def test_a_container_may_leave_less(files: FakeFiles, limit: str, used: int, stat: str, expected: int) -> None:
    files(MEMINFO | cgroup(limit, used, stat))
    assert hardware.free_memory_bytes(CPU) == expected


def test_a_limit_that_cannot_be_read_is_none(files: FakeFiles) -> None:
    files(MEMINFO | cgroup("300000", 1) | {"/sys/fs/cgroup/memory.current": "?"})
    assert hardware.free_memory_bytes(CPU) == 500 * 1024


def test_where_nobody_tells_two_gib_are_assumed(files: FakeFiles) -> None:
    files({})
    assert hardware.free_memory_bytes(CPU) == 2 * 2**30


def test_free_memory_of_a_gpu_is_the_drivers_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert hardware.free_memory_bytes(CUDA) == 123
