"""The built wheel, installed without a checkout, renders the same files as the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: object, **env: str) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's content, byte-compiled as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("torch_scaffold-*.whl")
    site = folder / "site"
    run("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, wheel)
    return site


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_wheel_renders_what_the_checkout_renders(installed, workplace):
    for folder, path in ("checkout", ROOT), ("wheel", installed):
        (workplace / folder).mkdir()
        os.chdir(workplace / folder)
        new = ("-m", "scaffold", "new", "my-exp", "--no-git", "--runtime", "vendored")
        run(*new, PYTHONPATH=str(path))
    assert files(workplace / "wheel") == files(workplace / "checkout")
    assert ".gitignore" in os.listdir(workplace / "wheel/my-exp")


@pytest.mark.slow
def test_the_wheel_is_what_was_imported(installed):
    code = "import scaffold; print(scaffold.__file__)"
    assert run("-c", code, PYTHONPATH=str(installed)).startswith(str(installed))


@pytest.mark.slow
def test_the_wheel_holds_every_template_and_nothing_compiled_in_them(installed):
    packaged = set(files(installed / "scaffold" / "templates"))
    assert packaged == set(files(ROOT / "templates"))
    assert (installed / "scaffold" / "py.typed").exists()
