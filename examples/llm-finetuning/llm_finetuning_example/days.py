"""The calendar: text for pretraining, and questions about it."""

import random
from datetime import date, timedelta

FIRST, DAYS = date(1900, 1, 1), 73000  # two hundred years


def in_words(number: int) -> str:
    """A day, counted from the first one: Monday, 1 January 1900."""
    day = FIRST + timedelta(days=number)
    return day.strftime(f"%A, {day.day} %B %Y")


def pages(count: int) -> list[str]:
    """Consecutive days, one per line."""
    starts = random.Random(0).choices(range(DAYS), k=count)
    return ["\n".join(in_words(start + day) for day in range(4)) for start in starts]


def questions(count: int) -> list[tuple[str, str]]:
    """Distinct questions, each with its answer."""
    days = random.Random(0).sample(range(DAYS), count)
    return [
        (f"Which day comes after {in_words(day)}?", in_words(day + 1)) for day in days
    ]
