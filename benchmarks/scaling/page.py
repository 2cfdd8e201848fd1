"""Renders the collectives of a step, and simulated times of more devices.

Only the step of one device is measured. A ring of n devices sends 2 (n - 1) / n times the bytes of
the gradients through each link, plus one latency. Hosts of eight devices reduce inside first; then
each device exchanges its eighth with the same device of the other hosts.
"""

import platform
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from benchmarks.scaling.collectives import Collective, compile_step
from configs.gap_pose import get_config
from gap_jax.config import Config

MOST_ALL_REDUCES = 3  # of a data-parallel step: gradients, statistics and metrics merged
MERGED_ARRAYS = 256  # XLA merges at most these into one collective
EXPOSED = 0.2  # share of an all-reduce that is not hidden behind computation
IN_HOST = 8
IMAGES, RUN_STEPS, BATCH = 8_219, 12_000, 128  # MPII's training split, and the paper's run


class Device(NamedTuple):
    """A device whose step of b images takes `fixed_ms` + b `image_ms`."""

    name: str
    fixed_ms: float
    image_ms: float
    source: str

    def step_ms(self, images: float) -> float:
        """Returns the time of a training step on one device."""
        return self.fixed_ms + images * self.image_ms


class Link(NamedTuple):
    """The bandwidth of a device's link, and the latency of an all-reduce."""

    name: str
    gigabytes_per_s: float
    latency_ms: float
    source: str

    def all_reduce_ms(self, size: int, devices: int) -> float:
        """Returns the time of an all-reduce in a ring of devices, or across hosts."""
        if devices == 1:
            return 0.0
        if self is INFINIBAND:
            hosts = devices // IN_HOST
            return NVLINK.all_reduce_ms(size, IN_HOST) + self.ring_ms(size / IN_HOST, hosts)
        return self.ring_ms(size, devices)

    def ring_ms(self, size: float, members: int) -> float:
        """Returns the time of an all-reduce in one ring."""
        passed = 2 * (members - 1) / members * size
        return passed / (self.gigabytes_per_s * 1e6) + self.latency_ms


H100 = Device(
    "H100", 6.9, 0.9625,
    "22.3 ms for 16 images and 68.5 ms for 64 at 448 px without a pose branch, measured",
)  # fmt: skip
V5E = Device("TPU v5e", 0.0, 53 / 16, "assumed: 300 images/s, three quarters of its memory's roof")
NVLINK = Link("NVLink in one host", 350, 0.05, "assumed")
INFINIBAND = Link("400 Gb/s for each GPU", 45, 0.1, "assumed: nine tenths of it")
TORUS = Link("v5e's torus", 180, 0.05, "assumed")


class Row(NamedTuple):
    """A number of devices with a number of images each."""

    device: Device
    link: Link
    devices: int
    images: float

    def times(self, size: int) -> tuple[float, float, float, float]:
        """Returns the ms of the step and the all-reduce, and the efficiency, bare and hidden."""
        alone = self.device.step_ms(self.images)
        reduce = self.link.all_reduce_ms(size, self.devices)
        return alone, reduce, alone / (alone + reduce), alone / (alone + EXPOSED * reduce)


WEAK = (
    Row(H100, NVLINK, 8, 16), Row(H100, NVLINK, 8, 64),
    *(Row(H100, INFINIBAND, 8 * nodes, 16) for nodes in (2, 4, 8)),
    Row(H100, INFINIBAND, 64, 64), Row(V5E, TORUS, 256, 16),
)  # fmt: skip


