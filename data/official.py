"""What is known of the official pickles: sizes, checksums, dimensions and addresses."""

from __future__ import annotations

from typing import NamedTuple

FOLDER = "https://drive.google.com/drive/folders/1CixSaw3dpHESNG0CaCJV6KutdlANP_cr"


class Official(NamedTuple):
    """One official pickle.

    The checksums are those of Git LFS pointers in a public fork of the release; the authors never
    published any.

    Attributes:
        size: In bytes.
        sha256: In hexadecimal.
        examples: In train, valid and test.
        dims: Audio, video and text features.
        request: Where the corpus itself can be asked for.
    """

    size: int
    sha256: str
    examples: tuple[int, int, int]
    dims: tuple[int, int, int]
    request: str


OFFICIAL = {
    "mosi": Official(
        368_824_398,
        "9640616a5b136bf0e3ce8696847f561fd15d252aacce92757f1c35f0cb904b69",
        (1284, 229, 686),
        (74, 47, 300),
        "http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
    ),
    "iemocap": Official(
        764_739_145,
        "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9",
        (2717, 798, 938),
        (74, 35, 300),
        "https://sail.usc.edu/iemocap/iemocap_release.htm",
    ),
    "pom": Official(
        144_511_035,
        "53745af979d114cc0832f83b4a0ceb787445c4bfba6a7f8f75b3ee22edbbd759",
        (600, 100, 203),
        (43, 41, 300),
        "http://multicomp.cs.cmu.edu/resources/pom-dataset/",
    ),
}
STEPS = 20  # words of a text
