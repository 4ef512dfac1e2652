"""Packing: any source written as Parquet or WebDataset shards, with large images scaled down; resumable.

`plan` says which sample belongs in which shard, `encode` what is stored of an image, `workers` computes that in
processes, `writing` makes the shards, and `folder` keeps OUT in order while that lasts.
"""

from tellapart.data.packing.encode import ENCODINGS, Encoded, Reduction, reduce_image
from tellapart.data.packing.formats import FORMATS
from tellapart.data.packing.plan import Plan, Settings, Shard
from tellapart.data.packing.writing import ShardRecord, pack_source

__all__ = [
    "ENCODINGS",
    "FORMATS",
    "Encoded",
    "Plan",
    "Reduction",
    "Settings",
    "Shard",
    "ShardRecord",
    "pack_source",
    "reduce_image",
]