def measure(*, full: bool) -> tuple[str, list[str]]:
    """Returns the page, and the faults of the data-parallel step."""
    lines, faults, size = [_describe(), ""], list[str](), 0
    for fsdp in (1, 2):
        setup, found = compile_step(configure(fsdp, full=full))
        leaves = jax.tree.leaves(setup.target.variables.params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        lines += describe_collectives(f"data {setup.mesh.shape['data']} x fsdp {fsdp}", found)
        if fsdp == 1:
            faults = judge(found)
    lines += ["", *describe_weak(size), "", *describe_strong(size)]
    return "\n".join(lines), faults


def configure(fsdp: int, *, full: bool) -> Config:
    """Returns the paper's run on eight devices of 16 images, or the demo's small network."""
    cfg = get_config("gap_pose" if full else "demo")
    cfg.mesh.fsdp, cfg.train.accumulate = fsdp, 1
    cfg.train.batch_size = BATCH
    return cfg.resolved()


def judge(found: Sequence[Collective]) -> list[str]:
    """Lists unexpected collectives: all but a few merged all-reduces."""
    arrays = sum(len(each.shapes) for each in found)
    allowed = MOST_ALL_REDUCES + (arrays - 1) // MERGED_ARRAYS
    faults = [f"a {each.name} from {each.source}" for each in found if each.name != "all-reduce"]
    if len(found) > allowed:
        faults.append(f"{len(found)} collectives where {allowed} would do")
    return faults


def describe_collectives(mesh: str, found: Sequence[Collective]) -> Iterator[str]:
    """Describes each kind of collective."""
    yield f"mesh of {mesh}:"
    for name in sorted({each.name for each in found}):
        same = [each for each in found if each.name == name]
        arrays = sum(len(each.shapes) for each in same)
        megabytes = sum(each.bytes for each in same) / 1e6
        yield f"  {len(same)} {name} of {arrays} arrays, {megabytes:,.1f} MB"


def describe_weak(size: int) -> Iterator[str]:
    """Describes weak scaling: a constant number of images for each device."""
    yield f"gradients: {size / 1e6:,.0f} MB of float32. Simulated, no row was measured:"
    for part in (H100, V5E):
        yield f"  {part.name}: {part.source}"
    for link in (NVLINK, INFINIBAND, TORUS):
        yield f"  {link.name}: {link.gigabytes_per_s:g} GB/s, {link.latency_ms:g} ms, {link.source}"
    yield ""
    yield "| devices | images each | step | all-reduce | efficiency, nothing hidden | 80 % hidden |"
    yield "|---|---|---|---|---|---|"
    for row in WEAK:
        alone, reduce, bare, hidden = row.times(size)
        yield (
            f"| {row.devices} {row.device.name}, {row.link.name} | {row.images:g} | {alone:.1f} ms "
            f"| {reduce:.2f} ms | {bare:.3f} | {hidden:.3f} |"
        )


def describe_strong(size: int) -> Iterator[str]:
    """Describes strong scaling: the paper's batch of 128 over more devices."""
    yield (
        f"MPII's {IMAGES:,} images in batches of {BATCH}, {RUN_STEPS:,} steps, simulated with "
        "80 % of the all-reduce hidden:"
    )
    yield ""
    yield "| H100s | images each | step | epoch | run | cost, one is 1 |"
    yield "|---|---|---|---|---|---|"
    last = 1
    for devices, step_ms in strong_steps(size):
        run_min = step_ms * RUN_STEPS / 60e3
        cost = devices * step_ms / H100.step_ms(BATCH)
        epoch_s = step_ms * IMAGES / BATCH / 1e3
        yield (
            f"| {devices} | {BATCH // devices} | {step_ms:.1f} ms | {epoch_s:.1f} s "
            f"| {run_min:.1f} min | {cost:.2f} |"
        )
        if cost <= 2:
            last = devices
    yield ""
    yield (
        f"Beyond {last} devices more than half of what is paid for is waiting or what each step "
        f"costs at any size. Beyond {BATCH // 16} batch norm's groups of 16 images span devices, "
        "and their statistics have to be gathered on the way forward."
    )


def strong_steps(size: int) -> Iterator[tuple[int, float]]:
    """Yields numbers of devices, and the milliseconds of a step that divides the batch."""
    devices = 1
    while devices <= BATCH // 2:
        link = NVLINK if devices <= IN_HOST else INFINIBAND
        reduce = EXPOSED * link.all_reduce_ms(size, devices)
        yield devices, H100.step_ms(BATCH / devices) + reduce
        devices *= 2


def _describe() -> str:
    return (
        f"Python {platform.python_version()}, jax {jax.__version__}, {jax.device_count()} devices"
    )
