"""Under torchrun: started by it, and started again by it after a process was killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .test_ends import finish, start

BODY = """
if batch_idx == 5 and trainer.global_rank == 1 and KILL and not os.path.exists("killed"):
    open("killed", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def torchrun(folder: Path, kill: bool) -> str:
    folder.mkdir()
    process = start(
        folder,
        BODY.replace("KILL", str(kill)),
        2,
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "3", "--monitor-interval", "1"),
    )
    out, err = finish(process, folder, 100)
    assert process.returncode == 0, err
    (line,) = {line.split(maxsplit=2)[2] for line in out.splitlines() if line.startswith("done")}
    return line


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """Both runs end at the same step with the same weights, to the last bit."""
    undisturbed = torchrun(tmp_path / "whole", kill=False)
    disturbed = torchrun(tmp_path / "killed", kill=True)

    assert (tmp_path / "killed" / "killed").exists()
    assert disturbed == undisturbed
    assert disturbed.startswith("16 ")
