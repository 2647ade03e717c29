"""pickles.py and the other readers: nothing runs, nothing hangs, memory stays bounded."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fuzz_readers import run_cases

from data import hdf5
from data.formats import read
from data.pickle_parts import Reader
from data.pickles import PickleError, UnsafePickle, load_pickle
from utils import InputError, load_mosi


def loaded(content: bytes, tmp_path: Path) -> object:
    (tmp_path / "some.pkl").write_bytes(content)
    with (tmp_path / "some.pkl").open("rb") as file:
        return load_pickle(file)


def assert_same(got: object, expected: object) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, dict):
        assert isinstance(got, dict)
        assert list(got) == list(expected)
        for key, value in expected.items():
            assert_same(got[key], value)
    else:
        assert got == expected


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_is_cut_while_it_is_read_crashes_nothing(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, number = tmp_path / "cut.pkl", Reader.number
    path.write_bytes(pickle.dumps([f"{i:030}" for i in range(100_000)], protocol))

    def cut(reader: Reader, form: str) -> int:
        os.truncate(path, 1000)
        return number(reader, form)

    monkeypatch.setattr(Reader, "number", cut)
    with path.open("rb") as file, pytest.raises(PickleError, match="it ends too early"):
        load_pickle(file)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_what_python_gives(protocol: int, tmp_path: Path) -> None:
    data = {
        "float": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "half": np.ones((2, 2), np.float16),
        "bool": np.array([True, False]),
        "text": np.array(["ab", "c"]),
        "bytes": np.array([b"x", b"yz"]),
        "objects": np.array([["v", b"w"], [1, None]], dtype=object),
        "nothing": np.zeros((0, 3)),
        "long": np.arange(20_000.0),
        "scalar": np.float32(2),
        "plain": [1, -1, 300, 70_000, 2**40, 2.5, True, None, "é", b"\xff", (), (1,), (1, 2, 3, 4)],
        1: {b"key": "v" * 300},
    }
    assert_same(loaded(pickle.dumps(data, protocol), tmp_path), data)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [OrderedDict, partial(defaultdict, dict), partial(defaultdict)])
def test_kinds_of_dicts_are_dicts(kind: Callable[..., dict], protocol: int, tmp_path: Path) -> None:
    data = kind(train=kind(audio=np.ones(2)), valid=kind())
    assert_same(
        loaded(pickle.dumps(data, protocol), tmp_path),
        {"train": {"audio": np.ones(2)}, "valid": {}},
    )


def test_an_ordered_dict_of_python_2_is_a_dict(tmp_path: Path) -> None:
    content = b"ccollections\nOrderedDict\n((l(lS'a'\naI1\naa(lS'b'\naI2\naatR."
    assert loaded(content, tmp_path) == {b"a": 1, b"b": 2}


def test_an_array_that_is_named_twice_is_one_array(tmp_path: Path) -> None:
    array = np.ones(3)
    got = loaded(pickle.dumps([array, array]), tmp_path)
    assert isinstance(got, list)
    assert got[0] is got[1]


class Call:
    """Its pickle calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_by_name_and_never_run_in_every_reader(
    protocol: int, tmp_path: Path
) -> None:
    mark = tmp_path / "harm"
    path = tmp_path / "mosi.pkl"
    content = pickle.dumps({"train": Call(os.mkdir, str(mark))}, protocol)
    path.write_bytes(content)
    for reader in (read, lambda path: load_mosi(path.parent)):
        with pytest.raises(InputError, match=r"it names (posix|nt)\.mkdir, but only numpy arrays"):
            reader(path)
    np.savez(tmp_path / "a.npz", train_audio=np.array([Call(os.mkdir, str(mark))]))
    with pytest.raises(InputError, match="but train_audio is an array of object"):
        read(tmp_path / "a.npz")
    assert not mark.exists()
    pickle.loads(content)  # the proof that reading it carelessly would
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("pandas.core.frame DataFrame", "torch._utils _rebuild_tensor_v2", "torch load"),
        *("numpy load", "pathlib Path", "builtins eval", "__builtin__ exec", "_codecs decode"),
    ],
)
def test_nothing_but_numpy_arrays_may_be_named(name: str, tmp_path: Path) -> None:
    module, attribute = name.split()
    with pytest.raises(UnsafePickle, match=f"it names {module}.{attribute}, but only numpy"):
        loaded(f"c{module}\n{attribute}\n.".encode(), tmp_path)
    with pytest.raises(UnsafePickle, match=f"it names {module}.{attribute}, but only numpy"):
        loaded(pickle.dumps(module)[:-1] + pickle.dumps(attribute)[:-1] + b"\x93.", tmp_path)


