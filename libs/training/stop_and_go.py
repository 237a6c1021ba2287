"""Stop-and-go: pause a task that no longer gets better, resume it when it gets worse (method.md §6)."""

import math
from dataclasses import asdict, dataclass

from libs.core.config import StopAndGoConfig


@dataclass
class StopAndGo:
    """The state of one task; `update` after each evaluation, `paused` in between."""

    config: StopAndGoConfig
    best: float = -math.inf
    bad: int = 0
    cool: int = 0
    paused: bool = False

    def update(self, score: float) -> bool:
        """Take the score of an evaluation in; returns whether the task is paused from now on."""
        config = self.config
        if score > self.best * (1 + config.threshold):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.cool > 0:
            self.cool -= 1
            self.bad = 0
        if self.bad > config.patience:
            self.paused, self.cool, self.bad = True, config.cooldown, 0
        elif self.paused and score < self.best * (1 - config.continue_threshold):
            self.paused, self.cool, self.bad = False, config.cooldown, 0
        return self.paused

    def trains_at(self, step: int) -> bool:
        """Whether the task trains at a global step (from 0)."""
        return not (self.config.enabled and self.paused) or step % self.config.train_iter_gap == 0

    def state_dict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "config"}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.bad, self.cool, self.paused = (state[k] for k in ("best", "bad", "cool", "paused"))
