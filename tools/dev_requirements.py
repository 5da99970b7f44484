"""Print the development requirements in pyproject.toml, for pip versions without --group."""

import re
from pathlib import Path

text = Path(__file__).parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
group = re.search(r"^dev = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
assert group, "pyproject.toml has no dev group"
print(*re.findall(r'"([^"]+)"', group[1]))
