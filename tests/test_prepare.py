"""data/prepare.py: synthetic data, inspection, and conversion of every foreign layout."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from conftest import Capsys, pickled, tiny_arrays
from python2 import Python2Pickler

from data import assembly, formats, prepare
from data.corpora import CORPORA, ROLES, SPLITS, Corpus
from data.synthetic import synthetic
from utils import EMOTIONS, InputError, load_corpus, load_iemocap, load_mosi, load_pom

SIZES = {"train": 9, "valid": 4, "test": 5}
STEPS = 6
EMOTION_ORDER = ("neutral", "happy", "sad", "angry")

Splits = dict[str, dict[str, np.ndarray]]


# Foreign layouts, made here: audio, video, text and labels of every split.


def sequences(label_shape: tuple[int, ...], text_width: int = 7) -> Splits:
    """Returns steps (N, 6, D) that are padded at the end, audio with NaN and -inf in it."""
    rng = np.random.default_rng(0)
    splits: Splits = {}
    for split, count in SIZES.items():
        words = np.arange(STEPS) < rng.integers(2, STEPS, (count, 1))
        parts = {
            name: np.where(words[..., None], rng.normal(size=(count, STEPS, width)), 0)
            for name, width in (("audio", 5), ("video", 4), ("text", text_width))
        }
        if label_shape == (4, 2):
            label = np.eye(2)[rng.integers(0, 2, (count, 4))]
        else:
            label = rng.uniform(1, 3, (count, *label_shape))
        splits[split] = {**parts, "label": label}
    splits["train"]["audio"][0, 0, :2] = np.nan, -np.inf
    return splits


def finite(array: np.ndarray) -> np.ndarray:
    return np.nan_to_num(array, nan=0, posinf=0, neginf=0)


def write_pickle(path: Path, splits: Splits, label: str, more: dict[str, object]) -> Path:
    """Writes the layout that MulT and MMSA share; `more` is an item of each example."""
    data = {
        split: {
            **{"audio": parts["audio"], "vision": parts["video"], "text": parts["text"]},
            label: parts["label"],
            **{key: [item] * SIZES[split] for key, item in more.items()},
        }
        for split, parts in splits.items()
    }
    path.write_bytes(pickle.dumps(data))
    return path


def write_mult(path: Path, splits: Splits) -> Path:
    return write_pickle(path, splits, "labels", {"id": np.array(["v", b"0.1", None])})


def write_mmsa(path: Path, splits: Splits, lengths: bool = False) -> Path:
    more: dict[str, object] = {"raw_text": "words"}
    if lengths:
        more |= {"audio_lengths": 2, "vision_lengths": 3}
    flat = {split: {**parts, "label": parts["label"][:, 0]} for split, parts in splits.items()}
    return write_pickle(path, flat, "regression_labels", more)


def write_mfn(folder: Path, splits: Splits) -> Path:
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    for split, parts in splits.items():
        for name, array in parts.items():
            key = "y" if name == "label" else name
            with h5py.File(folder / f"{key}_{split}.h5", "w") as file:
                file["d1" if name == "text" else "data"] = array
    return folder


def write_arrays(path: Path, splits: Splits) -> Path:
    named = {f"{s}_{name}": array for s, parts in splits.items() for name, array in parts.items()}
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **named)
        return path
    path.mkdir()
    for name, array in named.items():
        np.save(path / f"{name}.npy", array)
    return path


def small(
    name: str, examples: tuple[int, int, int], dims: tuple[int, int, int] = (5, 4, 300)
) -> Corpus:
    """Returns a data set's row with other sizes."""
    return CORPORA[name]._replace(examples=examples, dims=dims)


def run(*words: object) -> None:
    prepare.main([str(word) for word in words])


# Conversion.


def convert(source: Path, name: str, *flags: str) -> None:
    """Converts a file or folder to a data set, beside it."""
    run("convert", source, "--to", name, "-o", source.parent, *flags)


