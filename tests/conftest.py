"""What the tests share: tiny data sets, of the same form as the official ones."""

from __future__ import annotations

import csv
import pickle
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from drivers import Drivers

import train_iemocap
import train_mosi
import train_pom
from search.jobs import set_torch_up
from training.result import Data
from utils import Split

set_torch_up()
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else what nohup starts ignores it

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"train": 23, "valid": 9, "test": 11}
AUDIO, VIDEO, TEXT, STEPS = 6, 5, 7, 4
GRID = [
    *("audio_hidden=3,4", "video_hidden=3,5", "text_hidden=6,8", "audio_dropout=0,0.2"),
    *("video_dropout=0.1", "text_dropout=0,0.5", "rank=1,2,3", "batch_size=4,8"),
]

SCRIPTS = {"mosi": train_mosi, "iemocap": train_iemocap, "pom": train_pom}
MAINS = {name: script.main for name, script in SCRIPTS.items()}
EXPERIMENTS = {name: script.EXPERIMENT for name, script in SCRIPTS.items()}

Capsys = pytest.CaptureFixture[str]
Options = dict[str, object]
Arrays = dict[str, dict[str, np.ndarray]]  # [split][modality]
MakeArrays = Callable[..., Arrays]
WritePickle = Callable[..., Path]


def _labels(data_set: str, count: int, rng: np.random.Generator) -> np.ndarray:
    if data_set == "mosi":
        return rng.uniform(-3, 3, (count, 1))
    if data_set == "pom":
        return rng.uniform(1, 7, (count, 16))
    return np.eye(2)[np.arange(count) % 3 // 2]  # a third of them [0, 1]


def tiny_arrays(data_set: str, seed: int = 0) -> Arrays:
    """Returns data[split][modality] of a tiny data set; IEMOCAP's is that of one emotion."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for split, count in SIZES.items():
        text = rng.normal(size=(count, STEPS, TEXT))
        padding = rng.integers(0, STEPS, (count, 1)) > np.arange(STEPS)  # leading steps
        text[padding if data_set != "iemocap" else padding[:, ::-1]] = 0
        arrays[split] = {
            "covarep": rng.normal(size=(count, AUDIO)),
            "facet": rng.normal(size=(count, VIDEO)),
            "glove": text,
            "label": _labels(data_set, count, rng),
        }
    return arrays


def tiny_data(seed: int = 0) -> Data:
    """Returns tiny data of MOSI as training takes them."""
    splits = tiny_arrays("mosi", seed).values()
    return Data(*(Split(*(torch.from_numpy(x).float() for x in s.values())) for s in splits))


def with_keys(data: object, kind: type) -> object:
    """Returns nested dicts of str keys with keys of this kind, bytes or str."""
    if not isinstance(data, dict):
        return data
    return {
        key.encode() if kind is bytes else key: with_keys(value, kind)
        for key, value in data.items()
    }


def pickled(folder: Path, data_set: str, data: object, keys: type = bytes) -> Path:
    """Writes what an official file would hold, and returns the folder.

    For IEMOCAP, data[split] stands for all four emotions.
    """
    if data_set == "iemocap":
        data = dict.fromkeys(("neutral", "happy", "sad", "angry"), data)
    folder.mkdir(exist_ok=True)
    (folder / f"{data_set}.pkl").write_bytes(pickle.dumps(with_keys(data, keys), protocol=2))
    return folder


def table(path: str | Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def run_line(line: str) -> None:
    """Runs the script of a command line within this process."""
    _, script, *words = shlex.split(line, comments=True)
    name = (ROOT / script).relative_to(ROOT).with_suffix("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        import_module(str(name).replace("/", ".")).main()


@pytest.fixture(scope="session")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny mosi.pkl, iemocap.pkl and pom.pkl. Not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    for data_set in ("mosi", "iemocap", "pom"):
        pickled(folder, data_set, tiny_arrays(data_set))
    return folder


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    """The process that starts searches which end by a signal."""
    drivers = Drivers(tmp_path_factory.mktemp("temporary"))
    yield drivers
    drivers.close()


@pytest.fixture
def options(tmp_path: Path, data_path: Path) -> Options:
    """A small search on tiny data."""
    return {
        "data_path": data_path,
        "output_path": tmp_path / "results",
        "model_path": tmp_path / "models",
        "epochs": 3,
        "settings": 5,
        "grid": GRID,
        "jobs": 1,
    }
