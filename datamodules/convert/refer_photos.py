"""Where the photos of a REFER root are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

IMAGE_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "train2014",
    "images/mscoco/images/train2017",
    "images/train2017",
    "train2017",
    "images/saiapr_tc-12",
)
"""Where photos are looked for under the root; the first is REFER's own layout."""


class PhotoFinder:
    """Finds the photo of an image in the folders of a root.

    Args:
        root: the REFER root.
        folders: further folders, searched first.

    Attributes:
        searched: all folders, in the order of the search.
        sought: ids of the images asked for.
        missing: file names of those that were not found, by id.
    """

    def __init__(self, root: Path, folders: Sequence[Path] = ()) -> None:
        self.searched = [*folders, *(root / folder for folder in IMAGE_FOLDERS)]
        self.sought: set[int] = set()
        self.missing: dict[int, str] = {}
        self._present = [folder for folder in self.searched if folder.is_dir()]

    def find(self, file_name: str, image_id: int) -> Path | None:
        """The file called ``file_name``, or COCO's 2017 copy of the same picture (``%012d.jpg``), or ``None``.

        Nothing outside the folders is looked at, whatever ``file_name`` says.
        """
        self.sought.add(image_id)
        relative = PurePosixPath(file_name)
        names = [relative.name, f"{image_id:012d}.jpg"]
        if not relative.is_absolute() and ".." not in relative.parts:
            names.insert(0, file_name)
        for name in filter(None, names):
            for folder in self._present:
                if (folder / name).is_file():
                    return folder / name
        self.missing[image_id] = file_name
        return None
