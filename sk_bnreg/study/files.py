"""read_frame: a file as people send it, as a table of numbers, words and dates, with notes of what was made of it."""

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXT = (".csv", ".tsv", ".tab", ".txt", ".data")
OTHERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".feather": pd.read_feather,
    ".xlsx": pd.read_excel,
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".ndjson": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".json": lambda path: pd.read_json(path, dtype=False),
}
FORMATS = (*TEXT, *OTHERS)
UNPACK: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 1000  # lines, to find the separator
MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>")  # pandas' words, and "?"
NUMBERS, BOOLEANS = (Real, Decimal), (bool, np.bool_)  # Python's types in columns of objects
INDEX_NAMES = ("index", "level_0", "row", "rowid", "row_id", "rownames", "id")

_COMMA_DECIMAL = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?([eE][+-]?\d+)?")  # 1.234,5
_COMMA_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?|[+-]?\d+(\.\d+)?")  # 1,234.5
_TELLING_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+|[+-]?\d{1,3}(,\d{3}){2,}")
_TELLING_POINT = re.compile(r"[+-]?\d*\.(\d{1,2}|\d{4,})")
_TELLING = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),(\d{1,2}|\d{4,})|[+-]?\d{1,3}(\.\d{3})+,\d+|[+-]?0,\d+")


