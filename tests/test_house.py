"""How the source is laid out: imports run downwards, and the root shows the experiment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import report

ROOT = Path(report.__file__).parent
LEVELS = (  # each may import itself, file by file, and what stands before it
    (
        *("data/files.py", "data/kinds.py", "data/pickle_parts.py", "data/pickles.py"),
        *("data/checkpoints.py", "data/corpora.py", "data/checks.py", "data/assembly.py"),
    ),
    ("utils.py", "model.py"),
    ("training/*.py",),
    ("search/*.py",),
    ("reporting/*.py",),
    ("data/*.py",),
    ("*.py", "examples/*.py"),
    ("benchmarks/*.py",),
)


def imported(path: Path) -> Iterator[Path]:
    """Yields the project's files that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: imports relatively"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        files = (ROOT / f"{name.replace('.', '/')}.py" for name in names)
        yield from filter(Path.exists, files)


def test_imports_run_downwards_and_in_no_circle() -> None:
    levels: dict[Path, int] = {}
    for level, patterns in enumerate(LEVELS):
        for path in (path for pattern in patterns for path in sorted(ROOT.glob(pattern))):
            levels.setdefault(path, level)
    assert set(levels) == {*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")} - {*ROOT.glob("tests/*")}
    graph = {path: set(imported(path)) for path in levels}
    upwards = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path, others in graph.items()
        for other in others
        if levels[other] > levels[path]
    ]
    assert not upwards
    TopologicalSorter(graph).prepare()  # raises CycleError, and names the circle


def test_the_root_shows_the_experiment() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8
