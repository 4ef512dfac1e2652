from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import torch

from tellapart.optim import OPTIMIZERS
from tellapart.optim.startup import without_compiler

# In another process: this one may have imported the compiler already.
SCRIPT = """
    import copy, sys, warnings
    import torch
    from torch import nn
    from tellapart.optim import EMA, OPTIMIZERS, create_loss, create_optimizer, create_schedule

    def build(name):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))
        return model, create_optimizer(name, model, lr=0.01, weight_decay=0.1)

    loss = create_loss("cross-entropy", label_smoothing=0.1)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3])

    def train(model, optimizer, update):
        schedule = create_schedule("one-cycle", optimizer, total_steps=9, steps_per_epoch=3)
        ema = EMA(model, 0.9)
        for step in range(3):
            schedule.before_step(step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(images)
            loss(logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            update()
            schedule.after_step(step)
            optimizer.zero_grad()
            ema.update(step)
        return [p.detach().clone() for p in model.parameters()]

    lean = {}
    for name in OPTIMIZERS:
        model, optimizer = build(name)
        lean[name] = train(model, optimizer, optimizer.step)
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert "torch._dynamo" not in sys.modules, name
    print("lean", len(lean))

    import torch._dynamo
    def assert_equal(found, name):
        assert all(torch.equal(a, b) for a, b in zip(found, lean[name], strict=True)), name
    for name in OPTIMIZERS:
        model, optimizer = build(name)
        assert_equal(train(model, optimizer, optimizer.step), name)
    print("imported", len(lean))

    warnings.simplefilter("ignore")  # The compiler warns about what it looks through.
    model, optimizer = build("adamw")
    assert_equal(train(model, optimizer, torch.compile(optimizer.step, backend="eager")), "adamw")
    print("compiled", 1)
"""


def test_training_imports_no_compiler_and_compiles_to_the_same_bits() -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split("\n")[:3] == [f"lean {len(OPTIMIZERS)}", f"imported {len(OPTIMIZERS)}", "compiled 1"]


def test_torchs_mark_is_found_on_the_methods_that_carry_it() -> None:
    # Fails when a torch release moves the mark: then a run pays 2 s at its start, and is right nevertheless.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(torch.optim.Optimizer, name)
        assert without_compiler(method) is method.__wrapped__


def test_another_decorator_is_left_in_place() -> None:
    @functools.wraps(torch.optim.Optimizer.zero_grad)
    def traced(*args: object) -> None:
        torch.optim.Optimizer.zero_grad(*args)  # type: ignore[arg-type]

    assert without_compiler(traced) is traced
    assert without_compiler(len) is len
