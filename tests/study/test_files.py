"""Tables as people send them: each is read for what it is, or refused with a sentence that names what is wrong."""

import bz2
import gzip
import lzma
import zipfile
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sk_bnreg.study.files import _plain, read_frame, table_format
from sk_bnreg.study.survey import table_paths
from sk_bnreg.study.tables import network_pipeline, read_table

N = 60
TRUTH = pd.DataFrame(
    {
        "price": [round(1000 + 37.5 * i + 0.25, 2) for i in range(N)],
        "rooms": [i % 5 for i in range(N)],
        "city": [("Köln", "Ulm", "Bad Ems, Lahn")[i % 3] for i in range(N)],
        "sold": [("yes", "no")[i % 2] for i in range(N)],
    }
)


def german(value):
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,")) if isinstance(value, float) else str(value)


def text(separator=",", number=str, end="", header_end="", quote='"', names=None):
    """Return the truth as text."""
    lines = [separator.join(names or TRUTH) + header_end]
    for row in TRUTH.itertuples(index=False):
        cells = [number(value) if isinstance(value, float) else str(value) for value in row]
        cells = [f"{quote}{cell}{quote}" if separator in cell else cell for cell in cells]
        lines.append(separator.join(cells) + end)
    return "\n".join(lines) + "\n"


TEXTS = {
    "plain.csv": text().encode(),
    "upper.CSV": text().encode(),
    "cr.csv": text().replace("\n", "\r").encode(),
    "crlf.csv": text().replace("\n", "\r\n").encode(),
    "no_last_newline.csv": text().rstrip("\n").encode(),
    "blank_lines.csv": text().replace("\n", "\n\n").encode(),
    "semicolons.csv": text(";").encode(),
    "german.csv": text(";", german).encode(),
    "german_latin.csv": text(";", german).encode("cp1252"),
    "german_commas.csv": text(",", german).encode(),  # "1.000,25" in quotes
    "american.csv": text(",", lambda value: f"{value:,.2f}").encode(),  # "1,000.25" in quotes
    "american_semicolons.csv": text(";", lambda value: f"{value:,.2f}").encode(),
    "tabs.tsv": text("\t").encode(),
    "tabs.tab": text("\t").encode(),
    "tabs_german.txt": text("\t", german).encode(),
    "commas.tsv": text(",").encode(),
    "pipes.txt": text("|").encode(),
    "bom.csv": text().encode("utf-8-sig"),
    "utf16.csv": text().encode("utf-16"),
    "latin.csv": text().encode("cp1252"),
    "trailing.csv": text(end=",").encode(),
    "trailing_both.csv": text(end=",", header_end=",").encode(),
    "trailing_semicolons.csv": text(";", end=";").encode(),
    "blanks.csv": text(names=[" price", "rooms ", " city ", "sold"]).replace(",yes", ", yes").encode(),
    "packed.csv.gz": gzip.compress(text().encode()),
    "packed.csv.bz2": bz2.compress(text().encode()),
    "packed.tsv.xz": lzma.compress(text("\t").encode()),
    "r_names.csv": TRUTH.set_axis([f"r{i}" for i in range(N)]).to_csv().removeprefix(",").encode(),
    "index.csv": TRUTH.to_csv().encode(),
    "shuffled_index.csv": TRUTH.sample(frac=1, random_state=0).to_csv().encode(),
    "from_one.csv": TRUTH.set_axis(range(1, N + 1)).to_csv(index_label="id").encode(),
}  # fmt: skip


def assert_is_the_truth(frame):
    frame = frame.sort_values("price", ignore_index=True)
    assert list(frame) == list(TRUTH)
    np.testing.assert_allclose(frame["price"].to_numpy(float), TRUTH["price"])
    np.testing.assert_array_equal(frame["rooms"].to_numpy(int), TRUTH["rooms"])
    assert pd.api.types.is_numeric_dtype(frame["price"])
    assert pd.api.types.is_numeric_dtype(frame["rooms"])
    for name in ("city", "sold"):
        assert frame[name].astype(str).tolist() == TRUTH[name].tolist()


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_any_separator_number_and_encoding(name, tmp_path):
    (tmp_path / name).write_bytes(TEXTS[name])
    frame, _ = read_frame(tmp_path / name)
    assert_is_the_truth(frame)
    table = read_table(str(tmp_path / name), target="sold")
    assert (table.task, set(table.y), table.X.shape) == ("classification", {"yes", "no"}, (N, 3))
    assert read_table(str(tmp_path / name), target="price").task == "regression"


