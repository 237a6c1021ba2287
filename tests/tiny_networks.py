"""Tiny configurations, trainers and batches with events, for tests that change one key."""

import torch

from benchmarks.data import task_data_without_clips
from libs.core.config import Config
from libs.core.configfile import from_tree
from libs.core.types import Batch
from libs.training.distributed import DistributedContext
from libs.training.trainer import Trainer
from tests.benchmarks.test_plain import with_events
from tests.conftest import tiny_tree
from tests.modeling.networks import make_batch, make_model


def make_config(tmp_path, opt=None, **model) -> Config:
    tree = tiny_tree(tmp_path)
    tree["model"] |= model
    tree["opt"] |= opt or {}
    return from_tree(tree)


def make_trainer(config, seed=0) -> Trainer:
    tasks = list(config.tasks.values())
    model = make_model(config, seed).train()
    data = [task_data_without_clips(task) for task in tasks]
    return Trainer(config, model, data, DistributedContext(0, 1, torch.device("cpu")))


def make_events(config, task: str) -> Batch:
    return with_events(make_batch([32, 20, 9, 1], 32), config.tasks[task].dataset.num_classes)