def test_mult_becomes_mosi_with_the_direct_averages(tmp_path: Path) -> None:
    splits = sequences((1, 1))
    convert(write_mult(tmp_path / "mosi_data.pkl", splits), "mosi")
    *loaded, dims = load_mosi(tmp_path)
    assert dims == (5, 4, 7)
    for got, split in zip(loaded, SPLITS, strict=True):
        expected = splits[split]
        np.testing.assert_allclose(got.audio, finite(expected["audio"]).mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(got.visual, expected["video"].mean(axis=1), rtol=1e-6)
        np.testing.assert_array_equal(got.text, expected["text"].astype(np.float32))
        np.testing.assert_allclose(got.label, expected["label"][:, 0], rtol=1e-6)


def test_mult_labels_become_four_emotions_that_share_their_features(tmp_path: Path) -> None:
    splits = sequences((4, 2))
    convert(write_mult(tmp_path / "iemocap_data.pkl", splits), "iemocap")
    for emotion in EMOTIONS:
        train = load_iemocap(tmp_path, emotion)[0]
        column = EMOTION_ORDER.index(emotion)
        np.testing.assert_array_equal(train.label, splits["train"]["label"][:, column])
    data = pickle.loads((tmp_path / "iemocap.pkl").read_bytes())
    assert data[b"sad"][b"train"][b"glove"] is data[b"happy"][b"train"][b"glove"]


@pytest.mark.parametrize("lengths", [False, True])
def test_mmsa_becomes_mosi_whether_aligned_or_not(lengths: bool, tmp_path: Path) -> None:
    splits = sequences((1,), text_width=11)
    convert(write_mmsa(tmp_path / "aligned_50.pkl", splits, lengths), "mosi", "--average", "words")
    train, _, _, dims = load_mosi(tmp_path)
    assert dims == (5, 4, 11)
    audio = finite(splits["train"]["audio"])
    words = splits["train"]["text"].any(axis=2)
    counts = np.full(len(audio), 2) if lengths else words.sum(axis=1)
    expected = [steps[:count].mean(axis=0) for steps, count in zip(audio, counts, strict=True)]
    np.testing.assert_allclose(train.audio, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "lengths", [[None] * 9, ["a"] * 9, [[1], [1, 2]] * 4, [2.0] * 8, [np.nan] * 9]
)
def test_lengths_that_are_none_are_refused(lengths: list, tmp_path: Path) -> None:
    source = write_mmsa(tmp_path / "unaligned_50.pkl", sequences((1,)), lengths=True)
    data = pickle.loads(source.read_bytes())
    data["train"]["audio_lengths"] = lengths
    source.write_bytes(pickle.dumps(data))
    with pytest.raises(InputError, match="expected a number per example in train/audio_lengths"):
        convert(source, "mosi", "--average", "words")


def test_sequences_of_different_lengths_are_averaged_over_their_own_words(tmp_path: Path) -> None:
    splits = sequences((1,))
    for parts in splits.values():
        parts["audio"] = np.repeat(finite(parts["audio"]), 3, axis=1)  # three frames a word
    convert(write_mmsa(tmp_path / "mmsa.pkl", splits), "mosi", "--average", "words")
    steps = splits["train"]["audio"]
    expected = [frames[frames.any(axis=1)].mean(axis=0) for frames in steps]
    np.testing.assert_allclose(load_mosi(tmp_path)[0].audio, expected, rtol=1e-6)


def test_mfn_h5_folder_becomes_pom_without_its_sentiment(tmp_path: Path) -> None:
    splits = sequences((17,))
    convert(write_mfn(tmp_path / "pom", splits), "pom")
    train = load_pom(tmp_path)[0]
    expected = np.delete(splits["train"]["label"], 14, axis=1)
    np.testing.assert_allclose(train.label, expected, rtol=1e-6)
    np.testing.assert_allclose(train.visual, splits["train"]["video"].mean(axis=1), rtol=1e-6)


def test_synthetic_data_survive_a_round_trip_through_another_layout(tmp_path: Path) -> None:
    data = synthetic(small("mosi", (30, 8, 9)), 1)
    splits: Splits = {s: dict(zip(ROLES, data[s.encode()].values(), strict=True)) for s in SPLITS}
    convert(write_arrays(tmp_path / "flat.npz", splits), "mosi")
    again = pickle.loads((tmp_path / "mosi.pkl").read_bytes())
    for split, parts in data.items():
        for key, array in parts.items():
            np.testing.assert_array_equal(again[split][key], array)


def test_scaling_divides_by_the_largest_magnitude_in_train(tmp_path: Path) -> None:
    splits = sequences((1, 1))
    splits["train"]["video"][..., 2] = 0  # a constant feature stays as it is
    convert(write_mult(tmp_path / "mosi_data.pkl", splits), "mosi", "--scale", "max")
    train, valid, _, _ = load_mosi(tmp_path)
    magnitude = np.abs(splits["train"]["video"].mean(axis=1)).max(axis=0)
    magnitude[2] = 1
    np.testing.assert_allclose(train.visual.abs().amax(0), (magnitude > 0) * [1, 1, 0, 1])
    expected = splits["valid"]["video"].mean(axis=1) / magnitude
    np.testing.assert_allclose(valid.visual, expected, rtol=1e-5)


def test_convert_says_what_it_did_and_what_remains_different(
    tmp_path: Path, capsys: Capsys
) -> None:
    convert(write_mult(tmp_path / "mosi_data.pkl", sequences((1, 1))), "mosi")
    out = capsys.readouterr().out
    assert "train/audio: (9, 6, 5) averaged over all steps, padding included" in out
    assert "train/audio: 2 NaN or infinite values set to 0 before" in out
    assert "(9, 4, 5) examples, not (1284, 229, 686)" in out
    assert "7 text features, not 300" in out
    assert "texts are padded at the end" in out


def test_convert_replaces_a_file_only_if_told_to(tmp_path: Path) -> None:
    source = write_mult(tmp_path / "mosi_data.pkl", sequences((1, 1)))
    target = tmp_path / "mosi.pkl"
    target.write_bytes(b"mine")
    with pytest.raises(InputError, match="--force replaces it"):
        convert(source, "mosi")
    assert target.read_bytes() == b"mine"
    convert(source, "mosi", "--force")
    assert len(load_mosi(tmp_path)[0]) == SIZES["train"]


@pytest.mark.parametrize(
    ("shape", "name"), [((1, 1), "pom"), ((1, 1), "iemocap"), ((4, 2), "mosi")]
)
def test_labels_of_another_corpus_are_refused(
    shape: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    source = write_mult(tmp_path / "some.pkl", sequences(shape))
    with pytest.raises(InputError, match="expected labels"):
        convert(source, name)
    assert not (tmp_path / f"{name}.pkl").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write_mult(tmp_path / "mosi_data.pkl", sequences((1, 1)))
    for folder in (source, source / "inside"):
        with pytest.raises(InputError, match=rf"{folder}: expected a folder to write to"):
            run("convert", source, "--to", "mosi", "-o", folder)


# Ids.


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["a", "b\x1b", 3] * 3, ["a", "b\\x1b", "3"] * 3),
        (np.array([b"a", b"b", b"c"] * 3), ["a", "b", "c"] * 3),
        (np.array([["v", b"0.1", None]] * 9, dtype=object), ["v_0.1_None"] * 9),
        (["a"] * 8, None),
        ([["a", ["b"]]] * 9, None),
        (np.array(3), None),
        ({"a": 1}, None),
    ],
)
def test_ids_are_loaded_where_there_is_one_per_example(
    ids: object, expected: list[str] | None, tmp_path: Path
) -> None:
    data = synthetic(small("mosi", (9, 4, 5)), 1)
    data[b"train"][b"id"] = ids
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(data))
    loaded = load_corpus(tmp_path, "mosi")
    assert loaded.ids == ({"train": expected} if expected else {})
    assert ("left out" in "".join(loaded.notes)) is (expected is None)


