"""What training minimises and how it moves the weights: losses, optimizers, schedules and averaged weights."""

from tellapart.optim.ema import EMA
from tellapart.optim.layout import align_layouts
from tellapart.optim.losses import LOSSES, Loss, create_loss
from tellapart.optim.muon import Muon, muon_parameter_groups, newton_schulz
from tellapart.optim.optimizers import OPTIMIZERS, OptimizerSettings, create_optimizer
from tellapart.optim.schedules import SCHEDULES, SETTINGS_USED, Schedule, ScheduleSettings, create_schedule, lr_factor
from tellapart.optim.torch_schedule import TorchSchedule

__all__ = [
    "EMA",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "SETTINGS_USED",
    "Loss",
    "Muon",
    "OptimizerSettings",
    "Schedule",
    "ScheduleSettings",
    "TorchSchedule",
    "align_layouts",
    "create_loss",
    "create_optimizer",
    "create_schedule",
    "lr_factor",
    "muon_parameter_groups",
    "newton_schulz",
]
