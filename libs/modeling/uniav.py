"""The network: a shared backbone, heads over its pyramid, and each task's prompts."""

from typing import Any

import torch
from torch import Tensor, nn

from libs.core.config import Config
from libs.core.types import Batch, Prediction
from libs.modeling.backbone import Backbone
from libs.modeling.blocks import SHARED, PerTask
from libs.modeling.heads import LinearClassifier, OffsetRegressor, PromptClassifier, concatenate_levels
from libs.modeling.points import PointGenerator
from libs.modeling.prompts import FrozenPrompts, TextEmbedding, build_prompt_module


class UniAV(nn.Module):
    """One network for all tasks: `model(batch, "TASK1") -> Prediction`.

    It holds the experts, last layers and learned prompts of all tasks in the configuration, also of those that are
    not trained, so that one checkpoint format serves every subset. Call `set_prompts` for the tasks in use.
    """

    def __init__(self, config: Config):
        """Build the network that a configuration describes, with random weights."""
        super().__init__()
        self.config, self.tasks = config.model, config.tasks
        tasks = list(config.tasks.values())
        task_types = sorted({task.task_type for task in tasks})
        self.backbone = Backbone(config.model, task_types, config.max_seq_len)
        linear = config.model.classifier == "linear"
        self.cls_head = LinearClassifier(config.model, tasks) if linear else PromptClassifier(config.model)
        self.reg_head = OffsetRegressor(config.model, tasks)
        modules = {task.key: build_prompt_module(config.model, task) for task in tasks if self.uses_prompts}
        self.prompts: Any = PerTask(modules)  # nn.ModuleDict does not type its modules
        self.points = PointGenerator(config.model)

    @property
    def uses_prompts(self) -> bool:
        """Whether other prompts mean other classes; a linear classifier ignores prompts."""
        return self.config.classifier == "prompt"

    def set_prompts(self, task: str, source: Tensor | TextEmbedding) -> None:
        """Set what a task's prompts come from.

        Args:
            source: a table (num_classes, text_dim) float32, row = label_id; for learned context, the function from
                context (context_length, context_dim) to such a table.
        """
        self.prompts[task].set_source(source)

    def override_prompts(self, task: str, table: Tensor) -> None:
        """Replace a task's prompts by a fixed table, for inference; what was learned of them is dropped."""
        self.prompts[task] = FrozenPrompts(table)

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """List the parameters that a task's batches train: all but the experts and last layers of other tasks."""
        used = {SHARED, task, self.tasks[task].task_type}
        unused = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, PerTask)
            for name, part in module.items()
            if name not in used
            for parameter in part.parameters()
        }
        return [parameter for parameter in self.parameters() if id(parameter) not in unused]

    def forward(self, batch: Batch, task: str) -> Prediction:
        spec = self.tasks[task]
        mask = batch.mask[..., None]
        features = {modality: getattr(batch, modality).float() for modality in self.config.modalities}
        levels = self.backbone(features, mask, spec.task_type, spec.dataset.max_seq_len)
        pyramid = concatenate_levels(levels, gap=self.config.head_kernel_size // 2)
        logits = self.cls_head(pyramid, task, self.prompts[task]() if self.uses_prompts else None)
        offsets = self.reg_head(pyramid, task)
        point_mask = torch.cat([level.mask for level in levels], dim=1)[..., 0]
        points, sizes = self.points(batch.mask.shape[1], batch.mask.device)
        return Prediction(logits, offsets, point_mask, points, sizes)
