"""The network: backbone and heads, built first and then joined."""

import torch
from torch import Tensor, nn

from libs.core.config import Config, ModelConfig, TaskSpec
from libs.core.types import Batch, Prediction
from libs.modeling.backbone import Backbone
from libs.modeling.heads import OffsetRegressor, PromptClassifier, join_levels
from libs.modeling.points import make_points


class UniAV(nn.Module):
    """One network for all tasks: `model(batch, "TASK1") -> Prediction`.

    It holds the experts and offset heads of all tasks of the configuration, whichever are chosen, so that one
    checkpoint format serves every subset. Prompt tables are buffers, not part of the state_dict; set them with
    `set_prompts` for the tasks in use.
    """

    def __init__(
        self,
        config: ModelConfig,
        tasks: list[TaskSpec],
        backbone: Backbone,
        classifier: PromptClassifier,
        regressor: OffsetRegressor,
    ):
        super().__init__()
        self.config = config
        self.tasks = {task.key: task for task in tasks}
        self.backbone, self.cls_head, self.reg_head = backbone, classifier, regressor

    @classmethod
    def from_config(cls, config: Config) -> "UniAV":
        tasks = list(config.tasks.values())
        task_types = sorted({task.task_type for task in tasks})
        backbone = Backbone(config.model, task_types, config.max_seq_len)
        return cls(config.model, tasks, backbone, PromptClassifier(config.model), OffsetRegressor(config.model, tasks))

    def set_prompts(self, task: str, prompts: Tensor) -> None:
        """prompts (num_classes, text_dim) float32, row = label_id."""
        self.register_buffer(f"prompts_{task}", prompts, persistent=False)

    def forward(self, batch: Batch, task: str) -> Prediction:
        spec = self.tasks[task]
        mask = batch.mask[..., None]
        levels = self.backbone(
            batch.visual.float(), batch.audio.float(), mask, spec.task_type, spec.dataset.max_seq_len
        )
        row = join_levels(levels, gap=self.config.head_kernel_size // 2)
        points, sizes = make_points(self.config, batch.mask.shape[1])
        logits = self.cls_head(row, self.get_buffer(f"prompts_{task}"))
        offsets = self.reg_head(row, task)
        point_mask = torch.cat([level.mask for level in levels], dim=1)[..., 0]
        return Prediction(logits, offsets, point_mask, points.to(batch.mask.device, non_blocking=True), sizes)
