"""The second pass over rows: those about one image are gathered, on disk while they wait for the others."""

from __future__ import annotations

import itertools
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, overload

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_files import DataFile
from datamodules.convert.hf_forms import Cells, RowForm
from datamodules.convert.hf_rows import open_rows
from datamodules.convert.hf_scan import Scan
from datamodules.convert.rows import KeyMaker, RowsJob, RowTarget

_Waiting = RowTarget | BadItemError


@dataclass(frozen=True)
class GroupedRows(Sequence[RowsJob]):
    """The jobs of one split, made anew whenever they are gone through; an image comes with the last of its rows.

    Attributes:
        form: what the rows mean.
        files: the files.
        scan: of these files.
        wanted: groups to give.
    """

    form: RowForm
    files: Sequence[DataFile]
    scan: Scan
    wanted: frozenset[int]

    def __len__(self) -> int:
        return len(self.wanted)

    @overload
    def __getitem__(self, index: int) -> RowsJob: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RowsJob]: ...
    def __getitem__(self, index: int | slice) -> RowsJob | Sequence[RowsJob]:
        if isinstance(index, slice):
            return list(itertools.islice(iter(self), *index.indices(len(self))))
        place = range(len(self))[index]
        return next(itertools.islice(iter(self), place, None))

    def __iter__(self) -> Iterator[RowsJob]:
        keys = KeyMaker()
        left = self.scan.size[:]
        with tempfile.TemporaryFile() as disk:
            waiting = _Spool(disk)
            for file, groups in zip(self.files, self.scan.rows, strict=True):
                rows = open_rows(file.path)
                wanted = [group in self.wanted for group in groups]
                for number, cells in rows.read(self.form.columns, partial(_any, wanted)):
                    group = groups[number]
                    if isinstance(cells, BadItemError):
                        continue
                    where = f"{file.name} {rows.place(number)}"
                    left[group] -= 1
                    found = self._target(cells, where)
                    if left[group]:
                        waiting.put(group, found)
                    else:
                        yield self._job(cells, where, [*waiting.take(group), found], keys)

    def _target(self, cells: Cells, where: str) -> _Waiting:
        try:
            return self.form.target(cells, where)
        except BadItemError as error:
            return error

    def _job(self, cells: Cells, where: str, found: list[_Waiting], keys: KeyMaker) -> RowsJob:
        try:
            image = self.form.image(cells, where)
        except BadItemError as error:
            raise BadSourceError(
                f"{error}. It was usable a while ago: do not change files while they are read."
            ) from error
        if image.photo is None:
            raise BadSourceError(f"{where}: its photo {image.file_name} went away while it was needed.")
        stem = image.file_name.rpartition(".")[0] or image.file_name
        job = RowsJob(keys.make(stem), image.image_id, image.file_name, image.photo, size=image.size)
        seen: set[str] = set()
        for target in found:
            if isinstance(target, BadItemError):
                job.problems.append(target)
            elif not target.expressions:
                job.notes["rows left out for want of a sentence"] += 1
            elif target.target_id in seen:
                detail = f"{target.items[0]}: {target.target_id} names another row about the same image, too"
                job.problems.append(BadItemError("id used twice", detail))
            else:
                target.target_id = target.target_id or str(len(job.targets))
                seen.add(target.target_id)
                job.targets.append(target)
        return job


def _any(wanted: list[bool], first: int, end: int) -> bool:
    return any(wanted[first:end])


class _Spool:
    """Targets that wait on disk for the rest of their image, so that memory does not depend on the order of rows."""

    def __init__(self, disk: IO[bytes]) -> None:
        self._disk = disk
        self._places: dict[int, list[int]] = {}

    def put(self, group: int, target: _Waiting) -> None:
        self._places.setdefault(group, []).append(self._disk.seek(0, 2))
        pickle.dump(target, self._disk)

    def take(self, group: int) -> list[_Waiting]:
        found: list[_Waiting] = []
        for place in self._places.pop(group, []):
            self._disk.seek(place)
            found.append(pickle.load(self._disk))  # written above by this process, in a file without a name
        return found
