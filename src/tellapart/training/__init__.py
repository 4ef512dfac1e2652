"""The loop and what it needs: step, state, checkpoints, history, display; and the tutorial's three functions."""

from __future__ import annotations

from tellapart.training.loop import fit, train_epoch
from tellapart.training.plain import train_model, train_one_epoch, validate
from tellapart.training.state import TrainState
from tellapart.training.step import TrainStep

__all__ = ["TrainState", "TrainStep", "fit", "train_epoch", "train_model", "train_one_epoch", "validate"]
