"""Predict with a trained model: a CSV with a row per example, and the scores if there are labels.

python predict.py models/model_mosi_1.pt --data_path data              # the split test of mosi.pkl
python predict.py models/model_mosi_1.pt --data_path new.npz           # its audio, video and text
"""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.assembly import Assembled, assemble
from data.corpora import CORPORA, MODALITIES, ROLES, SPLITS, UNKNOWN
from data.files import InputError, make_folder, opened_unchanged, printable, write_csv
from data.formats import read
from data.kinds import command
from data.layouts import ROLE_NAMES, Found
from model import LMF
from search.checkpoint import read_model
from search.columns import printed
from search.experiment import Experiment
from search.jobs import set_torch_up
from search.options import Parser, run_script
from search.table import first_line
from training.reference import score
from training.result import Data
from utils import Split

ROOT = Path(__file__).parent
FILE = "predictions.csv"


class Trained(NamedTuple):
    """A model, and what it was trained for."""

    model: LMF
    experiment: Experiment
    emotion: str | None
    max_len: int | None
    without: tuple[str, ...]


def main(words: Sequence[str] | None = None) -> Path:
    """Predicts what the command line's flags, or a list of words, say; returns the CSV's path."""
    options = _flags().parse_args(words)
    set_torch_up()
    trained = read_trained(options.model)
    path = options.data_path
    if path.is_dir():
        path /= f"{trained.experiment.name}.pkl"
    if not path.exists():
        raise InputError(f"{path}: no such file; name the data, or their folder, with --data_path")
    data = _read_data(path, options.split, trained)
    for note in data.remarks:
        print(printable(note))
    audio, video, text, *label = data.arrays[options.split].values()
    try:
        output = trained.model.predict(audio, video, text)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    print(printable(f"{path}, {options.split}: {len(output)} examples; model: {options.model}"))
    if label:
        for name, value in _scores(trained, data, options.split, path).items():
            print(f"{name}: {printed(value)}")
    ids = data.ids.get(options.split)
    columns = _columns(trained.experiment, output, label[0] if label else None, ids)
    target = options.output_path
    return _write(target / FILE if target.is_dir() else target, columns)


def read_trained(path: Path) -> Trained:
    """Returns the model of a model_*.pt file, with the experiment of its train script.

    Raises:
        InputError: There is no such file, or it is no such model.
    """
    train = f"{command('train_mosi.py')} --settings 10"
    missing = f"no such model; train one first, for example: {train}"
    with opened_unchanged(path, missing):  # two look into it
        try:
            model, saved = LMF.load(path), read_model(path)
        except ValueError as error:
            raise InputError(str(error)) from None
    assert saved
    folders = (ROOT / "examples", ROOT)
    scripts = {file.stem: file for folder in folders for file in folder.glob("train_*.py")}
    name = f"train_{saved.conditions['data_set']}"
    if name not in scripts:
        raise InputError(f"{path}: expected the model of a script that is here, got {name}.py's")
    emotion, max_len = (saved.conditions.get(key) for key in ("emotion", "max_len"))
    if not (saved.intact and isinstance(emotion, str | None) and isinstance(max_len, int | None)):
        raise InputError(f"{path}: expected the model that {name}.py wrote, got a changed one")
    module = import_module(".".join(scripts[name].relative_to(ROOT).with_suffix("").parts))
    without = tuple(role for role in ROLES[:3] if role not in model.modalities)
    return Trained(model, module.EXPERIMENT, emotion, max_len, without)


