"""The columns of a result CSV."""

from __future__ import annotations

from typing import NamedTuple

from training.setting import Setting

RUN_COLUMNS = ("Seed", "Status", "Best Epoch", "Epochs", "Seconds")
MOST_EPOCHS = 10**9  # as many as --epochs takes
STATUSES = {  # whether there is a validation loss; test scores are those of ok alone
    **{"ok": True, "pruned": True, "diverged": False, "failed": False},
}


class Columns(NamedTuple):
    """The columns of a data set's CSV after the hyperparameters."""

    valid_loss: str  # by which settings are ranked
    release: tuple[str, ...]  # the release's other columns, in its order
    own: tuple[str, ...]  # scores that the release doesn't have
    headline: str  # the one test score that is shown for a setting

    def all(self) -> list[str]:
        """Returns every column of the file, in order."""
        return [*Setting._fields, self.valid_loss, *self.release, *RUN_COLUMNS, *self.own]

    def scores(self) -> list[str]:
        """Returns the columns that hold scores, the validation loss first."""
        return [self.valid_loss, *self.release, *self.own]


def printed(value: float) -> str:
    """Returns a number as it stands in the CSV files."""
    return f"{value:.6g}"
