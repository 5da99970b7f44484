"""Cross validation: the training and validation rows of one fold."""

from collections.abc import Sequence

from scaffold_runtime.errors import MisconfigurationException


def one_fold(
    train: Sequence[int],
    val: Sequence[int],
    labels: Sequence[float],
    fold: int | None,
    folds: int,
) -> tuple[list[int], list[int]]:
    """Training and validation rows of a fold: each row is validated in one fold.

    Folds are stratified by class or, in a regression, by the value of the target.
    If `fold` is None, the split stays as it is. `labels[row]` is the label of a row.
    """
    rows = [*train, *val]
    if fold is None:
        return [*train], [*val]
    if not 2 <= folds <= len(rows) or not 0 <= fold < folds:
        raise MisconfigurationException(
            f"data.fold is {fold} and data.folds {folds}: {len(rows)} rows allow 2 to "
            f"{len(rows)} folds, which are numbered from 0."
        )
    rows.sort(key=lambda row: labels[row])  # stable: stays shuffled within a class
    held_out = {*range(fold, len(rows), folds)}
    rest = [row for place, row in enumerate(rows) if place not in held_out]
    return rest, [rows[place] for place in sorted(held_out)]