def test_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as file:
        file.writestr("inner.csv", text(";", german))
    assert_is_the_truth(read_frame(tmp_path / "t.csv.zip")[0])


WRITTEN = {
    "t.parquet": TRUTH.to_parquet,
    "t.feather": TRUTH.to_feather,
    "t.jsonl": lambda path: TRUTH.to_json(path, orient="records", lines=True),
    "t.ndjson": lambda path: TRUTH.to_json(path, orient="records", lines=True),
    "t.json": lambda path: TRUTH.to_json(path, orient="records"),
    "nullable.parquet": TRUTH.convert_dtypes().to_parquet,
    "arrow.parquet": TRUTH.convert_dtypes(dtype_backend="pyarrow").to_parquet,
    "categories.parquet": TRUTH.astype({"city": "category", "sold": "category"}).to_parquet,
    "decimals.parquet": TRUTH.assign(price=TRUTH["price"].map(lambda value: Decimal(str(value)))).to_parquet,
    "float32.parquet": TRUTH.astype({"price": "float32", "rooms": "uint8"}).to_parquet,
    "dictionary.parquet": lambda path: pa.parquet.write_table(
        pa.table({**TRUTH, "city": pa.array(TRUTH["city"]).dictionary_encode()}), path
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_other_formats_and_types(name, tmp_path):
    WRITTEN[name](tmp_path / name)
    frame, notes = read_frame(tmp_path / name)
    assert_is_the_truth(frame)
    assert not notes


def test_spreadsheets_are_read_or_told_how(tmp_path):
    pytest.importorskip("openpyxl")
    TRUTH.to_excel(tmp_path / "t.xlsx", index=False)
    assert_is_the_truth(read_frame(tmp_path / "t.xlsx")[0])


def test_dates_durations_and_names_that_are_numbers(tmp_path):
    days = [date(2020, 1, 1) + timedelta(i) for i in range(N)]
    frame = pd.DataFrame(
        {
            1: days,
            2: pd.to_datetime(days).tz_localize("Europe/Berlin"),
            3: pd.to_timedelta(range(N), unit="h"),
            "y": range(N),
        }
    )
    frame.columns = frame.columns.map(str)
    frame.to_parquet(tmp_path / "t.parquet")
    found, _ = read_frame(tmp_path / "t.parquet")
    assert pd.api.types.is_datetime64_any_dtype(found["1"])
    assert pd.api.types.is_datetime64_any_dtype(found["2"])
    assert found["3"].tolist() == [3600.0 * i for i in range(N)]


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["1,5", "2,25", "3"], [1.5, 2.25, 3]),
        (["1.234", "12.345", "0,5"], [1234, 12345, 0.5]),
        (["0.123", "0.456", "7.891"], [0.123, 0.456, 7.891]),  # three digits after a point are no thousands
        (["1,234", "2,345", "3"], [1.234, 2.345, 3]),  # between semicolons a comma is one of decimals
        (["-1.234,5", "+2", ""], [-1234.5, 2, np.nan]),
        (["1e3", "2.5E-1", "?"], [1000, 0.25, np.nan]),
        (["1,234,567", "8", "9"], [1234567, 8, 9]),
        (["007", "010", "1"], [7, 10, 1]),
        (["1,234", "2.5", "3"], [1234, 2.5, 3]),
    ],
)
def test_numbers_between_semicolons(values, numbers, tmp_path):
    (tmp_path / "t.csv").write_text("y;x\n" + "\n".join(f"a{i};{value}" for i, value in enumerate(values)))
    found = read_frame(tmp_path / "t.csv")[0]["x"]
    np.testing.assert_allclose(found.astype(float), numbers)


