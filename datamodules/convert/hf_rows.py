"""Reads parquet, arrow and JSON lines files row after row, a few in memory at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.folder_table import UNREADABLE, parse_object

if TYPE_CHECKING:
    import pyarrow

RowCells = dict[str, Any] | BadItemError

Keep = Callable[[int, int], bool]
"""Whether any row from the first number up to (not including) the second is wanted."""

_BATCH = 16
"""Rows decoded at a time: nested lists of a 640 × 480 mask take 20 times the bytes of their picture while they are."""
_BUFFER = 2**20
_LOOKED_AT = 20


class RowFile(ABC):
    """One file of rows.

    Args:
        path: the file.

    Raises:
        BadSourceError: unreadable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, number: int) -> str:
        """What errors call a row."""
        return f"row {number}"

    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Names of the columns, and what they hold in words."""

    @abstractmethod
    def read(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, RowCells]]:
        """Numbers, from 0 and rising, and cells of the rows of stretches that ``keep`` wants.

        Nested lists of booleans or integers come as 2-D arrays where they are rectangular; a row that cannot be read
        comes as its problem.

        Raises:
            BadSourceError: the file breaks off or is malformed.
        """


class JsonRows(RowFile):
    """JSON lines; line 1 is row 0, and empty lines count."""

    def columns(self) -> dict[str, str]:
        """See :meth:`RowFile.columns`; from the first rows."""
        found: dict[str, str] = {}
        for _, cells in islice(self.read((), lambda first, end: True), _LOOKED_AT):
            if not isinstance(cells, BadItemError):
                found |= {name: type(value).__name__ for name, value in cells.items()}
        return found

    def place(self, number: int) -> str:
        """See :meth:`RowFile.place`."""
        return f"line {number + 1}"

    def read(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, RowCells]]:
        """See :meth:`RowFile.read`; all columns, for the whole line is parsed anyway."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                line = line if number else line.removeprefix(b"\xef\xbb\xbf")
                if line.strip() and keep(number, number + 1):
                    try:
                        yield number, parse_object(line)
                    except ValueError as error:
                        yield number, BadItemError(UNREADABLE, f"{self.path.name} {self.place(number)}: {error}")


class TableRows(RowFile):
    """A file that pyarrow reads."""

    def columns(self) -> dict[str, str]:
        """See :meth:`RowFile.columns`."""
        return {field.name: str(field.type) for field in self._schema()}

    def read(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, RowCells]]:
        """See :meth:`RowFile.read`."""
        import pyarrow

        number = -1
        try:
            for first, batch in self._batches(columns, keep):
                for place in range(batch.num_rows):
                    number = first + place
                    if not keep(number, number + 1):
                        continue
                    yield number, {name: _plain(batch.column(name)[place]) for name in columns}
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSourceError(f"{self.path} cannot be read after row {number}: {error}. Fetch it anew.") from error

    @abstractmethod
    def _schema(self) -> pyarrow.Schema: ...

    @abstractmethod
    def _batches(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, pyarrow.RecordBatch]]: ...


class ParquetRows(TableRows):
    """A parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _need_pyarrow(path)
        self._open()

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            # a buffer makes it read pages as they are needed, not whole columns of a row group
            return parquet.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSourceError(f"{self.path} is no readable parquet file: {error}. Fetch it anew.") from error

    def _schema(self) -> pyarrow.Schema:
        with self._open() as file:
            return file.schema_arrow

    def _batches(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
        first = 0
        with self._open() as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                end, start = first + rows, first
                if keep(first, end):
                    for batch in file.iter_batches(
                        _BATCH, row_groups=[group], columns=list(columns), use_threads=False
                    ):
                        if keep(start, start + batch.num_rows):
                            yield start, batch
                        start += batch.num_rows
                first = end


class ArrowRows(TableRows):
    """An arrow file, of the stream form (that the datasets library writes) or the file form."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _need_pyarrow(path)
        self._schema()

    def _schema(self) -> pyarrow.Schema:
        import pyarrow

        try:
            with pyarrow.memory_map(str(self.path)) as file:
                return _ipc(file).schema
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSourceError(f"{self.path} is no readable arrow file: {error}. Fetch it anew.") from error

    def _batches(self, columns: Sequence[str], keep: Keep) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
        import pyarrow

        first = 0
        with pyarrow.memory_map(str(self.path)) as file:
            reader = _ipc(file)
            batches = (
                (reader.get_batch(place) for place in range(reader.num_record_batches))
                if isinstance(reader, pyarrow.RecordBatchFileReader)
                else reader
            )
            for batch in batches:
                if keep(first, first + batch.num_rows):
                    yield first, batch.select(list(columns))
                first += batch.num_rows


def _ipc(file: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(file)
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return pyarrow.ipc.open_file(file)


def _plain(scalar: Any) -> Any:
    """A cell as plain Python; rectangular nested lists of booleans or integers as a 2-D array, without a detour."""
    import numpy as np
    from pyarrow import types

    kind = scalar.type
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        if types.is_list(inner) or types.is_large_list(inner):
            values = inner.value_type
            if scalar.is_valid and (types.is_boolean(values) or types.is_integer(values)):
                rows = scalar.values
                flat = rows.flatten()
                sides = np.unique(rows.value_lengths().to_numpy(zero_copy_only=False))
                if len(sides) == 1 and rows.null_count == flat.null_count == 0 and len(flat):
                    return flat.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return scalar.as_py()


def _need_pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadSourceError(f"{path} needs pyarrow, which is not installed: pip install '.[parquet]'.") from error


_FORMS: dict[str, type[RowFile]] = {".parquet": ParquetRows, ".arrow": ArrowRows, ".jsonl": JsonRows}


def open_rows(path: Path) -> RowFile:
    """The reader of a file, by its ending.

    Raises:
        BadSourceError: unreadable, or pyarrow is missing.
    """
    return _FORMS[path.suffix.lower()](path)
