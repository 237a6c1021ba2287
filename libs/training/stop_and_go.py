"""Stop-and-go: pause a task that stopped improving, resume it when it gets worse (method.md §6)."""

import math
from dataclasses import asdict, dataclass

from libs.core.config import StopAndGoConfig


@dataclass
class StopAndGo:
    """The state of one task; call `update` after each evaluation."""

    config: StopAndGoConfig
    best: float = -math.inf
    num_bad_evaluations: int = 0
    cooldown_left: int = 0
    paused: bool = False

    def update(self, score: float) -> bool:
        """Update the state with an evaluation's score; returns whether the task is paused from now on."""
        config = self.config
        if score > self.best * (1 + config.threshold):
            self.best, self.num_bad_evaluations = score, 0
        else:
            self.num_bad_evaluations += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.num_bad_evaluations = 0
        if self.num_bad_evaluations > config.patience:
            self.paused, self.cooldown_left, self.num_bad_evaluations = True, config.cooldown, 0
        elif self.paused and score < self.best * (1 - config.continue_threshold):
            self.paused, self.cooldown_left, self.num_bad_evaluations = False, config.cooldown, 0
        return self.paused

    def trains_at(self, step: int) -> bool:
        """Return whether the task trains at a global step (from 0)."""
        return not (self.config.enabled and self.paused) or step % self.config.train_iter_gap == 0

    def state_dict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "config"}

    def load_state_dict(self, state: dict) -> None:
        """Load a state_dict, also one under the names of earlier versions (`cool`, `bad`)."""
        old_names = {"num_bad_evaluations": "bad", "cooldown_left": "cool"}
        for name in self.state_dict():
            setattr(self, name, state[name if name in state else old_names[name]])
