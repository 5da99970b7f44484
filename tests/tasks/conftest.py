"""What the tests of all tasks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def types_of_libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """mypy reads torch once for all projects, not twenty seconds in each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "mypy"))
        yield
