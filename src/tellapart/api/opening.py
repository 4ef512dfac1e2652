"""Open data as a run's config says."""

from __future__ import annotations

from typing import Any

from tellapart.config import DataConfig
from tellapart.data.sources import ColumnNames, Source, open_source


def open_data(data: Any, config: DataConfig) -> Source:
    """Return the source for `data`, its columns and task as the config has them.

    Raises:
        DataError: it cannot be opened.
        ConfigError: the labels do not allow the task.
    """
    columns = ColumnNames(
        image=config.image_column,
        label=config.label_column,
        split=config.split_column,
        group=config.group_column,
        time=config.time_column,
        separator=config.label_separator,
    )
    return open_source(data, data_dir=config.data_dir, task=config.task, columns=columns)
