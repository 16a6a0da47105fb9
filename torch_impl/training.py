"""Training in PyTorch: zero the gradients, forward, backward, step.

torch's optimizers follow the definitions of `common.optimizers`: the velocity excludes the learning rate, weight decay
is added to the gradient except in AdamW, and epsilon is added outside the square root. torch's gradient clipping
differs, since it adds 1e-6 to the norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from common.optimizers import OptimizerConfig
from common.randomness import step_seed
from common.system import keep_freed_memory

__all__ = ["Trainer", "clip_gradients", "gradients", "make_optimizer", "train_step"]

_SLOTS = {"velocity": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq"}
"""torch's names for the optimizer slots of `common.optimizers`."""


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return torch's optimizer for the model; its learning rate is 0 until the caller sets it in `param_groups`."""
    parameters, decay = model.parameters(), config.weight_decay
    match config.name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=0.0, weight_decay=decay)
        case "momentum" | "nesterov":
            nesterov = config.name == "nesterov"
            return torch.optim.SGD(parameters, lr=0.0, momentum=config.momentum, nesterov=nesterov, weight_decay=decay)
        case "adam" | "adamw":
            adam = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
            betas = (config.beta1, config.beta2)
            return adam(parameters, lr=0.0, betas=betas, eps=config.epsilon, weight_decay=decay)


def clip_gradients(model: nn.Module, norm: float) -> None:
    """Scale all gradients by one factor so that their joint norm is at most `norm`."""
    grads = [parameter.grad for parameter in model.parameters()]
    total = nn.utils.get_total_norm(grads)
    torch._foreach_mul_(grads, torch.clamp(norm / total, max=1.0))


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return the loss in training mode, and its gradients with respect to each parameter, by name, and the images."""
    images = images.detach().requires_grad_()
    parameters = dict(model.named_parameters())
    loss = F.cross_entropy(model.train()(images), labels)
    *of_parameters, of_images = torch.autograd.grad(loss, [*parameters.values(), images])
    return loss.detach(), dict(zip(parameters, of_parameters, strict=True)), of_images


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, clip_norm: float | None = None
) -> tuple[Tensor, Tensor]:
    """Take one step; return the mean cross-entropy and the number of correct predictions, both before the update.

    `images` are (N, C, H, W), `labels` (N,).
    """
    optimizer.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    if clip_norm is not None:
        clip_gradients(model, clip_norm)
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


class Trainer:
    """A model, its optimizer and its random state; see `common.backends.protocol.Trainer`."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, seed: int = 0) -> None:
        self.model = model
        self.config = config
        self.seed = seed
        self.steps = 0
        self._optimizer = make_optimizer(config, model)
        self._parameter = next(model.parameters())
        # Each step allocates the memory that the previous one freed.
        keep_freed_memory()
        self._has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        if self._has_dropout:
            torch.manual_seed(step_seed(self.seed, self.steps))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        x, y = self._tensor(images), torch.from_numpy(labels).to(self._parameter.device)
        loss, correct = train_step(self.model.train(), self._optimizer, x, y, self.config.clip_norm)
        self.steps += 1
        return loss.item(), int(correct)

    @torch.no_grad()
    def logits(self, images: np.ndarray) -> np.ndarray:
        return self.model.eval()(self._tensor(images)).numpy(force=True)

    def state(self) -> dict[str, np.ndarray]:
        # Before the first step torch has no slots, which then count as zeros.
        return {
            f"{slot}.{name}": self._optimizer.state[parameter]
            .get(_SLOTS[slot], torch.zeros_like(parameter))
            .numpy(force=True)
            for slot in self.config.slots
            for name, parameter in self.model.named_parameters()
        }

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        self.steps = steps
        for name, parameter in self.model.named_parameters():
            for slot in self.config.slots:
                value = torch.tensor(slots[f"{slot}.{name}"], dtype=parameter.dtype, device=parameter.device)
                self._optimizer.state[parameter][_SLOTS[slot]] = value
            if "mean" in self.config.slots:
                self._optimizer.state[parameter]["step"] = torch.tensor(float(steps))

    def _tensor(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self._parameter)
