"""docs/architecture.md names every file of the Python layer: whoever looks for something finds its place."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_file_is_named_in_the_row_of_its_folder_and_no_other() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", text, re.MULTILINE))
    folders = {path.name for path in (ROOT / "manifold_core").iterdir() if (path / "__init__.py").exists()}
    assert rows.keys() == folders - {"kernels", "experiments"}  # of an installed package
    for folder, said in rows.items():
        files = {path.name for path in (ROOT / "manifold_core" / folder).glob("*.py") if path.name[:2] != "__"}
        assert set(re.findall(r"`(\w+\.py)`", said)) == files, folder
