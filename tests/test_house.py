"""The house: imports run downwards only, in no circle, and few files lie in the root."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = (  # from the top; a file belongs to the first that fits
    r"(train_\w+|report|predict|benchmarks(\.\w+)?|data\.prepare)",  # scripts
    r"reporting(\.\w+)?",
    r"search(\.\w+)?",
    r"training(\.\w+)?",
    r"(utils|model)",
    r"data(\.\w+)?",
)
WINGS = ("benchmarks", "data", "reporting", "search", "training")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for pattern in ("*.py", *(f"{wing}/*.py" for wing in WINGS))
    for path in ROOT.glob(pattern)
}


def layer(name: str) -> int:
    return next(i for i, pattern in enumerate(LAYERS) if re.fullmatch(pattern, name))


def imports(path: Path) -> set[str]:
    """Returns the files of the project that one imports, also within its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & FILES.keys()


def test_imports_run_downwards_only() -> None:
    upwards = [
        f"{name} imports {imported}"
        for name, path in FILES.items()
        for imported in imports(path)
        if layer(imported) < layer(name)
    ]
    assert upwards == []


def test_no_files_import_each_other() -> None:
    TopologicalSorter({name: imports(path) for name, path in FILES.items()}).prepare()


def test_few_files_lie_in_the_root() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8