def table_format(path: Path) -> str | None:
    """Return the format of a file by its name, such as ".csv" of ``A.CSV.gz``; None if it cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sk_bnreg.study.files import table_format
    >>> table_format(Path("sales.CSV.gz")), table_format(Path("sales.doc"))
    ('.csv', None)
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] and suffixes[-1] in (*UNPACK, ".zip")
    found = suffixes[-2:-1] if packed else suffixes[-1:]
    if not found or found[0] not in FORMATS or (packed and found[0] not in TEXT):
        return None
    return found[0]


def read_frame(path: Path, wanted: Sequence[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """Read a file.

    Of text the encoding, the separator and the decimal comma are found; a column is one of numbers if all that is in it
    are numbers. A first column that only counts the rows is left out: it was the index of whoever wrote the file.

    Parameters
    ----------
    path : Path
        Of a format in `FORMATS`; text may be packed.
    wanted : sequence of str
        Names of columns that stay, also one that only counts the rows.

    Returns
    -------
    frame : DataFrame
        Columns of numbers, booleans, text, dates or categories, with text for names and 0, 1, ... for rows.
    notes : list of str
        What was found or done that is not plain.

    Raises
    ------
    ValueError
        If it cannot be read, or holds nothing, or a column holds lists or infinite numbers.
    """
    kind = table_format(path)
    if kind is None:
        raise ValueError(f"The table must be a file of {', '.join(FORMATS)}, got {path.name!r}.")
    notes: list[str] = []
    frame = _read_text(path, notes) if kind in TEXT else _read_other(path, kind)
    if isinstance(frame.columns, pd.MultiIndex):
        raise ValueError(f"{path.name} has columns with names in several rows; it needs one name each.")
    frame.columns = _names(frame.columns)
    frame = frame.reset_index(drop=True)
    if not set(frame.columns[:1]) & set(wanted):
        frame = _without_index(frame, notes)
    frame = frame.apply(_plain)
    notes += [
        f"column {name!r} is around {size:.2g} and varies by {spread:.2g}, which single precision does not tell apart: "
        "subtract its smallest value"
        for name, size, spread in _coarse(frame)
    ]
    return frame, notes


def _coarse(frame: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    """Yield columns of numbers too large for their differences, with their size and range."""
    for name, column in frame.select_dtypes("number").items():
        size, spread = float(column.abs().max()), float(column.max()) - float(column.min())
        if 0 < spread <= 256 * np.spacing(np.float32(min(size, 1e38))):
            yield str(name), size, spread


def _read_other(path: Path, kind: str) -> pd.DataFrame:
    # readers raise what the libraries behind them raise, of any type
    try:
        frame = OTHERS[kind](path)
    except ImportError as error:
        raise ValueError(f"To read {kind} files: pip install openpyxl; or save {path.name} as .csv.") from error
    except Exception as error:
        raise ValueError(f"{path.name} is no {kind} file that can be read: {error}") from error
    return pd.DataFrame(frame)


def _read_text(path: Path, notes: list[str]) -> pd.DataFrame:
    """Read all as text, then make numbers of columns: no column is of two kinds because it was read in two parts."""
    text = _decoded(path, notes)
    try:
        separator = _separator(text.splitlines()[:LOOKED_AT])
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row]
    except csv.Error as error:  # a field of megabytes, where a quote was not closed
        raise ValueError(f"{path.name} is no table of text: {error}.") from error
    if separator != ",":
        notes.append("separated by " + ("tabs" if separator == "\t" else repr(separator)))
    if len(rows) < 2:
        raise ValueError(f"{path.name} has no rows under its names.")
    header, rows = rows[0], rows[1:]
    longest = max(map(len, rows))
    if longest > len(header):
        beyond = {row[-1].strip() for row in rows if len(row) == longest}
        if longest == len(header) + 1 and beyond == {""}:
            rows = [row[: len(header)] for row in rows]  # a separator at the end of each line
        elif all(len(row) == len(header) + 1 for row in rows) and _name_rows([row[0] for row in rows]):
            header = ["", *header]  # names of rows, without a name, as R writes them
        else:
            number = next(i for i, row in enumerate(rows) if len(row) > len(header))
            raise ValueError(
                f"Row {number + 1} of {path.name} has {len(rows[number])} fields, its first line has names for "
                f"{len(header)}."
            )
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    columns = [pd.Series(values, dtype=object).str.strip() for values in zip(*rows, strict=True)]
    if header[-1].strip() == "" and (columns[-1] == "").all():  # the same at the end of the first line
        header, columns = header[:-1], columns[:-1]
    columns = [column.mask(column.isin(MISSING)) for column in columns]
    made = _with_numbers(columns, separator, notes)
    return pd.concat(made, axis=1, keys=range(len(made))).set_axis([name.strip() for name in header], axis=1)


def _name_rows(values: list[str]) -> bool:
    """Tell whether values may be names of rows: each once, and words or 1, 2, ...

    A number cut in two by its decimal comma would be another column, and every name beside its own.
    """
    numbers = pd.to_numeric(pd.Series(values), errors="coerce")
    counts = numbers.tolist() == list(range(1, len(values) + 1))
    return len(set(values)) == len(values) and (counts or bool(numbers.isna().all()))


def _decoded(path: Path, notes: list[str]) -> str:
    try:
        content = _unpacked(path)
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        raise ValueError(f"{path.name} has bytes of zero, which no text has: save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append("encoding cp1252, as it is not UTF-8")
        return content.decode("cp1252", errors="replace")


def _unpacked(path: Path) -> bytes:
    kind = path.suffix.lower()
    if kind == ".zip":
        with zipfile.ZipFile(path) as files:
            names = files.namelist()
            if len(names) != 1:
                raise ValueError(f"{path.name} must hold one file, got {len(names)}.")
            return files.read(names[0])
    if kind in UNPACK:
        with UNPACK[kind](path) as file:
            return file.read()
    return path.read_bytes()


def _separator(lines: list[str]) -> str:
    """Return what separates most lines into as many fields as the first, and into most."""

    def merit(separator: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        if not rows:
            return 0.0, 0
        (size, n), *_ = Counter(map(len, rows)).most_common(1)
        fits = abs(size - len(rows[0])) <= 1 and min(size, len(rows[0])) > 1
        return (n / len(rows) if fits else 0.0), size

    best = max(SEPARATORS, key=merit)
    return best if merit(best)[0] > 0 else ","


def _with_numbers(columns: list[pd.Series], separator: str, notes: list[str]) -> list[pd.Series]:
    """Make numbers and booleans of the columns of text in which there is nothing else."""
    numbers = [pd.to_numeric(column, errors="coerce") for column in columns]
    plain = [column.notna().equals(found.notna()) for column, found in zip(columns, numbers, strict=True)]
    others = [column.dropna() for column, is_plain in zip(columns, plain, strict=True) if not is_plain]
    # is 1,234 more than a thousand, or little more than one? Other numbers of the file may tell
    told = any(values.str.fullmatch(_COMMA_DECIMAL).all() and values.str.fullmatch(_TELLING).any() for values in others)
    grouped = any(values.str.fullmatch(_TELLING_GROUPS).any() for values in others) or any(
        (is_plain or column.dropna().str.fullmatch(_COMMA_GROUPS).all()) and column.str.fullmatch(_TELLING_POINT).any()
        for column, is_plain in zip(columns, plain, strict=True)
    )
    decimal_comma = told or (separator != "," and not grouped)
    pattern = _COMMA_DECIMAL if decimal_comma else _COMMA_GROUPS
    drop, point = (".", ",") if decimal_comma else (",", ".")
    made, n_commas = [], 0
    for column, found, is_plain in zip(columns, numbers, plain, strict=True):
        values = column.dropna()
        # 1.234 is plain, but more than a thousand beside 1.234,5
        looks_grouped = told and bool(values.str.contains(".", regex=False).any())
        if (not is_plain or looks_grouped) and len(values) and values.str.fullmatch(pattern).all():
            n_commas += 1
            made.append(pd.to_numeric(column.str.replace(drop, "", regex=False).str.replace(point, ".", regex=False)))
        elif is_plain:
            made.append(found)
        elif len(values) == len(column) and values.str.lower().isin(("true", "false")).all():
            made.append(values.str.lower() == "true")
        else:
            made.append(column)
    if n_commas:
        notes.append("decimal commas" if decimal_comma else "commas between thousands")
    return made


def _names(columns: Any) -> list[str]:
    """Return names of columns as text, each once."""
    names, seen = [], Counter[str]()
    for given in map(str, columns):
        name = given
        while name in seen:
            name = f"{given}.{seen[given]}"
            seen[given] += 1
        seen[name] += 1
        names.append(name)
    return names


def _without_index(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Leave out a first column that only numbers or names the rows: each value is there once, and no use for others."""
    if len(frame.columns) < 2 or frame.empty:
        return frame
    name, first = frame.columns[0], frame.iloc[:, 0]
    unnamed = name in ("", "Unnamed: 0")
    counts = any(first.equals(pd.Series(np.arange(start, start + len(frame)))) for start in (0, 1))
    if not (unnamed and first.is_unique and not pd.api.types.is_float_dtype(first)) and not (
        counts and name.lower() in INDEX_NAMES
    ):
        return frame
    notes.append(f"first column {name!r} only numbers or names the rows: left out")
    return frame.iloc[:, 1:]


