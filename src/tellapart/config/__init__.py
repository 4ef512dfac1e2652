"""RunConfig: every choice of a run, typed, documented, checked all at once, stored as JSON that loads back."""

from __future__ import annotations

from tellapart.config.fields import Option, get, options, override, type_name
from tellapart.config.sections import (
    AugmentConfig,
    ComputeConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from tellapart.config.stored import CONFIG_VERSION, dump, load, to_dict

__all__ = [
    "CONFIG_VERSION",
    "AugmentConfig",
    "ComputeConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Option",
    "PreprocessConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "dump",
    "get",
    "load",
    "options",
    "override",
    "to_dict",
    "type_name",
]
