"""Make torchvision importable if its compiled part does not match the installed torch.

Its Python part (datasets, transforms) works without it, but needs its operators to be declared. Run as
`python without_torchvision_ops.py SCRIPT ARGUMENT...`.
"""

import importlib.util
import re
import runpy
import sys
import warnings
from pathlib import Path

import torch

warnings.filterwarnings("ignore", message="Failed to load image Python extension")
spec = importlib.util.find_spec("torchvision")
assert spec and spec.submodule_search_locations, "torchvision is not installed"
registrations = Path(spec.submodule_search_locations[0], "_meta_registrations.py").read_text()
library = torch.library.Library("torchvision", "DEF")
names = {*re.findall(r'register_meta\("(\w+)"', registrations), "nms"}
for name in sorted(names | set(re.findall(r"torchvision::(\w+)", registrations))):
    library.define(f"{name}(Tensor a) -> Tensor")

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
