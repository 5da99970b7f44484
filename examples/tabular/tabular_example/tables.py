"""Where tables come from: scikit-learn, or a CSV or Parquet file."""

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
    """The training table."""
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
    source: str, table: pandas.DataFrame, beside: list[str], test: str
) -> pandas.DataFrame:
    """Rows to predict, with the inputs of `table`; `beside` are target and id."""
    inputs = table.drop(columns=beside)
    text = [name for name in inputs if not holds_numbers(inputs[name])]
    written = [name for name in text if not is_bool_dtype(inputs[name])]
    rows = read(test, [*written, *beside[1:]])
    check_columns(test, rows, inputs)
    check_ids(test, rows, *beside[1:])
    for name in inputs.columns.difference(text):
        check_numbers(test, name, rows[name])
        if not holds_numbers(rows[name]):
            raise MisconfigurationException(
                f"column {name!r} of {test} holds text, and that of {source} numbers."
            )
    gaps = beside[0] in rows and rows[beside[0]].isna().any()
    return rows.drop(columns=beside[0]) if gaps else rows


def read(source: str, text: Iterable[str] = ()) -> pandas.DataFrame:
    """A table; columns in `text` are read as text, such as ids that begin with 0."""
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
            words: dict = dict.fromkeys(text, str)
            frame = pandas.read_csv(source, sep=separator(source), dtype=words)
    except FileNotFoundError:
        raise MisconfigurationException(f"there is no file {source}.") from None
    except (ValueError, OSError, ImportError) as error:
        raise MisconfigurationException(f"{source} cannot be read: {error}") from None
    if frame.empty:
        raise MisconfigurationException(f"{source} has no rows.")
    return frame.rename(columns=str)


def separator(source: str) -> str:
    """A comma, unless the first line has semicolons or tabs and no comma."""
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
    if (twice := table[id].duplicated() | table[id].isna()).any():
        raise MisconfigurationException(
            f"column {id!r} of {source} has {table[id][twice].iloc[0]!r} in row "
            f"{twice.idxmax()}, and an id is of one row: "
            "mend it, or set data.id to null to count rows."
        )


def check_numbers(source: str, name: str, column: pandas.Series) -> None:
    """An error for text in a numeric column, which would make all of it text."""
    given = column.dropna()
    odd = given[pandas.to_numeric(given, errors="coerce").isna()]
    if 0 < len(odd) < len(given) / 10:
        raise MisconfigurationException(
            f"column {name!r} of {source} holds text among numbers, {odd.iloc[0]!r} in "
            f"row {odd.index[0]}: write a number there, or nothing if it is not known."
        )
