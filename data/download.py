"""Downloads the official pickles: resumable, checked, and never half a file under a final name."""

from __future__ import annotations

import http.client
import os
from importlib import import_module
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from data.official import FOLDER, Official
from utils import InputError, checksum

DRIVE_FILE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
BLOCK = 2**20  # bytes
TIMEOUT = 60  # seconds without an answer


class DeadLinkError(InputError):
    """The address gives no file."""


def official_address(name: str) -> str:
    """Returns where name.pkl lies in the official Google Drive folder.

    Raises:
        DeadLinkError: The folder can't be listed, or has no such file.
        InputError: gdown, which lists it, isn't installed.
    """
    try:
        gdown = import_module("gdown")
    except ImportError:
        raise InputError(
            "the official folder is listed with gdown, which is not installed: "
            "pip install gdown==6.5.1"
        ) from None
    try:
        files = gdown.download_folder(url=FOLDER, quiet=True, skip_download=True) or []
    except Exception as error:  # it raises whatever its parts raise
        raise DeadLinkError(f"{FOLDER} can't be listed ({type(error).__name__})") from None
    for file in files:
        if Path(file.path).name == f"{name}.pkl":
            return DRIVE_FILE.format(id=file.id)
    raise DeadLinkError(f"{FOLDER} holds no {name}.pkl")


def download(url: str, target: Path, official: Official) -> None:
    """Downloads a file, continuing an earlier attempt, and gives it its name if it is right.

    Raises:
        DeadLinkError: The address doesn't answer, or gives a page in place of the file.
        InputError: The file came incomplete (the next attempt continues it) or is another one.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, official.size)
        _check(part, url, official)
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"{target}: can't be written: {error.strerror or error}") from None


def _fetch(url: str, part: Path, size: int) -> None:
    """Appends to the part what it lacks; starts again if the server can't continue."""
    done = part.stat().st_size if part.exists() else 0
    if done == size:
        return
    done = done if done < size else 0
    with _open(url, done) as answer:
        if answer.status != 206:
            done = 0
        with (
            part.open("ab" if done else "wb") as file,
            tqdm(total=size, initial=done, unit="B", unit_scale=True, desc=part.name) as bar,
        ):
            while done <= size and (block := _next_block(answer)):
                file.write(block)
                done += len(block)
                bar.update(len(block))


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise DeadLinkError(f"{url} doesn't answer ({error})") from None
    span = answer.headers.get("Content-Range", "")
    if answer.status == 206 and not span.startswith(f"bytes {start}-"):
        wrong = f"another part of the file than asked for ({span})"
    elif answer.headers.get_content_type() == "text/html":
        wrong = "a web page, not the file"
    else:
        return answer
    answer.close()
    raise DeadLinkError(f"{url} gives {wrong}")


def _next_block(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return b""  # broken off: the size tells


def _check(part: Path, url: str, official: Official) -> None:
    size = part.stat().st_size
    if size < official.size:
        raise InputError(
            f"{url}: expected {official.size:,} bytes, got {size:,}; "
            "the same command continues from there"
        )
    if size > official.size or checksum(part) != official.sha256:
        part.unlink()
        raise InputError(
            f"{url}: expected {official.size:,} bytes of SHA-256 {official.sha256[:12]}..., "
            f"got another file of {size:,}{' or more' if size > official.size else ''}; "
            "nothing was kept"
        )