TEXT = b"X" + (10_000).to_bytes(4, "little") + b"x" * 10_000
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
DTYPE = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + b")" + b"2\x86" * 60 + b"Ns.", "neither text nor"),
        (b"}" + b")" + b"\x85" * 10**6 + b"Ns.", "neither text nor"),
        (b"]r\xff\xff\xff\xff0" * 2 + b"N.", None),
        (b"c_codecs\nencode\nq\0" + TEXT + b"q\1" + b"h\0h\1\x8c\6latin1\x86R" * 10**4, "memory"),
        (b"\x8e" + (2**62).to_bytes(8, "little") + b".", "wrong size"),
        (b"\x95" + b"\xff" * 8 + b"N.", None),
        (b"N0" * 2_000_000 + b"N.", "steps"),
        (b"L" + b"9" * 10**6 + b"L\n.", "too long"),
        (ARRAY + b"(I1\n(I1000000000\nt" + DTYPE % b"O8" + b"I00\n(ltb.", "don't fit"),
        (ARRAY + b"(I1\n(I9\nt" + DTYPE % b"f8" + b"I00\nS'short'\ntb.", "don't fit"),
        (ARRAY + b"(I1\n(I1\nt" + DTYPE % b"V8" + b"I00\nS'12345678'\ntb.", "dtype 'V8'"),
        (b"cnumpy\ndtype\n}S'__call__'\nNsb.", "sets the state"),
        (b"cnumpy\nndarray\n(I1000000000000\ntR.", "it calls numpy.ndarray"),
        (b"S'\\xg1'\n.", "escape"),
        (b"ccollections\nOrderedDict\n(I1\ntR.", "TypeError"),
        (b"cbuiltins\ndict\n)R.", "it calls builtins.dict"),
        (b"", "empty"),
        (b"(lp0", "too early"),
    ],
)
def test_bombs_are_defused(content: bytes, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert loaded(content, tmp_path) is None
    else:
        with pytest.raises(PickleError, match=message):
            loaded(content, tmp_path)


@pytest.mark.parametrize("claim", [10**7, 10**15])
def test_an_array_that_claims_to_be_larger_than_its_file_is_refused(
    claim: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        shape = {"descr": "<f8", "fortran_order": False, "shape": (claim,)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.write(bytes(800))
    with pytest.raises(InputError, match="expected whole numpy arrays"):
        read(path)


def test_links_to_other_files_are_left_alone(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.ones(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = np.zeros(2)
        file["other"] = h5py.ExternalLink("secret.h5", "data")
        file["again"] = h5py.SoftLink("/own")
    assert list(read(tmp_path / "a.h5").values) == ["own"]


def test_groups_with_many_names_are_gone_through_once(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        groups = [file.create_group(f"g{i}") for i in range(30)]  # 30 ** 6 ways to go
        groups[0]["data"] = np.ones(2)
        groups[0]["same"] = groups[0]["data"]
        for group in groups:
            group["up"] = file
            for i, other in enumerate(groups):
                group[f"g{i}"] = other
    with (tmp_path / "a.h5").open("rb") as file:
        assert [name for name, _ in hdf5.arrays(file)] == ["g0/data", "g0/same"]


def test_groups_too_deep_in_each_other_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b/c/d/e/f/g/h"] = np.ones(2)
    with pytest.raises(InputError, match="expected arrays in a few nested groups"):
        read(tmp_path / "a.h5")


def test_damaged_hdf5_is_refused_in_one_line(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.ones(3)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="expected a whole HDF5 file"):
        read(path)


@pytest.mark.parametrize(
    ("reader", "count"), [("pickle", 150), ("npz", 150), ("npy", 150), ("pt", 150), ("h5", 15)]
)
def test_damaged_files_are_read_or_refused(reader: str, count: int, tmp_path: Path) -> None:
    if reader == "h5":  # in a process of its own, each
        pytest.importorskip("h5py")
    outcomes, longest = run_cases(reader, range(count), tmp_path)
    assert outcomes.total() == count
    assert outcomes["refused"] > count / 3
    assert longest < 10
