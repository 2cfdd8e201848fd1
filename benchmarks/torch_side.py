"""PyTorch's step: a plain network or timm's ResNet, eager or compiled, with our weights."""

import contextlib
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.features.torch_vgg import VGG16
from benchmarks.sides import LOSSES, WEIGHTS, Task, clock, draw_batch
from benchmarks.torch_efficientnet_lite import BLOCKS, NETWORKS, EfficientNetLite
from benchmarks.torch_resnet import MOMENTUM, ResNet, nn, torch
from gap_jax.config import OptimConfig
from gap_jax.model_config import INPUTS
from gap_jax.models.backbones import resnet

WARM_UP_STEPS = 2  # the first choose algorithms


def build(task: Task, folder: Path) -> "TorchStep":
    """Builds the step of a task with the weights that our row wrote to the folder."""
    if task.pinned:
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    return TorchStep(task, load_network(task, folder))


def load_network(task: Task, folder: Path) -> Any:
    """Builds a task's network with the weights that our row wrote to the folder."""
    return _load(_network(task), folder / WEIGHTS)


def _network(task: Task) -> Any:
    if task.side == "plain":
        if task.backbone == "vgg16":
            return VGG16()
        if task.backbone in NETWORKS:
            return EfficientNetLite(task.backbone, task.classes, task.stage or len(BLOCKS))
        return ResNet(resnet.BLOCKS[task.backbone][: task.stage or None], task.classes)
    timm: Any = importlib.import_module("timm")
    network = timm.create_model(task.backbone, num_classes=task.classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    return network


def _load(network: Any, file: Path) -> Any:
    with np.load(file) as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    missing, unexpected = network.load_state_dict(state, strict=False)
    lacking = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise ValueError(f"PyTorch lacks {lacking} and does not expect {unexpected}")
    return network


class TorchStep:
    """Training or evaluation in channels-last layout, which is faster, on one fixed batch."""

    def __init__(self, task: Task, network: Any) -> None:
        self.task = task
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.network.train(task.mode == "train")
        self.initial = {name: value.clone() for name, value in network.state_dict().items()}
        self.call = torch.compile(self.network) if task.compiled else self.network
        pictures, labels = draw_batch(task)
        self.pictures = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(labels).to(self.device)
        self.mean, self.scale = (
            torch.tensor(values, device=self.device)[:, None, None] for values in INPUTS[task.input]
        )
        self._start()

    def prepare(self) -> dict[str, Any]:
        """Compiles, or lets cuDNN choose algorithms."""
        start = time.perf_counter()
        self.run(WARM_UP_STEPS)
        measured = {"compile_s": time.perf_counter() - start}
        measured["cudnn"] = torch.backends.cudnn.version()
        if self.device == "cuda":
            measured["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self._start()
        return measured

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits of the initial weights, with batch norm as in the step."""
        with self._exactly(), torch.no_grad():
            return self._forward().float().cpu().numpy()

    def losses(self) -> list[float]:
        """Returns the losses from the initial state on."""
        with self._exactly():
            return [float(self._train()) for _ in range(LOSSES)]

    def time(self, steps: int) -> dict[str, float]:
        """Returns the seconds of a step."""
        return clock(self.run, steps)

    def run(self, steps: int) -> None:
        """Runs steps."""
        for _ in range(steps):
            if self.task.mode == "train":
                self._train()
            else:
                with torch.inference_mode():
                    self._forward()
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def _exactly(self) -> Iterator[None]:
        """Computes on CPU in float64, from the initial weights; they are restored at the end.

        There PyTorch's batch norm of channels-last maps adds float32 values one after another:
        it errs by 1e-5 in a norm of 8 maps of 112 x 112, which grows to 2e-3 through 49 norms.
        """
        if self.device == "cpu" and not self.task.half:
            self.network.double()
        self._start()
        yield
        self.network.float()
        self._start()

    def _start(self) -> None:
        """Restores the initial weights and makes a new optimiser."""
        self.network.load_state_dict(self.initial)
        cfg = OptimConfig()
        decayed = [value for value in self.network.parameters() if value.ndim > 1]
        others = [value for value in self.network.parameters() if value.ndim == 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": others}],
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
        )

    def _forward(self) -> Any:
        dtype = next(self.network.parameters()).dtype
        image = (self.pictures.to(dtype) - self.mean) / self.scale
        with torch.autocast(self.device, torch.bfloat16) if self.task.half else _AS_IT_IS:
            return self.call(image)

    def _train(self) -> Any:
        logits = self._forward().float()
        loss = nn.functional.cross_entropy(logits, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


_AS_IT_IS = contextlib.nullcontext()
