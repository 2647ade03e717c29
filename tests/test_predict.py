"""LMF.predict and predict.py: from a model's file and a data file to a row per example."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import AUDIO, GRID, MAINS, TEXT, VIDEO, Capsys, pickled, tiny_arrays
from conftest import table as read
from torch import Tensor

import predict
import train_mosi
import train_pom
from data import prepare
from model import LMF
from utils import InputError, load_iemocap, load_mosi, load_pom

LOADERS = {
    "mosi": lambda folder: load_mosi(folder, 3),
    "iemocap": lambda folder: load_iemocap(folder, "sad"),
    "pom": load_pom,
}
IDS = [f"video{i}[0]" for i in range(11)]

GOOD = {
    "audio": np.ones((3, AUDIO)),
    "video": np.ones((3, VIDEO)),
    "text": np.full((3, 4, TEXT), 0.5),
}


class Ready(NamedTuple):
    folder: Path  # with the data, the results and the model
    model: Path
    rows: list[dict[str, str]]  # of the results


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ready]:
    """Trains a data set once."""
    made: dict[str, Ready] = {}

    def train(data_set: str) -> Ready:
        if data_set not in made:
            folder, data = tmp_path_factory.mktemp(data_set), tiny_arrays(data_set)
            data["test"]["id"] = IDS  # pyright: ignore
            pickled(folder, data_set, data)
            more = {"mosi": {"max_len": 3}, "iemocap": {"emotion": "sad"}}.get(data_set, {})
            paths = dict.fromkeys(("data_path", "output_path", "model_path"), folder)
            found = MAINS[data_set](
                {**paths, **more, "epochs": 2, "settings": 2, "jobs": 1, "stack": 1, "grid": GRID}
            )
            (path,) = found if isinstance(found, list) else [found]
            made[data_set] = Ready(folder, next(folder.glob("model_*.pt")), read(path))
        return made[data_set]

    return train


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore
    return path


def run(model: Path, data: Path, target: Path, *more: str) -> list[dict[str, str]]:
    words = [str(model), "--data_path", str(data), "--output_path", str(target), *more]
    return read(predict.main(words))


@pytest.mark.parametrize("data_set", MAINS)
def test_scores_of_the_test_split_are_those_of_the_models_row(
    data_set: str, ready: Callable[[str], Ready], tmp_path: Path, capsys: Capsys
) -> None:
    folder, model, rows = ready(data_set)
    capsys.readouterr()
    run(model, folder, tmp_path)
    said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines()[1:-1])
    experiment = predict.read_trained(model).experiment
    best = min(rows, key=lambda row: float(row[experiment.columns.valid_loss]))
    assert set(said) == {*experiment.columns.release, *experiment.columns.own}
    assert said == {name: best[name] for name in said}


def test_synthetic_data_are_called_so(
    ready: Callable[[str], Ready], tmp_path: Path, capsys: Capsys
) -> None:
    data = tiny_arrays("mosi")
    data["test"]["id"] = [f"synthetic {name}" for name in IDS]  # pyright: ignore
    pickled(tmp_path, "mosi", data)
    capsys.readouterr()
    run(ready("mosi").model, tmp_path, tmp_path / "out.csv")
    prepare.main(["inspect", str(tmp_path / "mosi.pkl")])
    prepare.main(["verify", str(tmp_path)])
    assert capsys.readouterr().out.count("synthetic data: made-up numbers") == 3


@pytest.mark.parametrize("data_set", MAINS)
def test_a_row_has_id_label_and_what_the_model_predicts(
    data_set: str, ready: Callable[[str], Ready], tmp_path: Path
) -> None:
    folder, model, _ = ready(data_set)
    rows = run(model, folder, tmp_path / "new" / "out.csv")
    test = LOADERS[data_set](folder)[2]
    output = LMF.load(model).predict(test.audio, test.visual, test.text)
    assert [row["id"] for row in rows] == IDS
    label, found = test.label.numpy(), output
    names = {"mosi": [""], "pom": [f" {trait}" for trait in train_pom.TRAITS]}.get(data_set)
    if names is None:
        label, found = label.argmax(1)[:, None], output.argmax(1)[:, None]
        names = [""]
        probability = [[float(row[f"probability {i}"]) for i in (0, 1)] for row in rows]
        softmax = torch.from_numpy(output).softmax(1).numpy()
        np.testing.assert_allclose(probability, softmax, rtol=1e-5)
    for kind, values in (("label", label), ("prediction", found)):
        written = [[float(row[kind + name]) for name in names] for row in rows]
        np.testing.assert_allclose(written, values, rtol=1e-5)


def test_the_split_is_chosen(ready: Callable[[str], Ready], tmp_path: Path) -> None:
    folder, model, _ = ready("mosi")
    rows = run(model, folder, tmp_path, "--split", "valid")
    label = load_mosi(folder)[1].label[:, 0]
    np.testing.assert_allclose([float(row["label"]) for row in rows], label, rtol=1e-5)
    assert "id" not in rows[0]


def unlabelled_pickle(data_set: str, path: Path) -> None:
    test = {**tiny_arrays(data_set)["test"], "id": IDS}
    del test["label"]
    data = {"test": test}
    path.write_bytes(pickle.dumps({"sad": data} if data_set == "iemocap" else data))


def plain_arrays(data_set: str, path: Path) -> None:
    test = tiny_arrays(data_set)["test"]
    names = {"audio": "covarep", "video": "facet", "text": "glove"}
    save(path, {name: test[key] for name, key in names.items()})


@pytest.mark.parametrize("data_set", MAINS)
@pytest.mark.parametrize("write", [unlabelled_pickle, plain_arrays])
def test_data_without_labels_are_predicted_as_those_with_labels(
    data_set: str,
    write: Callable[[str, Path], None],
    ready: Callable[[str], Ready],
    tmp_path: Path,
    capsys: Capsys,
) -> None:
    folder, model, _ = ready(data_set)
    write(data_set, tmp_path / "new")
    capsys.readouterr()
    rows = run(model, tmp_path / "new", tmp_path)
    assert "Test" not in capsys.readouterr().out
    whole = run(model, folder, tmp_path)
    kept = {name for name in whole[0] if not name.startswith("label")}
    kept -= {"id"} if write is plain_arrays else set()
    assert rows == [{name: row[name] for name in row if name in kept} for row in whole]


def test_one_labelled_split_is_scored(
    ready: Callable[[str], Ready], tmp_path: Path, capsys: Capsys
) -> None:
    _, model, rows = ready("mosi")
    arrays = {f"test_{name}": array for name, array in tiny_arrays("mosi")["test"].items()}
    arrays["test_label"] = arrays["test_label"][:, 0]
    run(model, save(tmp_path / "new.npz", arrays), tmp_path)
    said = capsys.readouterr().out
    best = min(rows, key=lambda row: float(row["Best Validation MAE"]))
    assert f"Test MAE: {best['Test MAE']}\n" in said
    assert "train and validation splits is of test here" in said


def test_a_model_without_a_modality_needs_none_of_it(tmp_path: Path, capsys: Capsys) -> None:
    data = tiny_arrays("mosi")
    for parts in data.values():
        del parts["facet"]
    paths = dict.fromkeys(
        ("data_path", "output_path", "model_path"), pickled(tmp_path, "mosi", data)
    )
    small = {"without": "video", "epochs": 1, "settings": 1, "jobs": 1, "stack": 1, "grid": GRID}
    (row,) = read(train_mosi.main({**paths, **small}))
    whole = run(tmp_path / "model_mosi_1.pt", tmp_path, tmp_path)
    assert f"Test MAE: {row['Test MAE']}\n" in capsys.readouterr().out
    test = data["test"]
    path = save(tmp_path / "new.npz", {"audio": test["covarep"], "text": test["glove"]})
    new = run(tmp_path / "model_mosi_1.pt", path, tmp_path)
    assert [row["prediction"] for row in new] == [row["prediction"] for row in whole]
    del test["covarep"]
    with pytest.raises(InputError, match="got no audio"):
        run(tmp_path / "model_mosi_1.pt", save(path, {"text": test["glove"]}), tmp_path)


def test_what_is_not_finite_is_counted(
    ready: Callable[[str], Ready], tmp_path: Path, capsys: Capsys
) -> None:
    audio = np.zeros((3, AUDIO))
    audio[0, :2] = np.nan, np.inf
    path = save(tmp_path / "new.npz", {**GOOD, "audio": audio})
    rows = run(ready("mosi").model, path, tmp_path)
    assert "audio: values set to 0: test 1 NaN, 1 inf" in capsys.readouterr().out
    assert all(np.isfinite(float(row["prediction"])) for row in rows)


def test_a_model_that_is_replaced_while_it_is_read_is_refused(
    ready: Callable[[str], Ready], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model, _ = ready("mosi")
    path, load = tmp_path / "model.pt", LMF.load
    path.write_bytes(model.read_bytes())

    def load_and_replace(path: Path) -> LMF:
        loaded = load(path)
        path.rename(path.with_suffix(".old"))
        path.write_bytes(model.read_bytes())
        return loaded

    monkeypatch.setattr(LMF, "load", load_and_replace)
    with pytest.raises(InputError, match=r"model\.pt: changed while it was read"):
        run(path, folder, tmp_path)


MODELS: dict[str, tuple[Callable[[dict], object] | None, str]] = {
    "no such model; train one first": (None, "missing.pt"),
    "expected the model of a script that is here, got train_x.py's": (
        lambda checkpoint: checkpoint["provenance"].update(data_set="x"),
        "other.pt",
    ),
    "got a changed one": (
        lambda checkpoint: checkpoint["state_dict"]["fusion_bias"].add_(1),
        "changed.pt",
    ),
}


@pytest.mark.parametrize("message", MODELS)
def test_what_is_no_model_is_said(
    message: str, ready: Callable[[str], Ready], tmp_path: Path
) -> None:
    folder, model, _ = ready("mosi")
    change, name = MODELS[message]
    if change:
        checkpoint = torch.load(model, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path / name, folder, tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.ones((3, 9))}, rf"audio \(B, {AUDIO}\).* got audio \(3, 9\)"),
        ({"text": None}, "expected audio, video, text, or.* got no text, but audio, video"),
        ({"video": np.ones((2, VIDEO))}, "expected equally many examples"),
        ({"video": np.ones((3, 4, VIDEO))}, r"expected video to be a numeric array \(N, D\)"),
        ({"label": np.ones((3, 2))}, "expected labels with 1 columns, got 2"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(
    change: dict[str, np.ndarray | None],
    message: str,
    ready: Callable[[str], Ready],
    tmp_path: Path,
) -> None:
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    path, model = save(tmp_path / "new.npz", arrays), ready("mosi").model
    with pytest.raises(InputError, match=rf"new\.npz: .*{message}"):
        run(model, path, tmp_path)
    assert not (tmp_path / predict.FILE).exists()


def test_only_earlier_predictions_are_replaced(
    ready: Callable[[str], Ready], tmp_path: Path
) -> None:
    folder, model, _ = ready("mosi")
    for _ in range(2):
        run(model, folder, tmp_path)
    (tmp_path / "results_mosi_1.csv").write_text("rank,Test MAE\n4,0.9\n")
    with pytest.raises(InputError, match="expected no file, or earlier predictions"):
        run(model, folder, tmp_path / "results_mosi_1.csv")
    assert (tmp_path / "results_mosi_1.csv").read_text() == "rank,Test MAE\n4,0.9\n"


INPUTS = tuple(torch.randn(5, *size, generator=torch.Generator()) for size in ((6,), (4,), (3, 7)))


def small_model() -> LMF:
    model = LMF((6, 4, 7), (3, 3, 3), 2, (0.5, 0.5, 0.5), output_dim=2, rank=2)
    model(*INPUTS)  # the normalisation has seen something
    return model


@pytest.mark.parametrize("convert", [Tensor.numpy, Tensor.tolist, Tensor.double])
def test_predict_gives_what_forward_does_in_eval_mode(convert: Callable[[Tensor], object]) -> None:
    model = small_model()
    model.audio_subnet.eval()
    output = model.predict(*map(convert, INPUTS))  # pyright: ignore
    assert isinstance(output, np.ndarray)
    assert (model.training, model.audio_subnet.norm.training) == (True, False)  # as before
    expected = model.eval()(*INPUTS).detach()
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-5, atol=1e-6)


def test_predict_takes_what_is_not_finite_for_zero_and_texts_of_any_length() -> None:
    model = small_model()
    audio, video, text = (x.numpy().copy() for x in INPUTS)
    audio[0, 0], video[1, 1], text[2, 0, 0] = np.nan, np.inf, -np.inf
    found = model.predict(audio, video, text)
    audio[0, 0] = video[1, 1] = text[2, 0, 0] = 0
    np.testing.assert_array_equal(found, model.predict(audio, video, text))
    assert model.predict(audio[:1], video[:1], text[:1, :1]).shape == (1, 2)


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("change", [lambda x: x[..., :-1], lambda x: x[0], lambda x: x[:0]])
def test_predict_names_the_shapes_that_it_expects_and_got(
    wrong: int, change: Callable[[Tensor], Tensor]
) -> None:
    inputs = [change(x) if i == wrong else x for i, x in enumerate(INPUTS)]
    with pytest.raises(
        ValueError, match=r"audio \(B, 6\), video \(B, 4\), text \(B, T, 7\); got"
    ) as caught:
        small_model().predict(*inputs)
    shape = ", ".join(map(str, inputs[wrong].shape))
    assert f"{('audio', 'video', 'text')[wrong]} ({shape})" in str(caught.value)
