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

    Folds are stratified by class, or by the size of the number to predict. Without
    a fold the rows stay as they are. `labels` are those of all rows.
    """
    rows = [*train, *val]
    if fold is None:
        return [*train], [*val]
    if not 2 <= folds <= len(rows) or not 0 <= fold < folds:
        raise MisconfigurationException(
            f"data.fold is {fold} and data.folds {folds}: of {len(rows)} rows there "
            f"can be 2 to {len(rows)} folds, the first of which is 0."
        )
    rows.sort(key=lambda row: labels[row])  # stable: shuffled within a class
    held_out = {*range(fold, len(rows), folds)}
    rest = [row for place, row in enumerate(rows) if place not in held_out]
    return rest, [rows[place] for place in sorted(held_out)]