def _read_data(path: Path, split: str, trained: Trained) -> Assembled:
    """Returns a whole data set as the train scripts load it, or else the one split."""
    found, emotion = read(path), trained.emotion
    corpus = CORPORA.get(trained.experiment.name, UNKNOWN)
    prefix = f"{emotion}/" if emotion else ""
    keys: dict[str, str] = dict(zip(MODALITIES, ROLES, strict=True))
    needed = [key for key, role in keys.items() if role not in trained.without]
    how = corpus, trained.max_len, emotion, trained.without
    if all(f"{prefix}{s}/{key}" in found.values for s in SPLITS for key in needed):
        return assemble(path, found.data, *how)
    names = {role: _place(found, split, role, emotion) for role in ROLE_NAMES}
    features = [key for key in needed if key != "label"]
    if missing := [keys[key] for key in features if not names[keys[key]]]:
        expected, has = ", ".join(keys[key] for key in features), list(found.values)[:8]
        raise InputError(
            f"{path}: expected {expected}, or those of {split} in the layout of "
            f"data/README.md, got no {' and no '.join(missing)}, but {', '.join(has) or 'nothing'}"
        )
    found = found._replace(places={("", split, role): name for role, name in names.items()})
    parts: dict[str, object] = {key: found.part(split, keys[key], "") for key in features}
    if names["label"]:
        label = found.label(split, "")
        parts["label"] = label.reshape(len(label), -1)
    if names["id"]:
        parts["id"] = found.values[names["id"]]
    data = {emotion: {split: parts}} if emotion else {split: parts}
    try:
        return assemble(path, data, *how, only=split)
    except InputError as error:
        text = str(error)
        for key, role in keys.items():
            text = text.replace(f"{split}/{key}", names[role])
        raise InputError(text) from None


def _place(found: Found, split: str, role: str, emotion: str | None) -> str:
    """Returns what a file calls a role in a split, "" if it has none; plain names fit any split."""
    places = (found.places.get((outer, split, role)) for outer in (emotion or "", ""))
    return next((name for name in (*places, *ROLE_NAMES[role]) if name in found.values), "")


def _scores(trained: Trained, data: Assembled, split: str, path: Path) -> Mapping[str, float]:
    """Returns the scores by the result CSV's columns, those of the test split for this one."""
    splits = {
        name: Split(*map(torch.from_numpy, parts.values())) for name, parts in data.arrays.items()
    }
    test = splits[split]
    data_set = Data(splits.get("train", test), splits.get("valid", test), test)
    task, outputs = trained.experiment.task_of(data_set), trained.model.fusion_bias.shape[1]
    if task.output_dim > outputs or (task.output_dim < outputs and not trained.experiment.classes):
        raise InputError(
            f"{path}: expected labels for the model's {outputs} outputs, got some for "
            f"{task.output_dim}"
        )
    if len(splits) == 1:
        print(f"what docs/metrics.md says of the train and validation splits is of {split} here")
    return score(trained.model, data_set, task)


def _columns(
    experiment: Experiment, output: np.ndarray, label: np.ndarray | None, ids: list[str] | None
) -> dict[str, Sequence[object]]:
    """Returns the columns of the CSV by name, from outputs (N, O) and labels (N, L)."""
    columns: dict[str, Sequence[object]] = {"id": ids} if ids else {}
    count = output.shape[1]
    names = experiment.outputs if len(experiment.outputs) == count else range(count)
    if experiment.classes:
        if label is not None:
            is_one_hot = label.shape[1] > 1
            columns["label"] = (label.argmax(1) if is_one_hot else label[:, 0].astype(int)).tolist()
        columns["prediction"] = output.argmax(1).tolist()
        named = {"probability": torch.from_numpy(output).softmax(1).numpy()}
    else:
        named = {"prediction": output} if label is None else {"label": label, "prediction": output}
    for title, values in named.items():
        for name, column in zip(names, values.T, strict=True):
            columns[f"{title} {name}" if count > 1 else title] = [printed(x) for x in column]
    return columns


def _write(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    if path.exists() and not any(name.startswith("prediction") for name in first_line(path)):
        raise InputError(
            f"{path}: expected no file, or earlier predictions, to be replaced, got another; "
            "name another --output_path"
        )
    make_folder(path.parent)
    write_csv(path, [columns, *zip(*columns.values(), strict=True)])
    print(printable(f"predictions: {path}"))
    return path


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    add("model", type=Path, help="a model_*.pt that a train script wrote")
    data = "folder of the pickles, or a file: a pickle, or an .npz with audio, video and text"
    add("--data_path", type=Path, default=Path("data"), help=data)
    add("--split", choices=SPLITS, default="test", help="which one, if the file has several")
    output = f"the CSV to write, or a folder for {FILE}; earlier predictions are replaced"
    add("--output_path", type=Path, default=Path("results") / FILE, help=output)
    return flags


if __name__ == "__main__":
    run_script(main)