@pytest.mark.parametrize("values", [["1.2.3", "1.2.4"], ["12.03.2024", "13.03.2024"], ["1,2", "a"], ["12:30", "1"]])
def test_what_only_looks_like_numbers_stays_text(values, tmp_path):
    (tmp_path / "t.csv").write_text("y;x\n" + "\n".join(f"a{i};{value}" for i, value in enumerate(values)))
    assert read_frame(tmp_path / "t.csv")[0]["x"].tolist() == values


def test_a_point_elsewhere_tells_what_a_comma_is(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1,234\t0.5\n2,000\t1.25\n")
    frame, notes = read_frame(tmp_path / "t.tsv")
    assert frame.to_numpy().tolist() == [[1234, 0.5], [2000, 1.25]]
    assert notes == ["separated by tabs", "commas between thousands"]
    (tmp_path / "t.tsv").write_text("a\tb\n1,234\t0,5\n2,000\t1,25\n")
    assert read_frame(tmp_path / "t.tsv")[0].to_numpy().tolist() == [[1.234, 0.5], [2.0, 1.25]]


def test_one_column_is_of_one_kind_however_long(tmp_path):
    classes = [str(i % 9) for i in range(20_000)] + ["9+"] * 50
    frame = pd.DataFrame({f"x{i}": range(len(classes)) for i in range(3)}).assign(y=classes)
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert set(read_frame(tmp_path / "t.csv")[0]["y"]) == {*map(str, range(9)), "9+"}
    mixed = pd.DataFrame({"a": [1.0, 2.0], "b": [1, 2]}).astype({"b": object})
    mixed.loc[0, "b"] = "1"
    mixed.to_json(tmp_path / "t.json", orient="records")
    assert read_frame(tmp_path / "t.json")[0]["b"].tolist() == ["1", "2"]


def test_objects_of_python_and_numpy():
    frame = pd.DataFrame(
        {"flag": [True, None, False], "n": [np.int64(1), np.float32(2), 3], "d": [Decimal("1.5"), None, 2]}
    )
    frame = frame.astype(object)
    found = frame.apply(_plain)
    assert found["flag"].tolist()[::2] == ["True", "False"]
    assert found["flag"].isna().tolist() == [False, True, False]
    np.testing.assert_array_equal(found["n"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(found["d"], [1.5, np.nan, 2.0])


def test_a_regression_of_words_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n" + "1,a\n2,b\n" * 9)
    with pytest.raises(ValueError, match="'y' is of words, such as 'a'"):
        read_table(str(tmp_path / "t.csv"), task="regression")


def test_names_that_repeat(tmp_path):
    (tmp_path / "t.csv").write_text("a,a,b,a\n1,2,3,4\n5,6,7,8\n")
    frame, _ = read_frame(tmp_path / "t.csv")
    assert list(frame) == ["a", "a.1", "b", "a.2"]
    assert frame.iloc[1].tolist() == [5, 6, 7, 8]


def test_only_what_numbers_the_rows_is_left_out(tmp_path):
    time = pd.DataFrame({"t": range(N), "x": np.sin(range(N)), "y": range(N)})
    time.to_csv(tmp_path / "time.csv", index=False)
    assert list(read_frame(tmp_path / "time.csv")[0]) == ["t", "x", "y"]
    counted = time.rename(columns={"t": "id"})
    counted.to_csv(tmp_path / "counted.csv", index=False)
    assert list(read_frame(tmp_path / "counted.csv")[0]) == ["x", "y"]
    assert list(read_frame(tmp_path / "counted.csv", ["id", "x"])[0]) == ["id", "x", "y"]  # a model's own
    assert read_table(str(tmp_path / "counted.csv"), target="id").target == "id"
    ids = time.rename(columns={"t": "id"}).assign(id=[3 * i for i in range(N)])
    ids.to_csv(tmp_path / "ids.csv", index=False)
    assert "id" in read_frame(tmp_path / "ids.csv")[0]


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0.0, 1.0] * 30, "classification"),
        ([1.0, np.nan, 2.0] * 20, "classification"),
        ([0.5, 1.5] * 30, "regression"),
        ([float(i) for i in range(60)], "regression"),
    ],
)
def test_whole_numbers_are_classes_also_as_floats(values, task, tmp_path):
    pd.DataFrame({"x": range(60), "y": values}).to_csv(tmp_path / "t.csv", index=False)
    table = read_table(str(tmp_path / "t.csv"))
    assert table.task == task
    n_gaps = int(np.isnan(values).sum())
    assert len(table.y) == len(table.X) == 60 - n_gaps
    assert table.notes == ((f"{n_gaps} rows without a target left out",) if n_gaps else ())


