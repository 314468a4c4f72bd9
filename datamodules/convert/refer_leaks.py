"""Images of a train split that are evaluated on elsewhere: RefCOCO and its relatives share COCO's train2014 photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.convert.errors import BadSourceError
from datamodules.convert.refer_files import ReferFiles, read_refs, refs_name

TRAIN = "train"

BENCHMARKS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}
"""Datasets that share their photos, and whose split of each is evaluated on."""


@dataclass
class Leaks:
    """Images of ``train`` that evaluation splits show too.

    Attributes:
        images: their ids.
        sources: how many of them each refs file evaluates on.
        unread: refs files that could not be compared.
    """

    images: set[int] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def find_leaks(
    files: ReferFiles, root: Path, dataset: str, split_by: str, *, held_out: Sequence[Path] = (), keep: bool = False
) -> Leaks:
    """Compare the images of ``train`` with those of every evaluation split in reach.

    In reach are the other splits of the same file, the benchmark splits of the datasets beside it (of this dataset
    too: the google splits divide the objects of images that UNC and UMD evaluate on), and what ``held_out`` names.

    Args:
        files: the dataset.
        root: the REFER root.
        dataset: its folder there.
        split_by: whose split it is.
        held_out: further refs files.
        keep: only count; a file beside the dataset that cannot be read is no error then.

    Raises:
        BadSourceError: a refs file cannot be read, or no image would be left.
    """
    trained = {ref.image_id for ref in files.refs if ref.split == TRAIN}
    evaluated = {f"{dataset} {refs_name(dataset, split_by)}": _evaluated(files)}
    leaks = Leaks()
    beside = benchmark_refs(root, dataset, split_by)
    named = {path.resolve() for path in held_out}
    for path in [*held_out, *(path for path in beside if path.resolve() not in named)]:
        name = f"{path.parent.name} {path.stem}"
        try:
            images = _evaluated(read_refs(path))
        except BadSourceError as error:
            if path in held_out:
                raise BadSourceError(f"--held-out {path}: its images cannot leave train. {error}") from error
            if not keep:
                raise BadSourceError(
                    f"{error}\nIt is read because the images that {path.parent.name} evaluates on leave the train "
                    f"split of {dataset}. Repair it, move it away, or pass --keep-leaks to keep all images."
                ) from error
            leaks.unread.append(name)
        else:
            evaluated[name] = evaluated.get(name, set()) | images
    found = {name: len(trained & images) for name, images in evaluated.items()}
    leaks.sources = {name: number for name, number in found.items() if number}
    leaks.images = trained & set().union(*evaluated.values())
    if trained and leaks.images == trained and not keep:
        raise BadSourceError(
            f"all {len(trained)} images of {dataset} train are images of evaluation splits too, so none is left "
            f"({', '.join(leaks.sources)}). The google splits divide objects, not images; pass --keep-leaks to train "
            "on them all the same."
        )
    return leaks


def _evaluated(files: ReferFiles) -> set[int]:
    return set().union(*(images for split, images in files.image_ids.items() if split != TRAIN))


def benchmark_refs(root: Path, dataset: str, split_by: str) -> list[Path]:
    """Refs files under ``root`` that benchmarks evaluate on and that share this dataset's photos, itself left out."""
    found = []
    for other, by in BENCHMARKS.items() if dataset in BENCHMARKS else ():
        paths = [root / other / f"{refs_name(other, by)}{suffix}" for suffix in (".p", ".json")]
        found += [path for path in paths if path.is_file() and (other, by) != (dataset, split_by)][:1]
    return found
