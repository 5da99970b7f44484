"""How a project depends on the runtime: a version range, a version, a folder, or a vendored copy."""

import os
import re
from pathlib import Path

from scaffold import __version__
from scaffold.errors import ScaffoldError
from scaffold.files import File, Tree, read_tree
from scaffold.names import one_line

DISTRIBUTION, PACKAGE, VENDORED = "scaffold-runtime", "scaffold_runtime", "vendored"
NEEDS = (  # dependencies of the runtime, for a project with a vendored copy
    "jsonargparse[signatures]>=4.53",
    "numpy>=1.24",
    "pyyaml>=6",
    "rich>=13",
    "torch>=2.9",
)


def requirements(runtime: str) -> tuple[str, ...]:
    """The runtime's lines in the project's dependencies."""
    if runtime == VENDORED:
        return NEEDS
    if not runtime:
        major, minor, _ = __version__.split(".")
        return (f"{DISTRIBUTION}>={major}.{minor},<{major}.{int(minor) + 1}",)
    if runtime[0].isdigit():
        return (f"{DISTRIBUTION}=={runtime}",)
    return (f"{DISTRIBUTION} @ {Path(runtime).absolute().as_uri()}",)


def copied(runtime: str) -> Tree:
    """The runtime's source code and licence, for a project with a vendored copy."""
    if runtime != VENDORED:
        return {}
    tree = read_tree(_source())
    files = {path: file for path, file in tree.items() if "__pycache__" not in path}
    licence = _source() / "LICENSE"
    if not licence.exists():  # in a checkout it lies one folder up
        licence = licence.parents[1] / "LICENSE"
    files["LICENSE"] = File(licence.read_bytes())
    return {f"{PACKAGE}/{path}": File(file.data) for path, file in files.items()}


def check_runtime(runtime: str) -> str:
    """Validate `--runtime`, and make a folder absolute."""
    if not runtime or runtime == VENDORED:
        return runtime
    if runtime[0].isdigit():
        series = __version__.rpartition(".")[0]  # the templates are written for it
        if not re.fullmatch(rf"{re.escape(series)}(\.\w+)*", runtime):
            fits = requirements("")[0]
            raise ScaffoldError(
                f"--runtime {one_line(runtime)}: these templates need {fits}\n"
                'choose one of these, or the newest with --runtime ""'
            )
        return runtime
    folder = Path(os.path.expanduser(runtime)).resolve()  # an unknown ~user stays as it is
    if not (folder / PACKAGE).is_dir():
        raise ScaffoldError(
            f"--runtime {one_line(runtime)}: no runtime found there\n"
            "give the folder that contains `scaffold_runtime/`, a version, or `vendored`"
        )
    return str(folder)


def _source() -> Path:
    """The runtime's package, in the wheel or in the checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "vendored" / PACKAGE
    return inside if inside.is_dir() else here.parent / "runtime" / PACKAGE
