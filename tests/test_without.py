"""--without: two modalities, or one, from the file to the trained model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MAINS, Options, pickled, tiny_arrays
from conftest import table as rows

import train_iemocap
import train_mosi
from data import prepare
from data.corpora import MODALITIES, ROLES
from model import LMF
from search.grid import narrow
from utils import InputError, load_corpus

KEYS: dict[str, str] = dict(zip(ROLES[:3], MODALITIES, strict=False))


def train(data_set: str, options: Options) -> list[dict[str, str]]:
    if data_set == "iemocap":
        return rows(*train_iemocap.main(options))
    return rows(MAINS[data_set](options))


@pytest.mark.parametrize("without", [["video"], ["text"], ["audio", "text"]], ids=" ".join)
def test_the_smaller_model_is_searched_saved_and_predicts_what_its_row_says(
    without: list[str], options: Options, tmp_path: Path
) -> None:
    path = train_mosi.main({**options, "without": without})
    best = min(rows(path), key=lambda row: float(row["Best Validation MAE"]))
    for name in [name for name in best if name.partition("_")[0] in without]:
        assert len({row[name] for row in rows(path)}) == 1, name  # not searched
    assert len({row["rank"] for row in rows(path)}) > 1
    model = LMF.load(tmp_path / "models" / "model_mosi_1.pt")
    assert model.modalities == [role for role in KEYS if role not in without]
    assert not any(name.startswith(tuple(without)) for name in model.state_dict())
    whole = load_corpus(str(options["data_path"]), "mosi").test
    with torch.no_grad():
        error = (model(whole.audio, whole.visual, whole.text) - whole.label).abs().mean()
    assert error.item() == pytest.approx(float(best["Test MAE"]), rel=1e-5)


@pytest.mark.parametrize(
    ("data_set", "without"), [("mosi", "audio"), ("pom", "video"), ("iemocap", "text")]
)
def test_a_file_without_a_modality_trains_with_the_flag_that_the_error_names(
    without: str, data_set: str, options: Options, tmp_path: Path
) -> None:
    arrays = tiny_arrays(data_set)
    for parts in arrays.values():
        del parts[KEYS[without]]
    short = {**options, "data_path": pickled(tmp_path / "data", data_set, arrays), "settings": 1}
    with pytest.raises(InputError) as caught:
        train(data_set, short)
    assert f"expected the key {KEYS[without]!r} in train" in str(caught.value)
    assert str(caught.value).endswith(f"; --without {without} trains without it")
    short |= {"without": without, "max_len": 3}
    (row,) = train(data_set, {**short, "run_id": 1})
    (whole,) = train(data_set, {**short, "run_id": 2, "data_path": options["data_path"]})
    assert {**whole, "Seconds": ""} == {**row, "Seconds": ""}


def test_arrays_without_a_modality_are_converted_as_inspect_advises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {
        f"{split}_{role}": parts[KEYS.get(role, "label")]
        for split, parts in tiny_arrays("mosi").items()
        for role in ("audio", "text", "label")
    }
    np.savez("two.npz", allow_pickle=False, **arrays)
    with pytest.raises(InputError, match="data set, or --without video; the nearest layout is nam"):
        prepare.main(["convert", "two.npz", "--to", "mosi"])
    prepare.main(["inspect", "two.npz"])
    advice = capsys.readouterr().out.partition(", or: ")[2].partition(";")[0]
    assert advice == "python data/prepare.py convert two.npz --to mosi --without video"
    prepare.main(advice.split()[2:])
    train = "python train_mosi.py --data_path data --without video"
    assert capsys.readouterr().out.endswith(f"now: {train}\n")
    for command in (["inspect", "data/mosi.pkl"], ["verify"]):
        prepare.main(command)
    shown = capsys.readouterr().out
    assert f"can be used: {train}\n" in shown
    assert "ok    data/mosi.pkl: not the official file, but train_mosi.py can use it" in shown
    loaded = load_corpus("data", "mosi", without=["video"])
    np.testing.assert_allclose(loaded.valid.audio, arrays["valid_audio"], rtol=1e-6)
    np.testing.assert_allclose(loaded.test.text, arrays["test_text"], rtol=1e-6)


def test_convert_leaves_out_what_it_is_told_to_but_not_everything(tmp_path: Path) -> None:
    parts = tiny_arrays("iemocap")
    arrays = {emotion: {**parts, "dev": parts["valid"]} for emotion in ("sad", "happy")}
    for emotion in arrays.values():
        del emotion["valid"]
    (source := tmp_path / "source.pkl").write_bytes(pickle.dumps(arrays))
    words = ["convert", str(source), "--to", "iemocap", "-o", str(tmp_path), "--without"]
    with pytest.raises(InputError, match="expected a modality to stay"):
        prepare.main([*words, "text", "audio", "video"])
    prepare.main([*words, "text", "audio"])
    assert load_corpus(tmp_path, "iemocap", None, "sad", ["text", "audio"]).input_dims[1] > 0
    with pytest.raises(InputError, match="expected the key 'covarep' in train"):
        load_corpus(tmp_path, "iemocap", None, "sad", ["text"])


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    arrays = tiny_arrays("mosi")
    arrays["train"]["facet"] = np.full((2, 3, 4), np.nan)
    arrays["test"]["glove"] = np.array(["words"])
    loaded = load_corpus(pickled(tmp_path, "mosi", arrays), "mosi", without=["video", "text"])
    assert (loaded.input_dims, loaded.notes) == ((6, 0, 0), ())
    assert [tuple(part.shape) for part in loaded.valid[:]] == [(9, 6), (9, 0), (9, 0, 0), (9, 1)]


def test_a_run_does_not_go_on_without_another_modality(options: Options) -> None:
    options |= {"settings": 1, "without": ["video", "text", "video"]}
    path = train_mosi.main(options)
    fixed = json.loads(path.with_suffix(".json").read_text())["fixed"]
    assert fixed["without"] == ["video", "text"]
    train_mosi.main(options)
    for other, changed in ([None, "video, text"], [["video"], "text"]):
        with pytest.raises(InputError, match=rf"other conditions: without \({changed}\);"):
            train_mosi.main({**options, "without": other})


def test_a_run_of_all_three_is_what_it_was_before_there_was_a_choice(options: Options) -> None:
    path = train_mosi.main({**options, "settings": 1})
    assert "without" not in json.loads(path.with_suffix(".json").read_text())["fixed"]
    assert len(rows(train_mosi.main({**options, "settings": 2}))) == 2
    with pytest.raises(InputError, match=r"other conditions: without \(audio\);"):
        train_mosi.main({**options, "without": "audio"})


def test_a_modality_has_to_stay(options: Options) -> None:
    with pytest.raises(InputError, match="--without: expected a modality to stay, got all three"):
        train_mosi.main({**options, "without": ["text", "audio", "video"]})
    with pytest.raises(InputError, match=r"--without: invalid choice: 'facet'"):
        train_mosi.main({**options, "without": "facet"})


def test_hyperparameters_of_what_is_left_out_keep_their_first_value() -> None:
    grid = narrow(train_mosi.GRID, ["video_dropout=0.5,0.1"], ["video", "text"])
    fixed = {"video_hidden": [4], "video_dropout": [0.5], "text_hidden": [64], "text_dropout": [0]}
    assert grid == {**train_mosi.GRID, **fixed}
