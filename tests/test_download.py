"""data/prepare.py verify and download: against checksums, and a server on this machine."""

from __future__ import annotations

import hashlib
import pickle
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import pickled, tiny_arrays

from data import download as downloads
from data import prepare
from data.official import OFFICIAL, Official
from utils import InputError

CONTENT = bytes(range(256)) * 5000


def run(*words: object) -> None:
    prepare.main([str(word) for word in words])


# Verification.


def officially(monkeypatch: pytest.MonkeyPatch, content: bytes) -> Official:
    """Makes this content mosi.pkl's official one."""
    official = OFFICIAL["mosi"]._replace(
        size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(OFFICIAL, "mosi", official)
    return official


def test_verify_knows_the_official_file_and_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = pickle.dumps(tiny_arrays("mosi"))
    officially(monkeypatch, content)
    (tmp_path / "mosi.pkl").write_bytes(content)
    run("verify", tmp_path)
    assert "the official file" in capsys.readouterr().out
    (tmp_path / "mosi.pkl").write_bytes(content[:-2] + b"x.")
    with pytest.raises(SystemExit) as ended:
        run("verify", tmp_path)
    assert ended.value.code == 1
    assert "WRONG" in capsys.readouterr().out


def test_verify_tries_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled(tmp_path, "mosi", tiny_arrays("mosi"))
    parts = {name: np.ones((3, 2, 2)) for name in ("audio", "vision", "text")}
    parts["labels"] = np.ones((3, 4, 2))
    mult = {split: parts for split in ("train", "valid", "test")}
    (tmp_path / "iemocap_data.pkl").write_bytes(pickle.dumps(mult))
    run("verify", tmp_path)
    out = capsys.readouterr().out
    assert "train_mosi.py can use it: 23 / 9 / 11 examples, 6 / 5 / 7 features" in out
    assert "MulT / MultiBench pickle" in out
    (tmp_path / "pom.pkl").write_bytes(b"no pickle")
    with pytest.raises(SystemExit):
        run("verify", tmp_path)
    assert "pom.pkl: expected a whole pickle" in capsys.readouterr().out


def test_verify_of_an_empty_folder_says_how_to_get_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prepare\.py synthetic"):
        run("verify", tmp_path)


# Download.


class Server(ThreadingHTTPServer):
    """Serves CONTENT as mosi.pkl on this machine; what goes wrong is set by attributes."""

    daemon_threads = False  # so that closing it waits for them
    content = CONTENT
    breaks_after: int | None = None  # bytes, and then the connection ends
    content_type = "application/octet-stream"
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # Range headers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path != "/mosi.pkl":
            self.send_error(404)
            return
        start = int(asked[len("bytes=") : -1]) if asked and server.ranges else 0
        body, size = server.content[start:], len(server.content)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    officially(monkeypatch, CONTENT)
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, *words: str) -> None:
    run("download", "mosi", "--url", server.url, "-o", folder, *words)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_gives_the_checked_file_its_name(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    assert (tmp_path / "mosi.pkl").read_bytes() == CONTENT
    assert names(tmp_path) == ["mosi.pkl"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(ranges: bool, server: Server, tmp_path: Path) -> None:
    server.breaks_after = 500_000
    with pytest.raises(InputError, match=r"got 500,000; the same command continues"):
        fetch(server, tmp_path)
    assert names(tmp_path) == [".mosi.pkl.part"]
    server.breaks_after, server.ranges = None, ranges
    fetch(server, tmp_path)
    assert server.asked == [None, "bytes=500000-"]
    assert (tmp_path / "mosi.pkl").read_bytes() == CONTENT
    assert names(tmp_path) == ["mosi.pkl"]


def test_a_truncated_file_never_gets_the_name(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1]
    with pytest.raises(InputError, match=r"expected 1,280,000 bytes, got 1,279,999"):
        fetch(server, tmp_path)
    assert names(tmp_path) == [".mosi.pkl.part"]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x"])
def test_another_file_is_refused_and_not_kept(
    content: bytes, server: Server, tmp_path: Path
) -> None:
    server.content = content
    with pytest.raises(InputError, match="got another file"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_a_web_page_is_refused_and_says_what_to_do_instead(server: Server, tmp_path: Path) -> None:
    server.content_type, server.content = "text/html", b"<html>quota exceeded</html>"
    with pytest.raises(InputError, match="gives a web page, not the file") as caught:
        fetch(server, tmp_path)
    assert OFFICIAL["mosi"].request in str(caught.value)
    assert "convert another copy" in str(caught.value)
    assert names(tmp_path) == []


def test_a_dead_link_says_what_to_do_instead(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"404.*ask for the corpus at .*synthetic mosi"):
        run("download", "mosi", "--url", f"{server.url}/gone", "-o", tmp_path)
    assert names(tmp_path) == []


def test_download_replaces_a_file_only_if_told_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mosi.pkl").write_bytes(b"mine")
    with pytest.raises(InputError, match="--force replaces it"):
        fetch(server, tmp_path)
    assert (tmp_path / "mosi.pkl").read_bytes() == b"mine"
    fetch(server, tmp_path, "--force")
    assert (tmp_path / "mosi.pkl").read_bytes() == CONTENT


def test_the_official_folder_is_listed_with_gdown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [SimpleNamespace(path="x/pom.pkl", id="p"), SimpleNamespace(path="mosi.pkl", id="m")]
    fake = SimpleNamespace(download_folder=lambda **_: listed)
    monkeypatch.setitem(sys.modules, "gdown", fake)
    assert "id=m&" in downloads.official_address("mosi")
    monkeypatch.setattr(downloads, "DRIVE_FILE", f"{server.url}/mosi.pkl?{{id}}".split("?")[0])
    run("download", "mosi", "-o", tmp_path)
    assert (tmp_path / "mosi.pkl").read_bytes() == CONTENT


def test_a_dead_official_folder_says_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no such folder")

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download_folder=fail))
    with pytest.raises(InputError, match=r"can't be listed.*ask for the corpus at"):
        run("download", "pom", "-o", tmp_path)


def test_without_gdown_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(InputError, match=r"pip install gdown=="):
        run("download", "mosi", "-o", tmp_path)