def _plain(column: pd.Series) -> pd.Series:
    """Return a column in types that every step of a pipeline knows; refuse what is no number, word or date."""
    if isinstance(column.dtype, pd.ArrowDtype | pd.StringDtype) or hasattr(column.dtype, "numpy_dtype"):
        column = _in_numpy(column)
    if column.dtype == object:
        column = _of_one_kind(column)
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        column = column.dt.total_seconds()
    if pd.api.types.is_float_dtype(column.dtype):
        n_infinite = int(np.isinf(column.to_numpy()).sum())
        if n_infinite:
            raise ValueError(f"Column {column.name!r} is infinite in {n_infinite} rows: make them missing, or numbers.")
    return column


def _in_numpy(column: pd.Series) -> pd.Series:
    """Return a nullable or Arrow column as one of numpy's types, gaps as nan or None."""
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        gaps = column.isna().any()
        return column.astype(float if gaps else column.dtype.numpy_dtype)  # type: ignore[union-attr]
    values = column.astype(object).where(column.notna(), None)
    return pd.to_datetime(values) if pd.api.types.is_datetime64_any_dtype(column.dtype) else values


def _of_one_kind(column: pd.Series) -> pd.Series:
    """Return a column of Python's objects as numbers, dates or text."""
    kinds = {type(value) for value in column.dropna()}
    if not kinds:
        return column.astype(float)
    if all(issubclass(kind, NUMBERS) and not issubclass(kind, BOOLEANS) for kind in kinds):
        return column.astype(float)
    if all(issubclass(kind, date) for kind in kinds):
        return pd.to_datetime(column)
    others = sorted(kind.__name__ for kind in kinds if not issubclass(kind, (str, date, *BOOLEANS, *NUMBERS)))
    if others:
        raise ValueError(f"Column {column.name!r} holds a {others[0]}; each value must be a number, a word or a date.")
    # 1 and "1" are the same word, and would be two; booleans with gaps are words
    return column if kinds == {str} else column.map(str, na_action="ignore")
