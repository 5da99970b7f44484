"""How a project is linked to its runtime package."""

from pathlib import Path

from scaffold import __version__
from scaffold.errors import ScaffoldError
from scaffold.names import one_line

OLDEST = (0, 1)  # the oldest runtime that the templates work with
DISTRIBUTION = "scaffold-runtime"


def requirement(runtime: str) -> str:
    """The line in the project's dependencies: a range, a fixed version or a folder."""
    if not runtime:
        major, minor, _ = __version__.split(".")
        return f"{DISTRIBUTION}>={major}.{minor},<{major}.{int(minor) + 1}"
    if runtime[0].isdigit():
        return f"{DISTRIBUTION}=={runtime}"
    return f"{DISTRIBUTION} @ {Path(runtime).as_uri()}"


def check_runtime(runtime: str) -> str:
    """The answer to keep: an absolute folder for a folder."""
    if not runtime or runtime[0].isdigit():
        return runtime
    folder = Path(runtime).expanduser().resolve()
    if not (folder / "scaffold_runtime").is_dir():
        raise ScaffoldError(
            f"--runtime {one_line(runtime)}: no runtime there\n"
            "give its folder (the one with `scaffold_runtime/` in it) or a version such as 0.1.0"
        )
    return str(folder)
