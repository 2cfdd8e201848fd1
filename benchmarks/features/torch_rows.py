"""PyTorch's rows: a backbone's map, eager or compiled, and training steps of a head on maps."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks import torch_side
from benchmarks.alternating import pin
from benchmarks.features.tasks import HEAD_WEIGHTS, HeadTask, Stored
from benchmarks.sides import Task, clock, draw_batch
from benchmarks.torch_resnet import nn, torch
from data_pipelines import loader, manifest
from gap_jax.config import OptimConfig
from gap_jax.model_config import INPUTS


def build_extraction(task: Task, folder: Path) -> "Extraction":
    """Builds the extraction of a task with the weights that our row wrote to the folder."""
    _pin(task.pinned)
    return Extraction(task, torch_side.load_network(task, folder))


def build_head(task: HeadTask, folder: Path, stored: Stored) -> "HeadSteps":
    """Builds the steps of a task with the head that our row wrote to the folder."""
    _pin(task.pinned)
    with np.load(folder / HEAD_WEIGHTS) as weights:
        head = Head({name: torch.from_numpy(weights[name]) for name in weights.files})
    return HeadSteps(task, head, stored)


def _pin(pinned: bool) -> None:
    if pinned:
        pin()
        torch.set_num_threads(1)


class Backbone(nn.Module):
    """The map of uint8 images as float16; channels lie last in memory, which is faster."""

    def __init__(self, network: Any, colours: str) -> None:
        super().__init__()
        self.network = network
        for name, values in zip(("mean", "scale"), INPUTS[colours], strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Any) -> Any:
        """Returns the map with channels last."""
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.scale
        return self.network.features(x).permute(0, 2, 3, 1).half()


class Extraction:
    """The extraction of one batch of images; inductor folds the norms into frozen weights."""

    def __init__(self, task: Task, network: Any) -> None:
        self._images = torch.from_numpy(draw_batch(task)[0])
        backbone = Backbone(network, task.input).eval().to(memory_format=torch.channels_last)
        self._call = backbone
        if task.compiled:
            inductor: Any = importlib.import_module("torch._inductor.config")
            inductor.freezing = True
            self._call = torch.compile(backbone)

    def prepare(self) -> dict[str, Any]:
        """Compiles the extraction."""
        start = time.perf_counter()
        self._run(torch_side.WARM_UP_STEPS)
        return {"compile_s": time.perf_counter() - start}

    def maps(self) -> Float[np.ndarray, "b h w f"]:
        """Returns the maps of the batch."""
        with torch.inference_mode():
            return self._call(self._images).numpy()

    def time(self, batches: int) -> dict[str, float]:
        """Returns the seconds of a batch."""
        return clock(self._run, batches)

    def _run(self, batches: int) -> None:
        for _ in range(batches):
            self.maps()


class Head(nn.Module):
    """Attentional pooling of rank 1 by our parameters; relu layers below the saliency are GAP's."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        super().__init__()
        self.chain, index = nn.ModuleList(), 0
        while f"pooling/saliency/chain/{index}/kernel" in arrays:
            self.chain.append(_linear(arrays, f"pooling/saliency/chain/{index}"))
            index += 1
        self.saliency = _linear(arrays, f"pooling/saliency{'/last' if index else ''}")
        self.kernel = nn.Parameter(arrays["pooling/kernel"][0])
        self.bias = nn.Parameter(arrays["pooling/bias"][0])

    def forward(self, x: Any, dropout: float) -> Any:
        """Returns the logits of maps (b, n, f)."""
        z = x
        for layer in self.chain:
            z = nn.functional.relu(layer(z))
        h = self.saliency(z)
        values = nn.functional.dropout(x, dropout) if dropout else x
        g = torch.bmm(h.transpose(1, 2), values)[:, 0] / x.shape[1]
        return g @ self.kernel + h.mean(1) * self.bias


def _linear(arrays: dict[str, Any], path: str) -> Any:
    kernel = arrays[f"{path}/kernel"]
    layer = nn.Linear(*kernel.shape)
    layer.weight.data.copy_(kernel.T)
    layer.bias.data.copy_(arrays[f"{path}/bias"])
    return layer


class HeadSteps:
    """Training steps, each on the next batch of our loader."""

    def __init__(self, task: HeadTask, head: Head, stored: Stored) -> None:
        self._head, self._dropout = head, stored.dropout
        described = manifest.load(task.data)
        self._batches = loader.training_batches(
            stored.data, described, seed=0, batch_size=task.batch, maps=stored.maps
        )
        self._first = self._next()
        cfg = OptimConfig()
        parameters = list(head.parameters())
        decayed = [value for value in parameters if value.ndim > 1]
        others = [value for value in parameters if value.ndim == 1]
        self._optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": cfg.weight_decay}, {"params": others}],
            lr=cfg.learning_rate,
            momentum=cfg.momentum,
        )

    def prepare(self) -> dict[str, Any]:
        """Runs a step."""
        self._run(1)
        return {}

    def logits(self) -> Float[np.ndarray, "b k"]:
        """Returns the logits of the first batch as in evaluation, before the first step."""
        with torch.inference_mode():
            return self._head(self._first[0], 0.0).numpy()

    def losses(self, steps: int) -> list[float]:
        """Returns the losses of the next steps."""
        return [self._train() for _ in range(steps)]

    def time(self, steps: int) -> dict[str, float]:
        """Returns the seconds of a step."""
        return clock(self._run, steps)

    def close(self) -> None:
        """Ends the loader's threads."""
        self._batches.close()

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            self._train()

    def _train(self) -> float:
        maps, labels = self._next()
        loss = nn.functional.cross_entropy(self._head(maps, self._dropout), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def _next(self) -> tuple[Any, Any]:
        batch = next(self._batches)
        maps = torch.from_numpy(batch.image).float().flatten(1, 2)
        return maps, torch.from_numpy(batch.label).long()
