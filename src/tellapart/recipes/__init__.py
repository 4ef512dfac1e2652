"""Recipes: functions that return a RunConfig for what is known of the data."""

from __future__ import annotations

from collections.abc import Callable

from tellapart.config import RunConfig
from tellapart.recipes.automatic import automatic
from tellapart.recipes.digits import digits_quick
from tellapart.recipes.summary import DataSummary
from tellapart.recipes.tutorial import tutorial

RECIPES: dict[str, Callable[[DataSummary], RunConfig]] = {
    "auto": automatic,
    "digits-quick": digits_quick,
    "tutorial": tutorial,
}

__all__ = ["RECIPES", "DataSummary", "automatic", "digits_quick", "tutorial"]