REFUSED = {
    "dates as target": (pd.DataFrame({"x": range(60), "y": pd.date_range("2020", periods=60)}), "'y' is a date"),
    "words that do not repeat": (pd.DataFrame({"x": range(60), "y": [f"w{i}" for i in range(60)]}), "'y' is of words"),
    "no target at all": (pd.DataFrame({"x": range(60), "y": [np.nan] * 60}), "'y' is missing in all rows"),
    "infinite": (pd.DataFrame({"ratio": [np.inf, 1.0] * 30, "y": range(60)}), "'ratio' is infinite in 30 rows"),
    "lists": (pd.DataFrame({"vec": [[1.0, 2.0]] * 60, "y": range(60)}), "'vec' holds a ndarray"),
    "dicts": (pd.DataFrame({"d": [{"k": 1}] * 60, "y": range(60)}), "'d' holds a dict"),
    "one column": (pd.DataFrame({"y": range(60)}), "columns beside the target"),
    "no rows": (pd.DataFrame({"x": [], "y": []}), "needs rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_is_refused_with_its_name(name, tmp_path):
    frame, match = REFUSED[name]
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=match):
        read_table(str(tmp_path / "t.parquet"), target="y")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("t.doc", b"x", "must be a file of"),
        ("t.parquet", b"no parquet", "no .parquet file"),
        ("t.jsonl", b"{", "no .jsonl file"),
        ("t.csv.gz", b"no gzip", "cannot be read"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,b\n1,2\n1,2,3,4\n", "Row 2 of t.csv has 4 fields, its first line has names for 2"),
        ("t.xlsx", b"no spreadsheet", "t.xlsx"),
        ("t.csv", b"a,b\n" + b"1,5,2\n2,5,2\n3,25,4\n" * 2, "Row 1 of t.csv has 3 fields"),
        ("t.csv", b"a,b\n3,5,2\n2,5,2\n4,25,4\n", "Row 1 of t.csv has 3 fields"),
        ("t.csv", b'a,b\n"' + b"1,2\n" * 90_000, "no table of text"),
        ("t.csv.gz", gzip.compress(text().encode())[:-40] + bytes(40), "cannot be read"),
    ],
)
def test_broken_files_are_refused_with_a_sentence(name, content, match, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_frame(tmp_path / name)


def test_a_survey_takes_what_can_be_read(tmp_path):
    for name in ("one.csv", "one.parquet", "two.csv.gz", "THREE.CSV", "notes.md", "four.tsv"):
        (tmp_path / name).touch()
    assert [path.name for path in table_paths(tmp_path)] == [
        "THREE.CSV", "four.tsv", "one.csv", "one.parquet", "two.csv.gz",
    ]  # fmt: skip
    assert table_format(tmp_path / "notes.md") is None


def test_columns_are_counted_as_the_pipeline_takes_them(tmp_path):
    days = pd.date_range("2024-01-01", periods=N)
    frame = TRUTH.assign(
        german=days.strftime("%d.%m.%Y"), iso=days.astype(str), when=days, code=[f"K{i}" for i in range(N)]
    )
    frame.astype({"city": "category"}).to_parquet(tmp_path / "t.parquet")
    table = read_table(str(tmp_path / "t.parquet"), target="sold")
    assert table.kinds() == {"dates": 3, "numbers": 2, "categories": 1, "words": 1}
    kinds = network_pipeline("classification").fit(table.X, table.y)[0].kind_to_columns_
    assert kinds["datetime"] == ["german", "iso", "when"]
