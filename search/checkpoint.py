"""The file of a run's best model: written whole, and known again by its row and its weights."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from data.checkpoints import check_whole, read_checkpoint
from data.files import InputError, MissingFile, open_regular, write_atomically
from search.columns import printed
from search.provenance import Provenance, conditions
from training.result import Result
from training.setting import Setting, parse_value

BestRow: TypeAlias = tuple[float, Setting, int]  # validation loss as printed, setting and seed


class SavedModel(NamedTuple):
    """What a model's file says of its model."""

    row: BestRow
    started: str  # when its run was begun: no other run has the same
    conditions: dict[str, object]  # under which it was trained
    intact: bool  # whether the weights and the model's sizes are those that were saved


def save_model(
    path: Path, result: Result, about: Mapping[str, object], provenance: Provenance
) -> None:
    """Writes a trained model and what is known of it: `about` has at least its config."""
    assert result.state_dict
    checkpoint = {
        "state_dict": result.state_dict,
        "weights_sha256": weights_sha256(result.state_dict),
        "config_sha256": _config_sha256(about["config"]),
        "setting": result.setting._asdict(),
        "seed": result.seed,
        "valid_loss": result.valid_loss,
        "best_epoch": result.best_epoch,
        "scores": result.scores,
        "history": result.history,
        **about,
        "provenance": dict(provenance),
    }
    content = io.BytesIO()  # to a full disk torch.save would only say "unexpected pos"
    torch.save(checkpoint, content)
    write_atomically(path, lambda part: part.write_bytes(content.getvalue()))


def read_model(path: Path) -> SavedModel | None:
    """Returns what a model's file says of it; None if there is no file.

    Raises:
        InputError: No train script wrote that file.
    """
    try:
        with open_regular(path) as file:
            checkpoint = read_checkpoint(file)
        loss = float(printed(checkpoint["valid_loss"]))
        texts = Setting(**checkpoint["setting"]).texts()
        setting = Setting._make(map(parse_value, Setting._fields, texts))
        weights = checkpoint["state_dict"]
        check_whole(weights)
        found = {
            "weights_sha256": weights_sha256(weights),
            "config_sha256": _config_sha256(checkpoint["config"]),
        }
        as_saved = all(checkpoint.get(key, value) == value for key, value in found.items())
        return SavedModel(
            (loss, setting, int(checkpoint["seed"])),
            checkpoint["provenance"]["started"],
            conditions(checkpoint["provenance"]),
            as_saved and _are_trained(weights),  # older files have one checksum, or none
        )
    except MissingFile:
        return None
    except InputError:
        raise
    except Exception as error:  # other files make torch.load raise anything
        raise InputError(
            f"{path}: expected a model that a train script wrote, got something else "
            f"({type(error).__name__}); move it away"
        ) from None


def _are_trained(weights: Mapping[str, Tensor]) -> bool:
    """Returns whether weights are numbers, and not all zero."""
    numbers = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    finite = all(bool(tensor.isfinite().all()) for tensor in numbers)
    return finite and any(bool(tensor.any()) for tensor in numbers)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Returns a checksum of a state_dict: of its names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _config_sha256(config: object) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
