"""Cross validation: which rows of one fold are trained on, and which are validated."""

from collections.abc import Sequence

from scaffold_runtime.errors import MisconfigurationException


def one_fold(
    train: Sequence[int],
    val: Sequence[int],
    labels: Sequence[float],
    fold: int | None,
    folds: int,
) -> tuple[list[int], list[int]]:
    """Rows that were shuffled, shared out anew: each is validated in one of the folds.

    Each fold has about as many of each class, or of low and high numbers, as any other.
    Without a fold they stay as they are. `labels` are those of all rows.
    """
    rows = [*train, *val]
    if fold is None:
        return [*train], [*val]
    if not 2 <= folds <= len(rows) or not 0 <= fold < folds:
        raise MisconfigurationException(
            f"data.fold is {fold} and data.folds {folds}: of {len(rows)} rows there "
            f"can be 2 to {len(rows)} folds, the first of which is 0."
        )
    rows.sort(key=lambda row: labels[row])  # in one class as they were
    held_out = {*range(fold, len(rows), folds)}
    rest = [row for place, row in enumerate(rows) if place not in held_out]
    return rest, [rows[place] for place in sorted(held_out)]
