"""What is known of the data sets, a row each: whatever else needs such a fact reads it here.

A new data set takes a row, and a train script whose experiment has its name. It can be trained
without the row (docs/own-data.md): then nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "valid", "test")
ROLES = ("audio", "video", "text", "label")
SYNTHETIC = "synthetic"  # how the ids of made-up examples begin
MODALITIES = ("covarep", "facet", "glove", "label")  # what the pickles call the roles


class Corpus(NamedTuple):
    """One data set, as its official pickle holds it.

    The checksums are those of Git LFS pointers in a public fork of the release; the authors never
    published any.

    """

    name: str  # of its pickle, its table in hyperparams.txt and its train script
    title: str
    request: str  # where the corpus can be asked for
    file_size: int  # of the official pickle, in bytes
    sha256: str
    examples: tuple[int, int, int]  # in train, valid and test
    dims: tuple[int, int, int]  # features of audio, video and text
    label_columns: int  # 0: any number
    label_range: tuple[float, float]  # the lowest and the highest that make sense
    padded_in_front: bool  # texts; else at the end
    steps: int = 20  # words of a text
    extra_column: int | None = None  # dropped from labels that have one more than they should
    extra_name: str = ""
    emotions: tuple[str, ...] = ()  # the outer keys of a pickle that has any; labels are one-hot

    @property
    def columns_in_files(self) -> tuple[int, ...]:
        """How many columns a file's labels may have."""
        columns = self.label_columns
        return (columns,) if self.extra_column is None else (columns, columns + 1)

    def without_extra(
        self, labels: Mapping[str, np.ndarray], notes: list[str]
    ) -> Mapping[str, np.ndarray]:
        """Returns labels (N, L) by split without the column that is dropped; the notes say so."""
        columns = next(iter(labels.values())).shape[1]
        if self.extra_column is None or columns <= self.label_columns:
            return labels
        notes.append(
            f"labels have {columns} columns: {self.extra_name} (index {self.extra_column}) is "
            "dropped"
        )
        return {
            split: np.delete(label, self.extra_column, axis=1) for split, label in labels.items()
        }


_ALL = (
    Corpus(
        name="mosi",
        title="CMU-MOSI",
        request="http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
        file_size=368_824_398,
        sha256="9640616a5b136bf0e3ce8696847f561fd15d252aacce92757f1c35f0cb904b69",
        examples=(1284, 229, 686),
        dims=(74, 47, 300),  # the paper's table 3 counted parameters with 46 of video
        label_columns=1,
        label_range=(-3, 3),
        padded_in_front=True,
    ),
    Corpus(
        name="iemocap",
        title="IEMOCAP",
        request="https://sail.usc.edu/iemocap/iemocap_release.htm",
        file_size=764_739_145,
        sha256="7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9",
        examples=(2717, 798, 938),
        dims=(74, 35, 300),
        label_columns=2,
        label_range=(0, 1),
        padded_in_front=False,
        emotions=("happy", "sad", "angry", "neutral"),
    ),
    Corpus(
        name="pom",
        title="POM",
        request="http://multicomp.cs.cmu.edu/resources/pom-dataset/",
        file_size=144_511_035,
        sha256="53745af979d114cc0832f83b4a0ceb787445c4bfba6a7f8f75b3ee22edbbd759",
        examples=(600, 100, 203),
        dims=(43, 41, 300),
        label_columns=16,
        label_range=(1, 7),
        padded_in_front=True,
        extra_column=14,  # in some copies; the paper doesn't have it
        extra_name="Sentiment",
    ),
)
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}
# Of data of one's own nothing is known; examples/train_own.py reads own.pkl.
UNKNOWN = Corpus("", "", "", 0, "", (0, 0, 0), (0, 0, 0), 0, (-np.inf, np.inf), False)
OWN = UNKNOWN._replace(name="own")