# Inspection.


def reports(capsys: Capsys, *files: Path) -> list[dict]:
    run("inspect", "--json", *files)
    return json.loads(capsys.readouterr().out)


def test_inspect_counts_what_was_planted(tmp_path: Path, capsys: Capsys) -> None:
    arrays = tiny_arrays("mosi")
    arrays["train"]["covarep"][0, :3] = np.nan, np.inf, -np.inf
    arrays["train"]["covarep"][:, 4] = 2
    arrays["train"]["glove"][:, :1] = 0
    (tmp_path / "mosi.pkl").write_bytes(Python2Pickler().dumps(arrays))
    (report,) = reports(capsys, tmp_path / "mosi.pkl")
    audio, _, text, _ = report["summaries"][:4]
    assert (audio["where"], audio["nan"], audio["inf"]) == ("train/covarep", 1, 2)
    assert audio["constant"] == 1
    zero = ~arrays["train"]["glove"].any(axis=2)
    assert text["padding"] == pytest.approx(zero.mean())
    assert text["side"] == "front"
    assert report["usable"]


def test_inspect_tells_what_every_layout_needs(tmp_path: Path, capsys: Capsys) -> None:
    emotions = dict.fromkeys(EMOTIONS, tiny_arrays("iemocap"))
    (tmp_path / "iemocap.pkl").write_bytes(pickle.dumps(emotions))
    (tmp_path / "renamed.pkl").write_bytes(pickle.dumps(tiny_arrays("pom")))
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"a": np.ones(3)}))
    files = {
        tmp_path / "iemocap.pkl": "python train_iemocap.py",
        tmp_path / "renamed.pkl": "name it pom.pkl",
        write_mult(tmp_path / "mult.pkl", sequences((4, 2))): "--to iemocap",
        write_mmsa(tmp_path / "mmsa.pkl", sequences((1,)), lengths=True): "--to mosi",
        write_mfn(tmp_path / "mfn", sequences((17,))): "--to pom",
        write_arrays(tmp_path / "named.npz", sequences((1,))): "--to mosi",
        tmp_path / "other.pkl": "expected arrays by the names train_audio",
    }
    for report, (path, advice) in zip(reports(capsys, *files), files.items(), strict=True):
        assert advice in report["advice"], path
        assert report["usable"] is (path.name == "iemocap.pkl")


