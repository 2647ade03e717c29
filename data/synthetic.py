"""Synthetic data sets of the official layout and sizes, whose labels only fusion can predict.

One latent number per modality is spread over that modality's features. The label follows the
product of the three: a planted three-way interaction. Audio's and video's latents are of either
sign, so that none of the inputs says anything about the label by itself, and a linear model of all
of them stays near chance. The text's latent is of either sign, too, but in POM, whose 600 examples
are few to find that in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from utils import EMOTIONS, SPLITS

FRAMES, WORD_WIDTH = 20, 300
SHORTEST = 4  # words; lengths are uniform up to FRAMES, so 40 % of the frames are padding
FEATURE_NOISE = 0.5  # standard deviation, beside latents of standard deviation 1
LABEL_NOISE = 0.2  # likewise, beside the product of the latents
NAN_SHARE = 0.001  # of the audio values, as in real COVAREP features
TRAIT_SCALE = 2.0  # of the product in POM's traits, from 1 to 7
PRESENT_SHARE = 1 / 3  # of the examples, for each emotion


class Corpus(NamedTuple):
    """Sizes of one data set.

    Attributes:
        sizes: Examples in train, valid and test.
        audio: Audio features.
        video: Video features.
        in_front: Whether the text is padded in front, not at the end.
        signed_text: Whether the text's latent is of either sign, too.
        interactions: How many independent triples of latents it holds.
    """

    sizes: tuple[int, int, int]
    audio: int
    video: int
    in_front: bool
    signed_text: bool = True
    interactions: int = 1


CORPORA = {
    "mosi": Corpus((1284, 229, 686), 74, 47, True),
    "iemocap": Corpus((2717, 798, 938), 74, 35, False, interactions=2),
    "pom": Corpus((600, 100, 203), 43, 41, True, signed_text=False),
}
TRAITS = 16
PRESENT = ((0, 1), (0, -1), (1, 1), (1, -1))  # each emotion's interaction, and which end of it

Arrays = dict[bytes, np.ndarray]


def synthetic(name: str, seed: int, corpus: Corpus | None = None) -> dict[bytes, dict]:
    """Returns a data set as the official pickle holds it, with keys as byte strings.

    Args:
        name: mosi, iemocap or pom.
        seed: The same seed gives the same data.
        corpus: Other sizes than the official ones.

    Shape:
        covarep (N, audio), facet (N, video), glove (N, 20, 300), label (N, 1), (N, 16) or for
        each emotion (N, 2), all float64.
    """
    corpus = corpus or CORPORA[name]
    rng = np.random.default_rng([seed, *name.encode()])
    shape = (sum(corpus.sizes), corpus.interactions)
    audio_latent, video_latent, text_latent = (_signed(rng, shape) for _ in range(3))
    if not corpus.signed_text:
        text_latent = rng.uniform(0.25, 1.75, shape)
    features = {
        b"covarep": _spread(rng, audio_latent, corpus.audio),
        b"facet": _spread(rng, video_latent, corpus.video),
        b"glove": _words(rng, text_latent, corpus.in_front),
    }
    audio = features[b"covarep"]
    audio[rng.random(audio.shape) < NAN_SHARE] = np.nan
    product = audio_latent * video_latent * text_latent
    product += LABEL_NOISE * rng.standard_normal(product.shape)
    shared = _by_split(features, corpus.sizes)
    if name != "iemocap":
        label = _sentiment(product) if name == "mosi" else _traits(rng, product)
        return _with_label(shared, label, corpus.sizes)
    return {
        emotion.encode(): _with_label(shared, _one_hot(sign * product[:, column]), corpus.sizes)
        for emotion, (column, sign) in zip(EMOTIONS, PRESENT, strict=True)
    }


def _signed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Numbers of either sign and of size 0.5 to 1.5."""
    return rng.choice((-1.0, 1.0), shape) * rng.uniform(0.5, 1.5, shape)


def _spread(rng: np.random.Generator, latents: np.ndarray, width: int) -> np.ndarray:
    """Latents (N, K) over features (N, width): every K-th feature follows the same latent."""
    owner = np.arange(width) % latents.shape[1]
    signs = rng.choice((-1.0, 1.0), width)
    noise = rng.standard_normal((len(latents), width))
    return latents[:, owner] * signs + FEATURE_NOISE * noise


def _words(rng: np.random.Generator, latents: np.ndarray, in_front: bool) -> np.ndarray:
    """Latents (N, K) over word vectors (N, 20, 300), alike in every word, padded with zeros."""
    lengths = rng.integers(SHORTEST, FRAMES, size=len(latents), endpoint=True)
    steps = np.arange(FRAMES)[::-1] if in_front else np.arange(FRAMES)
    text = FEATURE_NOISE * rng.standard_normal((len(latents), FRAMES, WORD_WIDTH))
    text += _spread(rng, latents, WORD_WIDTH)[:, None]
    text *= 0.3  # about as large as real word vectors
    text[steps >= lengths[:, None]] = 0
    return text


def _sentiment(product: np.ndarray) -> np.ndarray:
    """Labels (N, 1) from -3 to 3 in steps of 0.2, as five annotators' means are."""
    return np.clip(np.round(product * 5) / 5, -3, 3)


def _traits(rng: np.random.Generator, product: np.ndarray) -> np.ndarray:
    """Labels (N, 16) from 1 to 7; the traits follow one product in either direction."""
    loadings = TRAIT_SCALE * rng.choice((-1.0, 1.0), TRAITS) * rng.uniform(0.8, 1.2, TRAITS)
    noise = LABEL_NOISE * rng.standard_normal((len(product), TRAITS))
    return np.clip(4 + product * loadings + noise, 1, 7)


def _one_hot(product: np.ndarray) -> np.ndarray:
    """Labels (N, 2), [1, 0] where the emotion is present."""
    present = product > np.quantile(product, 1 - PRESENT_SHARE)
    return np.stack([present, ~present], axis=1).astype(np.float64)


def _by_split(arrays: Arrays, sizes: tuple[int, int, int]) -> dict[bytes, Arrays]:
    ends = np.cumsum(sizes)
    return {
        split.encode(): {name: array[end - size : end] for name, array in arrays.items()}
        for split, size, end in zip(SPLITS, sizes, ends, strict=True)
    }


def _with_label(
    shared: dict[bytes, Arrays], label: np.ndarray, sizes: tuple[int, int, int]
) -> dict[bytes, dict]:
    labels = _by_split({b"label": label}, sizes)
    return {split: {**arrays, **labels[split]} for split, arrays in shared.items()}
