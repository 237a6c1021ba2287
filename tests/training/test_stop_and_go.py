"""Stop-and-go."""

from libs.core.config import StopAndGoConfig
from libs.training.stop_and_go import StopAndGo


def test_trains_at_of_a_paused_task_is_every_fourth_step():
    state = StopAndGo(StopAndGoConfig(train_iter_gap=4))
    assert all(state.trains_at(step) for step in range(9))
    state.paused = True
    assert [step for step in range(9) if state.trains_at(step)] == [0, 4, 8]
    assert StopAndGo(StopAndGoConfig(enabled=False), paused=True).trains_at(1)
