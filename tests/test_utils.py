"""The loaders: on the official files' byte form, on what they clean, and on files that are bad."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from conftest import AUDIO, STEPS, TEXT, VIDEO, Arrays, Capsys, pickled, tiny_arrays
from python2 import Python2Pickler

from data import assembly
from data.assembly import assemble
from data.checks import label_notes
from data.corpora import CORPORA, MODALITIES, SPLITS
from data.pickles import load_pickle
from utils import (
    EMOTIONS,
    InputError,
    Splits,
    load_corpus,
    load_iemocap,
    load_mosi,
    load_pom,
    total,
)

DATA_SETS = ("mosi", "iemocap", "pom")


def load(data_set: str, folder: Path | str, max_len: int | None = None) -> Splits:
    if data_set == "iemocap":
        return load_iemocap(folder, "happy", max_len)
    return (load_mosi if data_set == "mosi" else load_pom)(folder, max_len)


def assert_loaded(splits: Splits, arrays: Arrays) -> None:
    for split, name in zip(splits[:3], SPLITS, strict=True):
        for part, modality in zip(split[:], MODALITIES, strict=True):
            assert part.dtype == torch.float32
            assert part.is_contiguous()
            np.testing.assert_array_equal(part.numpy(), arrays[name][modality].astype(np.float32))


def refusal(data_set: str, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(data_set, folder)
    message = str(caught.value)
    assert str(folder / f"{data_set}.pkl") in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("data_set", ["mosi", "pom"])
def test_loaders_read_the_byte_form_of_the_official_files(data_set: str, tmp_path: Path) -> None:
    arrays = tiny_arrays(data_set)
    (tmp_path / f"{data_set}.pkl").write_bytes(Python2Pickler().dumps(arrays))
    splits = load(data_set, tmp_path)
    assert_loaded(splits, arrays)
    assert splits[3] == (AUDIO, VIDEO, TEXT)


def test_each_emotion_has_its_own_labels(tmp_path: Path) -> None:
    arrays = tiny_arrays("iemocap")
    labels = {split: parts.pop("label") for split, parts in arrays.items()}
    data = {
        emotion: {
            split: {**parts, "label": np.roll(labels[split], i, axis=0).astype(np.int64)}
            for split, parts in arrays.items()  # the emotions share their features
        }
        for i, emotion in enumerate(EMOTIONS)
    }
    (tmp_path / "iemocap.pkl").write_bytes(Python2Pickler().dumps(data))
    for emotion in EMOTIONS:
        assert_loaded(load_iemocap(tmp_path, emotion), data[emotion])


@pytest.mark.parametrize("data_set", DATA_SETS)
def test_keys_may_be_str(data_set: str, tmp_path: Path) -> None:
    pickled(tmp_path, data_set, tiny_arrays(data_set), str)
    assert_loaded(load(data_set, f"{tmp_path}/"), tiny_arrays(data_set))


@pytest.mark.parametrize("dtype", [">f8", "<f4", "<f2", "<i8"])
def test_any_kind_of_number_is_read(dtype: str, tmp_path: Path) -> None:
    arrays = tiny_arrays("mosi")
    for parts in arrays.values():
        parts["covarep"] = np.asfortranarray(parts["covarep"].round().astype(dtype))
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(arrays))
    train = load_mosi(tmp_path)[0]
    np.testing.assert_array_equal(train.audio.numpy(), arrays["train"]["covarep"].astype("f4"))


def test_a_split_is_a_dataset_of_examples(data_path: Path) -> None:
    train, _, _, _ = load_mosi(data_path)
    assert isinstance(train, torch.utils.data.Dataset)
    assert len(train) == 23
    assert [tuple(part.shape) for part in train[4]] == [(AUDIO,), (VIDEO,), (STEPS, TEXT), (1,)]
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=5)))
    for part, expected in zip(batch, train[:5], strict=True):
        assert torch.equal(part, expected)


def test_nan_and_infinite_features_become_zero_and_are_counted(
    tmp_path: Path, capsys: Capsys
) -> None:
    arrays = tiny_arrays("mosi")
    arrays["train"]["covarep"][2, 3] = np.nan
    arrays["train"]["covarep"][4, :2] = np.inf
    arrays["test"]["covarep"][0, 0] = -np.inf
    arrays["valid"]["facet"][1, 1] = 1e300  # infinite in single precision
    arrays["test"]["glove"][5, 3, 6] = np.nan
    splits = load_mosi(pickled(tmp_path, "mosi", arrays))
    for parts in arrays.values():
        for modality in MODALITIES:
            parts[modality] = np.nan_to_num(parts[modality], nan=0, posinf=0, neginf=0)
    arrays["valid"]["facet"][1, 1] = 0
    assert_loaded(splits, arrays)
    name = tmp_path / "mosi.pkl"
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: audio: values set to 0: train 1 NaN, 2 inf; test 0 NaN, 1 inf",
        f"{name}: video: values set to 0: valid 0 NaN, 1 inf",
        f"{name}: text: values set to 0: test 1 NaN, 0 inf",
    ]


def test_what_was_set_to_zero_is_printed_at_every_load(tmp_path: Path, capsys: Capsys) -> None:
    arrays = tiny_arrays("iemocap")
    arrays["train"]["covarep"][2, 3] = np.nan
    pickled(tmp_path, "iemocap", arrays)
    for emotion in ("happy", "sad", "happy"):
        load_iemocap(tmp_path, emotion)
        assert f"{emotion}: audio: values set to 0: train 1 NaN" in capsys.readouterr().out


def test_a_feature_that_is_zero_throughout_is_said() -> None:
    arrays = tiny_arrays("mosi")
    arrays["valid"]["glove"][:] = 0
    arrays["test"]["glove"][:] = np.nan
    arrays["train"]["facet"][:] = 0
    loaded = assemble(Path("a"), arrays, CORPORA["mosi"])
    assert "a: text: every value is 0 in valid, test" in loaded.notes
    assert "a: video: every value is 0 in train" in loaded.notes


def test_clean_files_are_loaded_without_a_word(data_path: Path, capsys: Capsys) -> None:
    for data_set in DATA_SETS:
        load(data_set, data_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("data_set", "in_front"), [("mosi", 1), ("pom", 1), ("iemocap", 0)])
@pytest.mark.parametrize("max_len", [1, 3, 4, 6])
def test_max_len_cuts_and_pads_on_the_side_of_the_padding(
    data_set: str, in_front: bool, max_len: int, data_path: Path
) -> None:
    text = tiny_arrays(data_set)["train"]["glove"]
    more = np.zeros((len(text), 10, TEXT))
    long = np.concatenate([more, text] if in_front else [text, more], axis=1)
    expected = long[:, -max_len:] if in_front else long[:, :max_len]
    loaded = load(data_set, data_path, max_len)[0].text
    np.testing.assert_array_equal(loaded, expected.astype(np.float32))
    assert loaded.is_contiguous()


@pytest.mark.parametrize("max_len", [10**12, 10**25])
def test_a_length_that_no_memory_holds_is_refused(max_len: int, data_path: Path) -> None:
    with pytest.raises(InputError, match=f"max_len: expected a length .*, got {max_len:,}"):
        load("mosi", data_path, max_len)


def test_the_side_of_the_padding_is_read_from_the_file(tmp_path: Path) -> None:
    arrays = tiny_arrays("iemocap")  # padded at the end
    for parts in arrays.values():
        parts["label"] = parts["label"][:, :1]
    text = load_mosi(pickled(tmp_path, "mosi", arrays), 2)[0].text
    np.testing.assert_array_equal(text, arrays["train"]["glove"][:, :2].astype(np.float32))


@pytest.mark.parametrize("data_set", ["mosi", "iemocap"])
def test_files_without_padding_are_cut_as_the_corpus_is_padded(
    data_set: str, tmp_path: Path
) -> None:
    arrays = tiny_arrays(data_set)
    for parts in arrays.values():
        parts["glove"] = np.random.default_rng(1).normal(size=parts["glove"].shape)
    whole = arrays["test"]["glove"].astype(np.float32)
    text = load(data_set, pickled(tmp_path, data_set, arrays), 3)[2].text
    np.testing.assert_array_equal(text, whole[:, 1:] if data_set == "mosi" else whole[:, :3])


def test_the_sentiment_of_a_pom_file_with_17_columns_is_dropped(
    tmp_path: Path, capsys: Capsys
) -> None:
    arrays = tiny_arrays("pom")
    for parts in arrays.values():
        parts["label"] = np.tile(np.arange(17.0), (len(parts["label"]), 1))
    splits = load_pom(pickled(tmp_path, "pom", arrays))
    for split in splits[:3]:
        assert split.label[0].tolist() == [*range(14), 15, 16]
    assert "Sentiment" in capsys.readouterr().out


SPREAD = np.linspace(-2.9, 3, 23)


@pytest.mark.parametrize(
    ("data_set", "labels", "expected"),
    [
        ("mosi", SPREAD, []),
        ("mosi", np.arange(23) % 2, ["from 0 to 1", "none is below 0", "numbers 0, 1"]),
        ("mosi", np.arange(23) % 7, ["from 0 to 6", "none is below 0", "0, 1, 2, 3, 4, 5, 6"]),
        ("mosi", np.arange(23) % 3 - 1, ["from -1 to 1", "numbers -1, 0, 1"]),
        ("mosi", SPREAD / 3, ["from -0.9667 to 1, where CMU-MOSI's go from -3 to 3"]),
        ("mosi", -np.abs(SPREAD), ["from -3 to", "none is above 0"]),
        ("mosi", SPREAD * 1e30, ["from -2.9e+30 to 3e+30"]),
        ("mosi", np.full(23, 2.5), ["from 2.5", "none is below 0", *["are all the same:"] * 3]),
        ("pom", np.tile(SPREAD + 3.95, (16, 1)).T, []),
        ("pom", np.tile(np.arange(23) % 7, (16, 1)).T, ["from 0 to 6", "numbers 0, 1, 2"]),
        ("pom", np.tile(SPREAD, (16, 1)).T, ["from -2.9 to 3, where POM's go from 1 to 7"]),
        (
            "pom",
            np.vstack([np.full((2, 23), 4.5), np.tile(SPREAD + 3.95, (14, 1))]).T,
            ["of train are all the same in columns 0, 1:", "of valid", "of test"],
        ),
        ("iemocap", np.eye(2)[np.arange(23) % 2], []),
        ("iemocap", np.eye(2)[np.zeros(23, int)], ["of train are all [1, 0]", "valid", "test"]),
    ],
)
def test_labels_that_give_scores_another_meaning_are_said(
    data_set: str, labels: np.ndarray, expected: list[str]
) -> None:
    split = labels.reshape(23, -1).astype(np.float32)
    notes = label_notes(CORPORA[data_set], dict.fromkeys(SPLITS, split))
    assert len(notes) == len(expected), notes
    assert all(part in note for note, part in zip(notes, expected, strict=True)), notes


def test_odd_labels_are_said_by_the_loader(tmp_path: Path, capsys: Capsys) -> None:
    for data_set, label, expected in (
        ("mosi", np.linspace(0.1, 3, 11)[:, None], "labels in test: none is below 0"),
        ("iemocap", np.eye(2)[np.ones(11, int)], "happy: labels of test are all [0, 1]"),
    ):
        arrays = tiny_arrays(data_set)
        arrays["test"]["label"] = label
        load(data_set, pickled(tmp_path, data_set, arrays))
        assert f"{data_set}.pkl: {expected}" in capsys.readouterr().out


@pytest.mark.parametrize("emotion", ["joy", "", "Happy"])
def test_an_unknown_emotion_is_refused(emotion: str, data_path: Path) -> None:
    with pytest.raises(InputError, match="happy, sad, angry, neutral"):
        load_iemocap(data_path, emotion)


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = refusal("mosi", tmp_path)
    assert "no such file" in message
    assert "--data_path" in message
    assert "prepare.py synthetic mosi" in message


def test_the_file_in_the_folders_place_is_refused_with_its_folder(data_path: Path) -> None:
    with pytest.raises(InputError, match=rf"name its folder: --data_path {data_path}$"):
        load_mosi(data_path / "mosi.pkl")


def test_the_checksum_is_that_of_the_bytes_that_were_read(data_path: Path) -> None:
    for name in DATA_SETS:
        loaded = load_corpus(data_path, name, emotion="sad" if name == "iemocap" else None)
        content = (data_path / f"{name}.pkl").read_bytes()
        assert loaded.sha256 == hashlib.sha256(content).hexdigest()
        assert loaded.splits == loaded[:3]
        assert loaded.notes == ()


@pytest.mark.parametrize("load_it", [load_mosi, partial(load_corpus, name="mosi")])
@pytest.mark.parametrize("change", ["replaced", "written to", "longer", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    load_it: Callable[[Path], object], change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pickled(tmp_path, "mosi", tiny_arrays("mosi")) / "mosi.pkl"
    os.utime(path, (1, 1))

    def load_and_change(file: BinaryIO) -> object:
        data = load_pickle(file)
        if change == "replaced":
            (tmp_path / "new").write_bytes(path.read_bytes())
            (tmp_path / "new").replace(path)
        elif change == "removed":
            path.unlink()
        else:
            with path.open("r+b") as other:
                other.seek(0, os.SEEK_END if change == "longer" else os.SEEK_SET)
                other.write(b"\x80")
        return data

    monkeypatch.setattr(assembly, "load_pickle", load_and_change)
    with pytest.raises(InputError, match=r"mosi\.pkl: changed while it was read"):
        load_it(tmp_path)


@pytest.mark.parametrize("write", [Python2Pickler().dumps, pickle.dumps])
def test_a_truncated_file_is_refused(write: Callable[[object], bytes], tmp_path: Path) -> None:
    content = write(tiny_arrays("mosi"))
    for share in (0, 0.01, 0.5, 0.999):
        (tmp_path / "mosi.pkl").write_bytes(content[: int(share * len(content))])
        assert "expected a whole pickle" in refusal("mosi", tmp_path)


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps({"\x1b]0;title\x07": 1, "x\n": 2}))
    assert "got \\x1b]0;title\\x07, x\\n" in refusal("mosi", tmp_path)
    (tmp_path / "mosi.pkl").write_bytes(b"cos\x1b[2J\nsystem\n.")
    assert "it names os\\x1b[2J.system" in refusal("mosi", tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "expected the file to be a dict with the key 'train', got a list"),
        (np.zeros(3), "got an array of float64 (3,)"),
        ({}, "the key 'train' in the file, got no keys"),
        ({**tiny_arrays("mosi"), "train": 1}, "expected train to be a dict"),
    ],
)
def test_pickles_of_something_else_are_refused(data: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(data))
    assert message in refusal("mosi", tmp_path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    arrays = tiny_arrays("iemocap")
    (tmp_path / "iemocap.pkl").write_bytes(pickle.dumps(arrays))
    assert "the key 'happy' in the file, got train, valid, test" in refusal("iemocap", tmp_path)
    del arrays["test"]["glove"]
    pickled(tmp_path, "mosi", arrays)
    assert "the key 'glove' in test, got covarep, facet, label" in refusal("mosi", tmp_path)
    del arrays["valid"]
    pickled(tmp_path, "mosi", arrays)
    assert "the key 'valid' in the file, got train, test" in refusal("mosi", tmp_path)


NOT_FINITE = "expected finite labels in single precision, got NaN or inf in 9 of valid/label"
NOT_ONE_HOT = "expected one-hot labels in test"


@pytest.mark.parametrize(
    ("data_set", "where", "array", "message"),
    [
        ("mosi", "train/covarep", np.zeros((23, 4, 6)), "(N, D), got an array of float64"),
        ("mosi", "train/glove", np.zeros((23, 7)), "(N, T, D), got an array of float64 (23, 7)"),
        ("mosi", "test/label", np.zeros(11), "to be a numeric array (N, D)"),
        ("mosi", "train/facet", np.full((23, 5), "a"), "got an array of <U1"),
        ("mosi", "train/facet", np.full((23, 5), None), "got an array of object"),
        ("mosi", "train/facet", np.zeros((23, 5), complex), "got an array of complex"),
        ("mosi", "train/facet", [[0.0] * 5] * 23, "got a list"),
        ("mosi", "train/covarep", np.zeros((22, 6)), "equally many examples in train"),
        ("mosi", "valid/covarep", np.zeros((0, 6)), "valid/covarep, got shape (0, 6)"),
        ("mosi", "train/glove", np.zeros((23, 4, 0)), "train/glove, got shape (23, 4, 0)"),
        ("mosi", "test/facet", np.zeros((11, 4)), "test/facet to be ('N', 5) as in train"),
        ("mosi", "valid/label", np.full((9, 1), np.nan), NOT_FINITE),
        ("pom", "valid/label", np.full((9, 16), -np.inf), NOT_FINITE),
        ("mosi", "valid/label", np.full((9, 1), 1e300), NOT_FINITE),
        ("iemocap", "test/label", np.ones((11, 2)), NOT_ONE_HOT),
        ("iemocap", "test/label", np.zeros((11, 2)), NOT_ONE_HOT),
        ("iemocap", "test/label", np.tile([2, -1], (11, 1)), NOT_ONE_HOT),
    ],
)
def test_arrays_of_another_kind_or_shape_are_refused(
    data_set: str, where: str, array: np.ndarray, message: str, tmp_path: Path
) -> None:
    arrays, (split, modality) = tiny_arrays(data_set), where.split("/")
    arrays[split][modality] = array
    assert message in refusal(data_set, pickled(tmp_path, data_set, arrays))


@pytest.mark.parametrize(
    ("data_set", "columns"), [("mosi", 2), ("iemocap", 1), ("iemocap", 4), ("pom", 15), ("pom", 18)]
)
def test_labels_of_another_width_are_refused(data_set: str, columns: int, tmp_path: Path) -> None:
    arrays = tiny_arrays(data_set)
    for parts in arrays.values():
        parts["label"] = np.ones((len(parts["label"]), columns))
    message = refusal(data_set, pickled(tmp_path, data_set, arrays))
    assert f"labels with {CORPORA[data_set].label_columns} columns, got {columns}" in message


def test_a_train_split_of_one_example_is_refused(tmp_path: Path) -> None:
    arrays = tiny_arrays("mosi")
    arrays["train"] = {modality: array[:1] for modality, array in arrays["train"].items()}
    assert "at least 2 training" in refusal("mosi", pickled(tmp_path, "mosi", arrays))


@pytest.mark.parametrize("padding", [0, -1, -100, np.nan])
@pytest.mark.parametrize("text", ["BERT's", "tokens of one sequence"])
def test_token_numbers_in_the_place_of_words_are_refused(
    text: str, padding: float, tmp_path: Path
) -> None:
    arrays = tiny_arrays("mosi")
    for parts in arrays.values():
        numbers = np.random.default_rng(0).integers(100, 30_522, (len(parts["glove"]), 3, 50))
        if text == "BERT's":
            numbers = np.minimum(numbers, 40)  # as few words as a small file may have
            numbers[:, 1:] = numbers[:, 1:] % 2
        parts["glove"] = numbers.astype(np.float64)
        parts["glove"][:, 0, 40:] = padding
    message = refusal("mosi", pickled(tmp_path, "mosi", arrays))
    assert "train/glove: expected word vectors (N, T, D), got token numbers (23, 3, 50)" in message
    assert '"text_bert"' in message


def test_numbers_of_few_tokens_as_vectors_of_one_number_are_refused(tmp_path: Path) -> None:
    arrays = tiny_arrays("mosi")
    for parts in arrays.values():
        parts["glove"] = (np.arange(len(parts["glove"]) * 9) % 40.0).reshape(-1, 9, 1)
    message = refusal("mosi", pickled(tmp_path, "mosi", arrays))
    assert "got token numbers (23, 9, 1), whole numbers up to 39" in message


def test_total_counts_the_settings_of_a_grid() -> None:
    assert total({"rank": [1, 4], "batch_size": [8, 16, 32]}) == 6
    assert total({}) == 1
    assert total({"rank": []}) == 0
