"""Sources of tables: scikit-learn, or a CSV or Parquet file."""

from collections.abc import Iterable
from pathlib import Path

import pandas
from pandas.api.types import is_bool_dtype
from scaffold_runtime.errors import MisconfigurationException
from sklearn import datasets

from tabular_example.encode import holds_numbers

SHIPPED = {
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
}


def read_labelled(source: str, target: str, id: str | None) -> pandas.DataFrame:
    """The table to train on, checked."""
    table = read(source, [id] if id else [])
    if len(table) < 10:
        raise MisconfigurationException(f"{source} has {len(table)} rows: too few.")
    if target not in table:
        raise MisconfigurationException(
            f"{source} has no column {target!r}; "
            f"data.target may be {', '.join(table.columns)}."
        )
    check_ids(source, table, id)
    for name, column in table.items():
        check_numbers(source, str(name), column)
    return table


def read_like(
    source: str, table: pandas.DataFrame, excluded: list[str], test: str
) -> pandas.DataFrame:
    """The rows of the file `test`, checked to have the inputs of `table`.

    `excluded`, the target and perhaps an id, are no inputs.
    """
    target, ids = excluded[0], excluded[1:]
    inputs = table.drop(columns=excluded)
    text = [name for name in inputs if not holds_numbers(inputs[name])]
    strings = [name for name in text if not is_bool_dtype(inputs[name])]
    rows = read(test, [*strings, *ids])
    check_columns(test, rows, inputs)
    check_ids(test, rows, *ids)
    for name in inputs.columns.difference(text):
        check_numbers(test, name, rows[name])
        if not holds_numbers(rows[name]):
            raise MisconfigurationException(
                f"column {name!r} of {test} holds text, and that of {source} numbers."
            )
    unknown = target in rows and rows[target].isna().any()
    return rows.drop(columns=target) if unknown else rows


def read(source: str, text: Iterable[str] = ()) -> pandas.DataFrame:
    """A table; columns in `text` are read as text, such as ids with leading zeros."""
    if source in SHIPPED:
        return SHIPPED[source](as_frame=True).frame
    if not source.endswith((".csv", ".parquet")):
        raise MisconfigurationException(
            f"data.source is {source!r}: choose {', '.join(SHIPPED)}, "
            "or a file that ends in .csv or .parquet."
        )
    try:
        if source.endswith(".parquet"):
            frame = pandas.read_parquet(source)
        else:
            types: dict = dict.fromkeys(text, str)
            frame = pandas.read_csv(source, sep=separator(source), dtype=types)
    except FileNotFoundError:
        raise MisconfigurationException(f"there is no file {source}.") from None
    except (ValueError, OSError, ImportError) as error:
        raise MisconfigurationException(f"{source} cannot be read: {error}") from None
    if frame.empty:
        raise MisconfigurationException(f"{source} has no rows.")
    return frame.rename(columns=str)


def separator(source: str) -> str:
    """A comma if the first line has one, else the more frequent of `;` and tab."""
    with Path(source).open(encoding="utf-8", errors="replace") as file:
        names = file.readline()
    return "," if "," in names else max(",;\t", key=names.count)


def check_columns(source: str, table: pandas.DataFrame, names: Iterable[str]) -> None:
    for name in names:
        if name not in table:
            raise MisconfigurationException(
                f"{source} has no column {name!r}; it has {', '.join(table.columns)}."
            )


def check_ids(source: str, table: pandas.DataFrame, id: str | None = None) -> None:
    if id is None:
        return
    check_columns(source, table, [id])
    if (bad := table[id].duplicated() | table[id].isna()).any():
        raise MisconfigurationException(
            f"column {id!r} of {source} has {table[id][bad].iloc[0]!r} in row "
            f"{bad.idxmax()}, which is missing or a duplicate: "
            "fix it, or set data.id to null to use row numbers."
        )


def check_numbers(source: str, name: str, column: pandas.Series) -> None:
    """Reject text in a numeric column, which would turn the whole column into text."""
    known = column.dropna()
    text = known[pandas.to_numeric(known, errors="coerce").isna()]
    if 0 < len(text) < len(known) / 10:
        raise MisconfigurationException(
            f"column {name!r} of {source} holds text among numbers, {text.iloc[0]!r} "
            f"in row {text.index[0]}: put a number there, or nothing if it is unknown."
        )
