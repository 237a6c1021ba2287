"""The network: backbone and heads, built first and then joined."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from libs.core.config import Config, ModelConfig, TaskSpec
from libs.core.types import Batch, Prediction
from libs.modeling.backbone import Backbone
from libs.modeling.blocks import SHARED
from libs.modeling.heads import LinearClassifier, OffsetRegressor, PromptClassifier, concatenate_levels
from libs.modeling.points import make_points

CONTEXT_STD = 0.02  # of learned vectors at first: that of the token embeddings they stand among (CoOp)


class UniAV(nn.Module):
    """One network for all tasks: `model(batch, "TASK1") -> Prediction`.

    It holds what tasks have of their own (experts, last layers, learned prompts) for all tasks of the configuration,
    whichever are chosen, so that one checkpoint format serves every subset. Prompt tables are buffers, not part of the
    state_dict; set them with `set_prompts` for the tasks in use.
    """

    def __init__(
        self,
        config: ModelConfig,
        tasks: list[TaskSpec],
        backbone: Backbone,
        classifier: PromptClassifier | LinearClassifier,
        regressor: OffsetRegressor,
    ):
        super().__init__()
        self.config = config
        self.tasks = {task.key: task for task in tasks}
        self.backbone, self.cls_head, self.reg_head = backbone, classifier, regressor
        self.learned_prompts = _learned_prompts(config, tasks)
        self.embed_context: dict[str, Callable[[Tensor], Tensor]] = {}
        self.fixed: set[str] = set()
        self.points_of_length: dict[tuple[int, torch.device], tuple[Tensor, tuple[int, ...]]] = {}

    @classmethod
    def from_config(cls, config: Config) -> "UniAV":
        tasks = list(config.tasks.values())
        task_types = sorted({task.task_type for task in tasks})
        backbone = Backbone(config.model, task_types, config.max_seq_len)
        linear = config.model.classifier == "linear"
        classifier = LinearClassifier(config.model, tasks) if linear else PromptClassifier(config.model)
        return cls(config.model, tasks, backbone, classifier, OffsetRegressor(config.model, tasks))

    @property
    def uses_prompts(self) -> bool:
        """Whether other prompts are other classes; a linear classifier knows none."""
        return self.config.classifier == "prompt"

    def set_prompts(self, task: str, prompts: Tensor, embed: Callable[[Tensor], Tensor] | None = None) -> None:
        """prompts (num_classes, text_dim) float32, row = label_id. embed: where context is learned, what makes such a
        table of it, a function from (context_length, context_dim)."""
        self.register_buffer(f"prompts_{task}", prompts, persistent=False)
        if embed is not None:
            self.embed_context[task] = embed

    def override_prompts(self, task: str, prompts: Tensor) -> None:
        """Use this table as it is, whatever was learned of prompts: for inference."""
        self.set_prompts(task, prompts)
        self.fixed.add(task)

    def prompts(self, task: str) -> Tensor:
        """The table in use, (num_classes, text_dim), with what is learned of it."""
        table = self.get_buffer(f"prompts_{task}")
        if task in self.fixed or task not in self.learned_prompts:
            return table
        learned = self.learned_prompts[task]
        return table + learned if self.config.prompts == "offsets" else self.embed_context[task](learned)

    def parameters_of(self, task: str) -> list[nn.Parameter]:
        """Those that a task's batches train: not the experts and last layers of the others."""
        own = {"experts": {SHARED, self.tasks[task].task_type}}  # what follows these parts of a name
        own |= dict.fromkeys(("offsets", "classes", "learned_prompts"), {task})

        def is_own(name: str) -> bool:
            parts = name.split(".")
            return all(after in own.get(part, {after}) for part, after in zip(parts, parts[1:], strict=False))

        return [parameter for name, parameter in self.named_parameters() if is_own(name)]

    def forward(self, batch: Batch, task: str) -> Prediction:
        spec = self.tasks[task]
        mask = batch.mask[..., None]
        features = {modality: getattr(batch, modality).float() for modality in self.config.modalities}
        levels = self.backbone(features, mask, spec.task_type, spec.dataset.max_seq_len)
        row = concatenate_levels(levels, gap=self.config.head_kernel_size // 2)
        points, sizes = self.points(batch.mask.shape[1], batch.mask.device)
        logits = self.cls_head(row, task, self.prompts(task) if self.uses_prompts else None)
        offsets = self.reg_head(row, task)
        point_mask = torch.cat([level.mask for level in levels], dim=1)[..., 0]
        return Prediction(logits, offsets, point_mask, points, sizes)

    def points(self, length: int, device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
        """make_points, kept on the device: a copy to a GPU in every step might wait for it."""
        key = (length, device)
        if key not in self.points_of_length:
            with torch.inference_mode(False):  # training may use what evaluation asked for first
                points, sizes = make_points(self.config, length)
                self.points_of_length[key] = points.to(device), sizes
        return self.points_of_length[key]


def _learned_prompts(config: ModelConfig, tasks: list[TaskSpec]) -> nn.ParameterDict:
    """What is learned of each task's prompts: nothing, offsets to its table, or vectors before the class names."""
    if config.classifier == "linear" or config.prompts in ("frozen", "random"):
        return nn.ParameterDict()
    if config.prompts == "offsets":
        return nn.ParameterDict({task.key: torch.zeros(task.dataset.num_classes, config.text_dim) for task in tasks})
    shape = (config.context_length, config.context_dim)
    return nn.ParameterDict({task.key: CONTEXT_STD * torch.randn(shape) for task in tasks})
