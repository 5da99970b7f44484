"""Under torchrun: started by it, and started again by it after a process was killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forking import script

from .test_ends import SCRIPT, finish, start

BODY = """
if batch_idx == 5 and trainer.global_rank == 1 and not os.path.exists("killed"):
    open("killed", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def undisturbed(folder: Path) -> str:
    """The same script in two forked processes, which takes a tenth of the time."""
    text = SCRIPT.replace("BODY", "pass").replace("EPOCHS", "2")
    text = text.replace("DDPStrategy(timeout", 'DDPStrategy(start_method="fork", timeout')
    folder.mkdir()
    (folder / "train.py").write_text(text)
    code, out, err = script(folder)
    assert code == 0, err
    return ended(out)


def ended(out: str) -> str:
    (line,) = {line.split(maxsplit=2)[2] for line in out.splitlines() if line.startswith("done")}
    return line


def torchrun(folder: Path) -> str:
    folder.mkdir()
    process = start(
        folder,
        BODY,
        2,
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "3", "--monitor-interval", "1"),
    )
    out, err = finish(process, folder, 100)
    assert process.returncode == 0, err
    return ended(out)


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """Both runs end at the same step with the same weights, to the last bit."""
    expected = undisturbed(tmp_path / "whole")
    disturbed = torchrun(tmp_path / "killed")

    assert (tmp_path / "killed" / "killed").exists()
    assert disturbed == expected
    assert disturbed.startswith("16 ")
