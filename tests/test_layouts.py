"""Every layout in which a data set may come, and every kind of file that is none."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Capsys, tiny_arrays
from foreign_files import (
    SIZES,
    Splits,
    dumped,
    examples,
    layouts,
    nested,
    renamed,
    tokens,
    wrong_kinds,
)

import train_iemocap
from data import prepare
from data.corpora import SPLITS
from model import LMF
from utils import InputError, load, load_corpus, load_iemocap, load_mosi

WIDTHS = {"audio": 5, "video": 4, "text": 7}
STEPS = 6


def data_set() -> Splits:
    """Returns sequences that are padded at the end, and labels from -3 to 3."""
    rng = np.random.default_rng(0)
    splits: Splits = {}
    for split, count in SIZES.items():
        words = np.arange(STEPS) < rng.integers(2, STEPS + 1, (count, 1))
        splits[split] = {
            role: np.where(words[..., None], rng.normal(size=(count, STEPS, width)), 0)
            for role, width in WIDTHS.items()
        }
        splits[split]["label"] = rng.uniform(-3, 3, (count, 1))
    return splits


def run(*words: object) -> None:
    prepare.main([str(word) for word in words])


def convert(source: Path, name: str, *flags: str) -> Path:
    """Converts a file to a data set, and returns its folder."""
    folder = source.parent / "out"
    run("convert", source, "--to", name, "-o", folder, *flags)
    return folder


@pytest.mark.parametrize("name", list(layouts(data_set())))
def test_layout_is_converted_as_inspect_advises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    source, splits = tmp_path / "my data" / name, data_set()
    layouts(splits)[name](source)
    run("inspect", source)
    command = capsys.readouterr().out.strip().splitlines()[-1].partition("it is: ")[2]
    assert command.startswith("python data/prepare.py convert '")
    prepare.main(shlex.split(command)[2:])
    assert capsys.readouterr().out.endswith("python train_mosi.py --data_path data\n")
    *loaded, dims = load_mosi("data")
    assert dims == tuple(WIDTHS.values())
    own_steps = name in ("ragged.pkl", "objects.pkl")
    for got, parts in zip(loaded, splits.values(), strict=True):
        steps = parts["text"].any(axis=2).sum(axis=1) if own_steps else STEPS
        means = parts["audio"].sum(axis=1) / np.reshape(steps, (-1, 1))
        np.testing.assert_allclose(got.audio, means, rtol=1e-5)
        np.testing.assert_allclose(got.label, parts["label"], rtol=1e-6)
        words = [text[text.any(axis=1)] for text in parts["text"].astype(np.float32)]
        for text, expected in zip(got.text.numpy(), words, strict=True):
            np.testing.assert_array_equal(text[text.any(axis=1)], expected)


def test_advice_names_another_folder_where_the_data_set_lies_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts(data_set())["dev.pkl"](tmp_path / "dev.pkl")
    for folder in ("", " -o converted", " --force"):
        run("inspect", "dev.pkl")
        command = capsys.readouterr().out.strip().splitlines()[-1].partition("it is: ")[2]
        assert command == f"python data/prepare.py convert dev.pkl --to mosi{folder}"
        prepare.main(shlex.split(command)[2:])


@pytest.mark.parametrize("beside_numbers", [False, True])
def test_words_get_their_vectors_from_an_embedding(
    beside_numbers: bool, tmp_path: Path, capsys: Capsys
) -> None:
    splits, source = data_set(), tmp_path / "mosi.pkl"
    ids = np.arange(STEPS)
    text = (lambda words: (ids, tokens(words))) if beside_numbers else (lambda w: (tokens(w),))
    dumped(examples(splits, text))(source)
    (tmp_path / "glove.txt").write_text("good 1 2\n\nfilm 3 4\nBad 9 9\n. . 5 6\nso 7 8 9\n")
    run("inspect", source)
    assert "got words; give their vectors, as convert's --embedding" in capsys.readouterr().out
    with pytest.raises(InputError, match="got words; give their vectors"):
        convert(source, "mosi")
    loaded = load_corpus(
        convert(source, "mosi", "--embedding", str(tmp_path / "glove.txt")), "mosi"
    )
    expected = [[1, 2], [0, 0], [0, 0], [3, 4], [1, 2], [0, 0]]
    np.testing.assert_array_equal(loaded.train.text[0], expected)
    assert loaded.ids["valid"] == [f"valid[{i}]" for i in range(SIZES["valid"])]
    assert "4 words got vectors" in capsys.readouterr().out
    (tmp_path / "none.txt").write_text("other 1 2\n")
    with pytest.raises(InputError, match=r"none\.txt: expected a word and its vector a line"):
        convert(source, "mosi", "--force", "--embedding", str(tmp_path / "none.txt"))


@pytest.mark.parametrize(("columns", "happy"), [(9, 6), (11, 7)])
def test_emotions_of_the_sdk_columns_become_four_data_sets(
    columns: int, happy: int, tmp_path: Path
) -> None:
    splits = data_set()
    for parts in splits.values():
        parts["y"] = np.eye(columns)[np.arange(len(parts.pop("label"))) % columns]
        parts["y"][0, happy] = 1
    named = {f"{role}_{split}": a for split, parts in splits.items() for role, a in parts.items()}
    np.savez(tmp_path / "iemocap.npz", allow_pickle=False, **named)
    folder = convert(tmp_path / "iemocap.npz", "iemocap")
    label = load_iemocap(folder, "happy")[0].label
    np.testing.assert_array_equal(label[:, 0], splits["train"]["y"][:, happy])
    np.testing.assert_array_equal(label.sum(dim=1), 1)
    neutral = load_iemocap(folder, "neutral")[0].label
    np.testing.assert_array_equal(neutral[:, 0], splits["train"]["y"][:, happy + 1])


def test_ids_are_kept_by_convert(tmp_path: Path) -> None:
    splits = data_set()
    arrays = {f"{s}_{role}": a for s, parts in splits.items() for role, a in parts.items()}
    ids = {split: [f"v{i}" for i in range(SIZES[split])] for split in SPLITS}
    named = {f"{split}_id": np.array(names) for split, names in ids.items()}
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays, **named)
    assert load_corpus(convert(tmp_path / "a.npz", "mosi"), "mosi").ids == ids


def test_an_unknown_layout_is_told_the_nearest_and_what_is_missing(
    tmp_path: Path, capsys: Capsys
) -> None:
    data = tiny_arrays("mosi")
    mult = {
        s: {"audio": p["covarep"], "vision": p["facet"], "labels": p["label"]}
        for s, p in data.items()
    }
    files = {
        "mult.pkl": (
            mult,
            "MulT / MultiBench pickle.* missing: train/text, valid/text, test/text$",
        ),
        "two.pkl": ({s: p for s, p in data.items() if s != "valid"}, "missing: valid/covarep"),
        "none.pkl": ({"x": np.ones(3)}, "got x; save them so"),
        "model.pkl": ({"rnn.weight": np.ones(3)}, "got a trained model's weights"),
    }
    for name, (content, expected) in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match=expected):
            convert(tmp_path / name, "mosi")
        run("inspect", tmp_path / name)
        assert "can't be used as it is: expected" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(wrong_kinds()))
def test_another_kind_of_file_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    content, expected = wrong_kinds()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        run("inspect", tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["lfs.pkl", "page.pkl", "a.pkl", "a.zip", "empty.pkl", "text.pkl", "class.pkl"]
)
def test_loaders_call_it_the_same(name: str, tmp_path: Path) -> None:
    content, expected = wrong_kinds()[name]
    (tmp_path / "mosi.pkl").write_bytes(content)
    with pytest.raises(
        InputError, match=expected.replace(name, "mosi.pkl").replace(r"a\.pkl", "mosi.pkl")
    ):
        load_mosi(tmp_path)


@pytest.mark.parametrize("kind", ["a.npz", "a.pt"])
def test_loaders_say_how_to_look_into_data_of_another_format(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=False, a=np.ones(2))
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / kind).rename(tmp_path / "mosi.pkl")
    with pytest.raises(InputError, match=r"look into it: python data/prepare.py inspect .*pkl"):
        load_mosi(tmp_path)


def test_a_model_in_the_place_of_data_is_called_one(tmp_path: Path) -> None:
    model = LMF((5, 4, 7), (2, 2, 2), 2, (0, 0, 0, 0), 1, 2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="got a trained model's weights"):
        convert(tmp_path / "model.pt", "mosi")


def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"train_audio": torch.ones(1).expand(10**12)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="a tensor claims more than the file holds"):
        convert(tmp_path / "a.pt", "mosi")


@pytest.mark.parametrize("short", [1, 100_000])
def test_lists_that_would_take_far_more_memory_than_their_file_are_refused(
    short: int, tmp_path: Path
) -> None:
    data: dict[str, dict[str, object]] = nested(renamed(data_set(), {}))
    shared = np.ones((short, 7))
    data["train"]["text"] = [np.ones((100_000, 7)), *[shared] * 8]
    data["valid"]["text"] = [shared] * 900
    dumped(data)(tmp_path / "a.pkl")
    with pytest.raises(InputError, match=r"a\.pkl: expected sequences of similar lengths"):
        convert(tmp_path / "a.pkl", "mosi")


@pytest.mark.parametrize("shape", [(), (9,), (9, 1), (9, 2), (9, 3), (9, 4, 2), (9, 0), (8, 2)])
@pytest.mark.parametrize("dtype", [float, "U3", object])
def test_inspect_shows_labels_of_any_shape(
    shape: tuple[int, ...], dtype: type | str, tmp_path: Path, capsys: Capsys
) -> None:
    emotions = dict.fromkeys(train_iemocap.EMOTIONS, tiny_arrays("iemocap"))
    emotions["sad"]["train"]["label"] = np.ones(shape).astype(dtype)
    dumped(emotions)(tmp_path / "iemocap.pkl")
    run("inspect", tmp_path / "iemocap.pkl")
    assert "can't be used as it is: " in capsys.readouterr().out


def test_errors_of_convert_name_what_is_in_the_users_file(tmp_path: Path) -> None:
    splits, source = data_set(), tmp_path / "a.pkl"
    splits["valid"]["label"][0] = np.nan
    layouts(splits)["dev.pkl"](source)
    with pytest.raises(InputError, match=r"a\.pkl: .* in 1 of dev/labels; remove"):
        convert(source, "mosi")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("shape", [(), (1,), (6,), (3, 2), (17,)])
def test_labels_of_ones_own_are_kept_as_they_are(
    shape: tuple[int, ...], tmp_path: Path, capsys: Capsys
) -> None:
    splits, source = data_set(), tmp_path / "a.npz"
    for parts in splits.values():
        count = len(parts["label"])
        parts["label"] = np.arange(count * int(np.prod(shape))).reshape(count, *shape) % 3
    np.savez(source, allow_pickle=False, **renamed(splits, {}, "{split}_{role}"))
    run("inspect", source)
    advised = f"docs/own-data.md, after: python data/prepare.py convert {source} --to own"
    assert advised in capsys.readouterr().out
    run("convert", source, "--to", "own", "-o", tmp_path)
    out = capsys.readouterr().out
    assert f"now: python examples/train_own.py --data_path {tmp_path}" in out
    assert "official" not in out
    found, (audio, *_) = load(tmp_path / "own.pkl")[2], splits["test"].values()
    np.testing.assert_array_equal(found.label, splits["test"]["label"].reshape(len(audio), -1))
    with pytest.raises(InputError, match=r"got one that train_own\.py takes"):
        run("convert", tmp_path / "own.pkl", "--to", "own", "-o", tmp_path, "--force")


def test_emotions_of_their_own_features_are_no_data_of_ones_own(tmp_path: Path) -> None:
    dumped(dict.fromkeys(train_iemocap.EMOTIONS, tiny_arrays("iemocap")))(tmp_path / "iemocap.pkl")
    with pytest.raises(InputError, match=r"iemocap\.pkl: expected .*--to the right data set"):
        run("convert", tmp_path / "iemocap.pkl", "--to", "own", "-o", tmp_path)


def test_two_emotions_are_usable_for_these_two(tmp_path: Path, capsys: Capsys) -> None:
    data = dict.fromkeys(("sad", "neutral"), tiny_arrays("iemocap"))
    dumped(data)(tmp_path / "iemocap.pkl")
    run("inspect", tmp_path / "iemocap.pkl")
    out = capsys.readouterr().out
    assert f"can be used: python train_iemocap.py --data_path {tmp_path} --emotion sad" in out
    assert "only for --emotion sad or neutral" in out
    assert len(load_iemocap(tmp_path, "neutral")[0]) == 23
    results = {"data_path": tmp_path, "output_path": tmp_path, "model_path": tmp_path}
    with pytest.raises(
        InputError, match=r"for --emotion all, got sad, neutral alone; .*--emotion sad"
    ):
        train_iemocap.main({"emotion": "all", **results})
    assert [path.name for path in tmp_path.iterdir()] == ["iemocap.pkl"]


@pytest.mark.parametrize("role", ["audio", "text", "label"])
@pytest.mark.parametrize("shape", [(), (0,), None, (2, 3, 4, 5)])
def test_arrays_of_an_odd_shape_in_all_splits_are_refused(
    shape: tuple[int, ...] | None, role: str, tmp_path: Path, capsys: Capsys
) -> None:
    splits = data_set()
    for parts in splits.values():
        parts[role] = np.ones(len(parts["label"]) if shape is None else shape)
    source = tmp_path / "a.npz"
    np.savez(source, allow_pickle=False, **renamed(splits, {}, "{split}_{role}"))
    if (role, shape) == ("label", None):
        convert(source, "mosi")
    else:
        with pytest.raises(InputError, match=r"a\.npz: expected"):
            convert(source, "mosi")
    run("inspect", source)
    assert "can't be used as it is" in capsys.readouterr().out


def test_a_folder_of_whole_data_sets_is_told_to_name_one(data_path: Path) -> None:
    with pytest.raises(InputError, match="name a file of the folder"):
        run("convert", data_path, "--to", "mosi", "-o", data_path / "out")


def test_a_loader_names_the_file_that_is_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    layouts(data_set())["dev.pkl"](tmp_path / "a b" / "mosi_data.pkl")
    with pytest.raises(InputError, match=r"no such file; .* convert that: ") as caught:
        load_mosi(tmp_path / "a b")
    command = str(caught.value).partition("convert that: python data/prepare.py ")[2]
    prepare.main(shlex.split(command))
    assert len(load_mosi(tmp_path / "a b")[0]) == SIZES["train"]


def test_files_of_the_data_tool_run_nothing_of_a_torch_file(tmp_path: Path) -> None:
    marked = tmp_path / "harm"

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.mkdir, (marked,)

    torch.save({"train_audio": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="which could run code"):
        run("inspect", tmp_path / "a.pt")
    assert not marked.exists()
