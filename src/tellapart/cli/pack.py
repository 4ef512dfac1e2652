"""`tellapart pack`."""

from __future__ import annotations

import json
import sys

from tellapart.cli.parser import Parser
from tellapart.errors import Interrupted

_EXAMPLES = """
tellapart pack path/to/photos packed/photos
tellapart pack labels.csv packed/photos --label-column species --max-size 384
tellapart pack path/to/photos packed/photos --format webdataset --shard-mib 512
tellapart pack path/to/photos packed/photos --max-size 0 --bad-images skip
"""
_COLUMNS = {
    "image": "of paths or bytes",
    "label": "of labels",
    "split": "that says train, val or test",
    "group": "of groups",
    "time": "of times",
}


def make_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        "pack",
        "Write any source of labelled images as shards, large images scaled down. Stopped at any moment, the same "
        "command goes on from there.",
        _EXAMPLES,
    )
    parser.add_argument("data", help="a folder, a manifest, Parquet or tar files, an npz file, a data set's name")
    parser.add_argument("out", help="the folder for the shards: new, empty, or of the same command")
    add = parser.add_argument
    add("--format", choices=("parquet", "webdataset"), default="parquet", help="(default: parquet)")
    add("--max-size", type=int, default=256, metavar="PX", help="scale down to this shorter side; 0: never (256)")
    add(
        "--encode",
        choices=("keep", "jpeg", "png", "webp"),
        default="keep",
        help="how scaled images are stored; keep: lossy ones as JPEG, others as PNG (default: keep)",
    )
    add("--quality", type=int, default=90, metavar="INT", help="of JPEG and WebP, 1 to 100 (default: 90)")
    add("--shard-mib", type=int, default=256, metavar="INT", help="about how large a shard becomes (default: 256)")
    add("--no-shuffle", action="store_true", help="keep the order instead of mixing the images of a part")
    add("--seed", type=int, default=0, metavar="INT", help="of the mixing (default: 0)")
    add("--bad-images", choices=("fail", "skip"), default="fail", help="what cannot be read (default: fail)")
    add("--num-workers", type=int, default=-1, metavar="INT", help="processes; 0: none, -1: one a core (default: -1)")
    add("--data-dir", default="", metavar="DIR", help="where downloaded data sets lie or go")
    add("--task", default="auto", metavar="NAME", help="auto, multiclass, multilabel, regression (default: auto)")
    for name, what in _COLUMNS.items():
        add(f"--{name}-column", default="", metavar="NAME", help=f"manifests, Parquet: the column {what}")
    add("--label-separator", default="", metavar="SIGN", help="manifests: the sign between several labels")
    add("--json", action="store_true", help="print the result as JSON on stdout, all else on stderr")
    return parser


def run(arguments: list[str]) -> int:
    """Pack, and say what was saved."""
    found = make_parser().parse(arguments)
    from tellapart.api.pack import pack
    from tellapart.data.sources import ColumnNames
    from tellapart.training.progress import make_progress

    columns = ColumnNames(
        **{name: getattr(found, f"{name}_column") for name in _COLUMNS}, separator=found.label_separator
    )
    try:
        packed = pack(
            found.data,
            found.out,
            format=found.format,
            max_size_px=found.max_size,
            encode=found.encode,
            quality=found.quality,
            shard_mib=found.shard_mib,
            shuffle=not found.no_shuffle,
            seed=found.seed,
            bad_images=found.bad_images,
            num_workers=found.num_workers,
            data_dir=found.data_dir,
            task=found.task,
            columns=columns,
            progress=make_progress(True, sys.stderr if found.json else sys.stdout),
        )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; what is whole is kept in {found.out}, and the same command goes on.") from None
    print(json.dumps(packed.as_dict()) if found.json else packed)
    return 0
