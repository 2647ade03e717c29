"""The JSON beside a run's rows: how they come about, and what must stay the same for more."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TypedDict

from data.files import InputError, open_regular


class Pilot(TypedDict):
    """What one of the settings that others are pruned by reached, with the first seed."""

    epochs: int
    best_losses: list[float]  # of validation, after the epochs of the rule; infinite if it diverged


class _Provenance(TypedDict):
    data_set: str
    emotion: str | None
    data_file: str
    fixed: dict[str, object]
    versions: dict[str, str]
    command: list[str]
    started: str


class Provenance(_Provenance, total=False):
    """How a run's rows come about; a run only goes on while all of "fixed" stays the same."""

    pilots: dict[str, Pilot]  # by the setting's description; only with pruning


_KINDS = {
    **{"data_set": str, "emotion": (str, type(None)), "data_file": str, "fixed": dict},
    **{"versions": dict, "command": list, "started": str},
}


def read_provenance(path: Path) -> Provenance:
    """Returns what a train script wrote beside its CSV.

    Raises:
        MissingFile: There is no such file.
        InputError: The file is none of theirs.
    """
    with open_regular(path) as file:
        try:
            stored = json.load(file)
            kinds_fit = all(isinstance(stored[key], kind) for key, kind in _KINDS.items())
            if kinds_fit and all(map(_is_pilot, dict(stored.get("pilots", {})).values())):
                return stored
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
    raise InputError(
        f"{path}: expected what a train script writes beside its CSV, got something else"
    )


def _is_pilot(value: Pilot) -> bool:
    losses = value["best_losses"]
    return type(value["epochs"]) is int and all(
        type(loss) is float and math.isfinite(loss) for loss in losses
    )


def conditions(provenance: Provenance) -> dict[str, object]:
    """Returns what must stay the same while a run goes on.

    Files without the path were written before it was stored: their first command's flags say it.
    What is trained without is stored only if there is any, and that data are synthetic if they are.
    """
    command = " ".join(map(str, provenance["command"]))
    reference = re.search(r"--stack[ =]1(?!\S)", command)
    return {
        "data_set": provenance["data_set"],
        "emotion": provenance["emotion"],
        "path": "reference" if reference else "fast",
        "without": [],
        "synthetic": False,
        **provenance["fixed"],
    }


def differences(before: Provenance, now: Provenance) -> str:
    """Returns which conditions have changed, in words; nothing if none has."""
    old, new = conditions(before), conditions(now)
    return ", ".join(
        f"{key} {_change(old.get(key), new.get(key))}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    )


def _change(before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        changed = [str(item) for item in (*before, *now) if (item in before) != (item in now)]
        return f"({', '.join(changed) or 'in another order'})"
    return f"(then {str(before)[:80]}, now {str(now)[:80]})"
