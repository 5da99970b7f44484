"""Real processes, killed at random moments: a sample of what `make kill-sweep N=1000` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_sweep import Sweep


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_killed_run_ends_bit_identical(tmp_path: Path, seed: int) -> None:
    sweep = Sweep(tmp_path, seed)
    failures = [failed for number in range(30) if (failed := sweep.trial(number)) is not None]
    assert not failures
    assert sweep.kills >= 36