def test_inspect_reads_a_computational_sequence(tmp_path: Path, capsys: Capsys) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "COVAREP.csd", "w") as file:
        for video in ("v1", "v2"):
            file[f"COVAREP/data/{video}/features"] = np.ones((10, 74))
            file[f"COVAREP/data/{video}/intervals"] = np.ones((10, 2))
    run("inspect", tmp_path / "COVAREP.csd")
    out = capsys.readouterr().out
    assert "COVAREP: 2 videos  20 x 74" in out
    assert "align it" in out


def test_inspect_shows_the_good_files_and_then_names_the_bad(
    tmp_path: Path, capsys: Capsys
) -> None:
    pickled(tmp_path, "mosi", tiny_arrays("mosi"))
    with pytest.raises(InputError, match=r"missing\.pkl: no such file"):
        run("inspect", tmp_path / "missing.pkl", tmp_path / "mosi.pkl")
    assert "train/covarep" in capsys.readouterr().out


# What is odd about a file.


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (np.arange(9.0) % 4, "the whole numbers 0, 1, 2, 3:"),
        (np.arange(9.0) % 3 - 1, "the whole numbers -1, 0, 1:"),
        (np.linspace(0.5, 3, 9), "none is below 0"),
    ],
)
def test_odd_labels_are_noted_by_inspect_and_convert(
    labels: np.ndarray, note: str, tmp_path: Path, capsys: Capsys
) -> None:
    splits = sequences((1,))
    for parts in splits.values():
        parts["label"] = labels[: len(parts["label"]), None]
    source = write_mmsa(tmp_path / "aligned_50.pkl", splits)
    (report,) = reports(capsys, source)
    assert any(note in line for line in report["notes"])
    assert ("--to mosi" in report["advice"]) is not ("class numbers" in report["advice"])
    assert ("class numbers" in report["advice"]) is bool((labels == labels.round()).all())
    convert(source, "mosi")
    assert note in capsys.readouterr().out
    run("inspect", tmp_path / "mosi.pkl")
    assert note in capsys.readouterr().out
    run("verify", tmp_path)
    assert note in capsys.readouterr().out


def test_labels_are_shown_and_an_emotion_that_a_split_does_not_have_is_noted(
    tmp_path: Path, capsys: Capsys
) -> None:
    splits, mosi = sequences((4, 2)), sequences((1, 1))
    splits["test"]["label"][:, 2] = [1, 0]  # sad
    happy = int(splits["train"]["label"][:, 1, 0].sum())
    source = write_mult(tmp_path / "iemocap_data.pkl", splits)
    run("inspect", source, write_mult(tmp_path / "mosi_data.pkl", mosi))
    out = capsys.readouterr().out
    assert "note: sad: labels of test are all [1, 0]" in out
    assert f"label happy train: [1, 0] {happy}, [0, 1] {9 - happy} of 9 examples" in out
    assert f"label train: {mosi['train']['label'].min():.3g} to" in out
    convert(source, "iemocap")
    assert "sad: labels of test are all [1, 0]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("write", "shape"),
    [(write_mmsa, (3, 50)), (write_mult, (50,)), (write_mult, (50, 1)), (write_arrays, (3, 50))],
)
def test_token_numbers_are_no_text(
    write: Callable[..., Path], shape: tuple[int, ...], tmp_path: Path, capsys: Capsys
) -> None:
    splits = sequences((1,))
    for parts in splits.values():
        numbers = np.random.default_rng(0).integers(0, 30_522, (len(parts["text"]), *shape))
        parts["text"] = numbers.astype(np.float32)
    name = "some.npz" if write is write_arrays else "some.pkl"
    source = write(tmp_path / name, splits)
    (report,) = reports(capsys, source)
    assert "got token numbers" in report["advice"]
    with pytest.raises(InputError, match=r"got token numbers .* take text features"):
        convert(source, "mosi")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("role", ["video", "text", "label"])
