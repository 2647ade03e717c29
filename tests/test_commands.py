"""The commands of the README and docs/speed.md run as they are printed, on small data.

Their sizes are shrunk by flags after their own. What needs a cluster or a GPU is left out, and so
are the benchmarks that have tests of their own.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_line
from test_readme import commands

from data.corpora import CORPORA, ROLES, SPLITS
from data.synthetic import synthetic

STAGES = {  # the scripts in the order in which they need each other, and what makes them small
    "data/prepare.py synthetic": "--force",
    "data/prepare.py inspect": "",
    "data/prepare.py convert": "--force",
    "data/prepare.py verify": "",
    "train_": "--settings 1 --epochs 1 --repeats 1 --jobs 1",
    "predict.py": "",
    "report.py": "",
}
ELSEWHERE = {"--cluster", "--cuda", "-m"}
WRITTEN = [
    "data/iemocap.pkl",
    "models/model_mosi_1.pt",
    "results/results_test_run_19260817.csv",
    "results/results_iemocap_sad_1.csv",
    "results/results_mosi_pruned.csv",
    "results/predictions.csv",
    "results/report.md",
]


def printed() -> list[str]:
    """Returns the pages' commands, each script's after those that it needs."""
    pages = ROOT / "README.md", ROOT / "docs" / "speed.md"
    lines = ["python train_mosi.py", *(line for page in pages for line in commands(page))]
    lines = [line.partition("#")[0] for line in lines if not ELSEWHERE & {*line.split()}]
    return [
        f"{line} {more}"
        for stage, more in STAGES.items()
        for line in lines
        if line.startswith(f"python {stage}")
    ]


@pytest.mark.slow
def test_what_the_pages_print_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, corpus in CORPORA.items():
        monkeypatch.setitem(CORPORA, name, corpus._replace(examples=(24, 10, 12)))
    monkeypatch.chdir(tmp_path)
    splits = synthetic(CORPORA["mosi"], 1)
    arrays = {
        f"{split}_{role}": array
        for split in SPLITS
        for role, array in zip(ROLES, splits[split.encode()].values(), strict=True)
    }
    new = {role: arrays[f"test_{role}"] for role in ROLES[:3]}
    np.savez("FILE.npz", **arrays)  # pyright: ignore
    np.savez("new.npz", **new)  # pyright: ignore
    Path("FILE").write_bytes(Path("FILE.npz").read_bytes())
    for line in printed():
        run_line(line)
    assert [path for path in WRITTEN if not Path(path).is_file()] == []
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    names: dict[str, object] = {}
    exec(code, names)
    assert np.shape(names["prediction"]) == (12, 1)  # pyright: ignore
