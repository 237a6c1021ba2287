"""The result of one video: its events, and what else its files show."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from libs.core.types import Event


@dataclass(frozen=True)
class VideoResult:
    """The events of one video and what was read of it.

    `path` is None where only features are known. `duration` is in seconds. `peaks` (P,) are the largest amplitudes,
    in [0, 1], of P equally long parts of the sound; empty without sound. `notes` are shown to the user.
    """

    video_id: str
    path: Path | None
    events: list[Event]
    duration: float
    peaks: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.path.name if self.path else self.video_id