@pytest.mark.parametrize("shape", [(), (0, 6, 5), (5, 0, 0), (5, 6, 9), (5,), (5, 2, 2, 2)])
def test_arrays_of_an_odd_shape_are_refused(
    shape: tuple[int, ...], role: str, split: str, tmp_path: Path, capsys: Capsys
) -> None:
    splits = sequences((1, 1))
    splits[split][role] = np.ones(shape, dtype=bool)
    source = write_mult(tmp_path / "mosi_data.pkl", splits)
    (report,) = reports(capsys, source)
    assert not report["usable"]
    with pytest.raises(InputError, match=r"mosi_data\.pkl: expected"):
        convert(source, "mosi", "--scale", "max")


def test_features_of_whole_numbers_are_text(tmp_path: Path) -> None:
    splits = sequences((1, 1))
    for parts in splits.values():
        parts["text"] = np.random.default_rng(0).integers(0, 2, parts["text"].shape)
    convert(write_mult(tmp_path / "mosi_data.pkl", splits), "mosi")


@pytest.mark.parametrize("kind", ["pickle", "npz", "h5"])
def test_names_in_a_file_cannot_steer_the_terminal(
    kind: str, tmp_path: Path, capsys: Capsys
) -> None:
    name, path = "\x1b]0;title\x07\x9b2J", tmp_path / f"a\x1b[2J.{kind}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({name: np.ones(3), "deep": {name: [name]}}))
    elif kind == "npz":
        np.savez(path, allow_pickle=False, **{name: np.ones(3)})
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file[name] = np.ones(3)
    run("inspect", path)
    out = capsys.readouterr().out
    assert "\\x1b]0;title\\x07\\x9b2J" in out
    assert out.replace("\n", "").isprintable()
    with pytest.raises(InputError, match="expected arrays by the names train_audio") as caught:
        convert(path, "mosi")
    assert str(caught.value).replace(str(path), "").isprintable()


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to", "mosi", "-o", "out"]])
def test_a_pipe_is_refused_at_once(command: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    for source in (tmp_path / "a.npy", tmp_path):
        with pytest.raises(InputError, match=r"a\.npy: expected a file, got a pipe"):
            run(*command, source)


def test_a_file_that_changes_while_it_is_converted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_mult(tmp_path / "mosi_data.pkl", sequences((1, 1)))

    def read_and_change(path: Path, file: BinaryIO) -> object:
        data = assembly.read_pickle(path, file)
        path.write_bytes(b"other")
        return data

    monkeypatch.setattr(formats, "read_pickle", read_and_change)
    with pytest.raises(InputError, match=r"mosi_data\.pkl: changed while it was read"):
        convert(source, "mosi")
    assert not (tmp_path / "mosi.pkl").exists()


# Verification.


def test_verify_knows_the_official_file_and_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    content = pickle.dumps(tiny_arrays("mosi"))
    sha256 = hashlib.sha256(content).hexdigest()
    official = CORPORA["mosi"]._replace(file_size=len(content), sha256=sha256)
    monkeypatch.setitem(CORPORA, "mosi", official)
    (tmp_path / "mosi.pkl").write_bytes(content)
    run("verify", tmp_path)
    assert "the official file" in capsys.readouterr().out
    (tmp_path / "mosi.pkl").write_bytes(content[:-2] + b"x.")
    with pytest.raises(SystemExit) as ended:
        run("verify", tmp_path)
    assert ended.value.code == 1
    assert "WRONG" in capsys.readouterr().out


def test_verify_tries_other_files(tmp_path: Path, capsys: Capsys) -> None:
    pickled(tmp_path, "mosi", tiny_arrays("mosi"))
    write_mult(tmp_path / "iemocap_data.pkl", sequences((4, 2)))
    run("verify", tmp_path)
    out = capsys.readouterr().out
    assert "train_mosi.py can use it: 23 / 9 / 11 examples, 6 / 5 / 7 features" in out
    assert "MulT / MultiBench pickle" in out
    (tmp_path / "pom.pkl").write_bytes(b"no pickle")
    os.mkfifo(tmp_path / "iemocap.pkl")
    with pytest.raises(SystemExit):
        run("verify", tmp_path)
    out = capsys.readouterr().out
    assert "pom.pkl: expected a whole pickle" in out
    assert "iemocap.pkl: expected a file, got a pipe" in out


def test_verify_of_an_empty_folder_says_how_to_get_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prepare\.py synthetic"):
        run("verify", tmp_path)


# A new data set.


def test_a_new_data_set_takes_a_row_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    new = small("mosi", (30, 9, 9))._replace(name="mosei", title="CMU-MOSEI", steps=6)
    monkeypatch.setitem(CORPORA, "mosei", new)
    source = write_mult(tmp_path / "mosei_senti_data.pkl", sequences((1, 1)))
    (report,) = reports(capsys, source)
    assert report["advice"].endswith("--to mosei")
    convert(source, "mosei")
    assert load_corpus(tmp_path, "mosei").input_dims == (5, 4, 7)
    with pytest.raises(InputError, match=r"prepare\.py synthetic mosei"):
        load_corpus(tmp_path / "none", "mosei")


# Synthetic data.


@pytest.mark.slow
@pytest.mark.parametrize("corpus", CORPORA.values(), ids=list(CORPORA))
def test_synthetic_data_have_the_official_sizes_and_nothing_odd(
    corpus: Corpus, tmp_path: Path
) -> None:
    run("synthetic", corpus.name, "--output_path", tmp_path)
    emotion = corpus.emotions[0] if corpus.emotions else None
    loaded = load_corpus(tmp_path, corpus.name, emotion=emotion)
    assert tuple(map(len, loaded.splits)) == corpus.examples
    assert loaded.synthetic
    assert loaded.input_dims == corpus.dims
    assert loaded.train.label.shape[1] == corpus.label_columns
    assert ["NaN" in note for note in loaded.notes] == [True]  # of audio; nothing else is odd


def test_synthetic_labels_are_a_product_that_no_linear_model_finds() -> None:
    data = synthetic(small("mosi", (800, 100, 800), (20, 20, 300)), 0)
    x, y = {}, {}
    for split, parts in data.items():
        words = parts[b"glove"].sum(axis=1) / parts[b"glove"].any(axis=2).sum(axis=1)[:, None]
        features = [np.nan_to_num(parts[b"covarep"]), parts[b"facet"], words[:, :20]]
        x[split], y[split] = features, parts[b"label"][:, 0]
    weights = np.linalg.lstsq(np.hstack(x[b"train"]), y[b"train"], rcond=None)[0]
    assert abs(np.corrcoef(np.hstack(x[b"test"]) @ weights, y[b"test"])[0, 1]) < 0.2
    # Each modality's first direction is its latent; their product is the label.
    latents = [np.linalg.svd(part, full_matrices=False)[0][:, 0] for part in x[b"test"]]
    assert abs(np.corrcoef(np.prod(latents, axis=0), y[b"test"])[0, 1]) > 0.9


def test_the_same_seed_gives_the_same_data() -> None:
    corpus = small("iemocap", (12, 4, 4))
    once, again, other = (pickle.dumps(synthetic(corpus, seed)) for seed in (3, 3, 4))
    assert once == again != other


def test_synthetic_files_load_and_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CORPORA:
        monkeypatch.setitem(CORPORA, name, small(name, (12, 4, 4)))
    run("synthetic", "--output_path", tmp_path)
    for loader in (load_mosi, load_pom, partial(load_iemocap, emotion="sad")):
        assert [len(split) for split in loader(tmp_path)[:3]] == [12, 4, 4]
    before = (tmp_path / "pom.pkl").read_bytes()
    (tmp_path / "mosi.pkl").unlink()
    with pytest.raises(InputError, match="--force replaces it"):
        run("synthetic", "mosi", "pom", "--seed", "1", "--output_path", tmp_path)
    assert not (tmp_path / "mosi.pkl").exists()
    run("synthetic", "pom", "--seed", "1", "--force", "--output_path", tmp_path)
    assert (tmp_path / "pom.pkl").read_bytes() != before
