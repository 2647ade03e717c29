"""Synthetic data sets of the official layout and sizes, whose labels only fusion can predict.

One latent number per modality is spread over that modality's features. The label follows the
product of the three: a planted three-way interaction. Audio's and video's latents are of either
sign, so that none of the inputs says anything about the label by itself, and a linear model of all
of them stays near chance. The text's latent is of either sign, too, but in POM, whose 600 examples
are few to find that in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.corpora import SPLITS, SYNTHETIC, Corpus

SHORTEST = 4  # words; lengths are uniform up to all steps, so 40 % of the frames are padding
FEATURE_NOISE = 0.5  # standard deviation, beside latents of standard deviation 1
LABEL_NOISE = 0.2  # likewise, beside the product of the latents
NAN_SHARE = 0.001  # of the audio values, as in real COVAREP features
TRAIT_SCALE = 2.0  # of the product in traits
PRESENT_SHARE = 1 / 3  # of the examples, for each emotion
FEW = 700  # training examples; so few don't show a product of three signs

Arrays = dict[bytes, np.ndarray]


def synthetic(corpus: Corpus, seed: int) -> dict[bytes, dict]:
    """Returns a data set as the official pickle holds it, with keys as byte strings.

    Shape:
        covarep (N, audio), facet (N, video), glove (N, 20, 300), label (N, 1), (N, 16) or for
        each emotion (N, 2), all float64.
    """
    rng = np.random.default_rng([seed, *corpus.name.encode()])
    interactions = max(1, (len(corpus.emotions) + 1) // 2)  # triples of latents; two emotions each
    shape = (sum(corpus.examples), interactions)
    audio_latent, video_latent, text_latent = (_signed(rng, shape) for _ in range(3))
    if corpus.examples[0] < FEW:
        text_latent = rng.uniform(0.25, 1.75, shape)
    features = {
        b"covarep": _spread(rng, audio_latent, corpus.dims[0]),
        b"facet": _spread(rng, video_latent, corpus.dims[1]),
        b"glove": _words(rng, text_latent, corpus),
    }
    audio = features[b"covarep"]
    audio[rng.random(audio.shape) < NAN_SHARE] = np.nan
    product = audio_latent * video_latent * text_latent
    product += LABEL_NOISE * rng.standard_normal(product.shape)
    shared = _by_split(features, corpus.examples)
    if not corpus.emotions:
        return _with_label(shared, _numbers(rng, product, corpus), corpus.examples)
    labels = [sign * product[:, column] for column in range(interactions) for sign in (1, -1)]
    return {
        emotion.encode(): _with_label(shared, _one_hot(label), corpus.examples)
        for emotion, label in zip(corpus.emotions, labels, strict=False)
    }


def marked(data: dict[bytes, Any]) -> dict[bytes, Any]:
    """Returns a data set whose ids say that its examples are made up, whatever it is called."""
    if b"label" in data:
        return {**data, b"id": [f"{SYNTHETIC} {i}" for i in range(len(data[b"label"]))]}
    return {key: marked(part) for key, part in data.items()}


def _signed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Numbers of either sign and of size 0.5 to 1.5."""
    return rng.choice((-1.0, 1.0), shape) * rng.uniform(0.5, 1.5, shape)


def _spread(rng: np.random.Generator, latents: np.ndarray, width: int) -> np.ndarray:
    """Latents (N, K) over features (N, width): every K-th feature follows the same latent."""
    owner = np.arange(width) % latents.shape[1]
    signs = rng.choice((-1.0, 1.0), width)
    noise = rng.standard_normal((len(latents), width))
    return latents[:, owner] * signs + FEATURE_NOISE * noise


def _words(rng: np.random.Generator, latents: np.ndarray, corpus: Corpus) -> np.ndarray:
    """Latents (N, K) over word vectors (N, T, width), alike in every word, padded with zeros."""
    frames, width = corpus.steps, corpus.dims[2]
    lengths = rng.integers(SHORTEST, frames, size=len(latents), endpoint=True)
    steps = np.arange(frames)[::-1] if corpus.padded_in_front else np.arange(frames)
    text = FEATURE_NOISE * rng.standard_normal((len(latents), frames, width))
    text += _spread(rng, latents, width)[:, None]
    text *= 0.3  # about as large as real word vectors
    text[steps >= lengths[:, None]] = 0
    return text


def _numbers(rng: np.random.Generator, product: np.ndarray, corpus: Corpus) -> np.ndarray:
    """Labels (N, L) in a data set's range that follow one product (N, 1).

    One column is in steps of 0.2, as five annotators' means are; several are traits, which follow
    the product in either direction.
    """
    low, high = corpus.label_range
    centre = (low + high) / 2
    if corpus.label_columns == 1:
        steps = np.round(product * 5) / 5
        return np.clip(steps + centre if centre else steps, low, high)
    signs = rng.choice((-1.0, 1.0), corpus.label_columns)
    loadings = TRAIT_SCALE * signs * rng.uniform(0.8, 1.2, corpus.label_columns)
    noise = LABEL_NOISE * rng.standard_normal((len(product), corpus.label_columns))
    return np.clip(centre + product * loadings + noise, low, high)


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
