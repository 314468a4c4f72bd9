"""Reads a table of questions – JSON lines or CSV – into rows that know their line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from datamodules.convert.errors import BadItemError, BadSourceError

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv")
UNREADABLE = "unreadable row"
_DELIMITERS = (",", ";", "\t")
_MAX_CELL = 64 * 2**20
"""Characters of a CSV cell; Python's own limit would refuse the polygons of a detailed mask."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: the file's name and the line, for errors.
        cells: values by column: any JSON, or the non-empty texts of a CSV.
    """

    where: str
    cells: dict[str, Any]


@dataclass
class Table:
    """The rows of a file.

    Attributes:
        path: the file.
        rows: those that could be read, in order.
        problems: those that could not.
        columns: names of all columns, in the order in which they come.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    problems: list[BadItemError] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)


def read_table(path: Path, required: tuple[str, ...]) -> Table:
    """Read a whole table.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.tsv``; UTF-8, with or without a byte-order mark.
        required: columns without which nothing can be done.

    Raises:
        BadSourceError: unreadable from some place on, empty, or without a required column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSourceError(f"--table {path} cannot be read: {error.strerror or error}.") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadSourceError(f"{path} is UTF-16. Save it as UTF-8 (in Excel: 'CSV UTF-8').")
    table = Table(path)
    entries = _json_lines(data, table) if path.suffix.lower() == ".jsonl" else _csv_rows(data, table, required)
    for line, cells in entries:
        table.columns += [name for name in cells if name not in table.columns]
        table.rows.append(Row(f"{path.name} line {line}", cells))
    missing = [name for name in required if name not in table.columns]
    if missing and (table.rows or table.columns):
        raise BadSourceError(
            f"{path} has no column {' and no column '.join(missing)}; columns found: {', '.join(table.columns)}. "
            "Rename the columns, or see `coprs data folder --help` for what a table holds."
        )
    if not table.rows and not table.problems:
        raise BadSourceError(f"{path} has no row. Add one for each question.")
    return table


def _json_lines(data: bytes, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, parse_object(line)
        except ValueError as error:
            table.problems.append(BadItemError(UNREADABLE, f"{table.path.name} line {number}: {error}"))


def parse_object(line: bytes) -> dict[str, Any]:
    """Parse one line of JSON.

    Raises:
        ValueError: no UTF-8, no JSON or no object.
    """
    try:
        content = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("broken JSON: brackets nested without end") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _csv_rows(data: bytes, table: Table, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadSourceError(
            f"{table.path} line {line} is not UTF-8. Save the file as UTF-8 (in Excel: 'CSV UTF-8')."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise BadSourceError(f"{table.path} line {line} holds a NUL character, so it is no text. Write the file anew.")
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        yield from _cells(text, table, required)
    finally:
        csv.field_size_limit(limit)


def _cells(text: str, table: Table, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    first = next(iter(text.splitlines()), "")
    delimiter = max(_DELIMITERS, key=lambda mark: len(set(required) & {cell.strip(' "') for cell in first.split(mark)}))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line, header = 1, None
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = table.columns = _header(cells, table.path)
            elif len(cells) > len(header):
                problem = f"{table.path.name} line {start}: {len(cells)} cells under {len(header)} columns"
                table.problems.append(
                    BadItemError(UNREADABLE, f"{problem}; put cells that hold {delimiter!r} in quotes")
                )
            else:
                yield start, {name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()}
    except csv.Error as error:
        raise BadSourceError(
            f"{table.path}: the row that begins at line {line} is no CSV: {error}. Nothing after it can be told apart; "
            "put cells with quotes, line breaks or commas in double quotes, and double the quotes inside."
        ) from error


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise BadSourceError(f"{path}: the header names {doubled[0]!r} twice. Remove or rename one of the columns.")
    return names
