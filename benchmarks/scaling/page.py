"""What more devices would bring: collectives that are there, and times worked out from them.

No time here is measured but the step of one device. A ring of n devices passes 2 (n - 1) / n times
the gradients' bytes through each link, and waits once for the link. Hosts of eight add up inside
first; then each device passes its eighth on to its like in the other hosts.
"""

import platform
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from benchmarks.scaling.collectives import Collective, compile_step
from configs.gap_pose import get_config
from gap_jax.config import Config

MOST_ALL_REDUCES = 3  # of a data-parallel step: gradients, statistics and metrics merged
MERGED_ARRAYS = 256  # XLA's combiner begins another collective beyond these
EXPOSED = 0.2  # the share of an all-reduce that computing does not hide
IN_HOST = 8
IMAGES, RUN_STEPS, BATCH = 8_219, 12_000, 128  # MPII's training split, and the paper's run


class Device(NamedTuple):
    """A device's step of b images takes `fixed_ms` + b `image_ms`."""

    name: str
    fixed_ms: float
    image_ms: float
    source: str

    def step_ms(self, images: float) -> float:
        """A training step without any other device."""
        return self.fixed_ms + images * self.image_ms


class Link(NamedTuple):
    """How fast a device passes bytes on, and what each all-reduce waits for besides."""

    name: str
    gigabytes_per_s: float
    latency_ms: float
    source: str

    def all_reduce_ms(self, size: int, devices: int) -> float:
        """Of so many bytes over a ring of so many devices, or of hosts with so many in all."""
        if devices == 1:
            return 0.0
        if self is INFINIBAND:
            hosts = devices // IN_HOST
            return NVLINK.all_reduce_ms(size, IN_HOST) + self.ring_ms(size / IN_HOST, hosts)
        return self.ring_ms(size, devices)

    def ring_ms(self, size: float, members: int) -> float:
        """Of one ring."""
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
    """So many devices with so many images each; milliseconds."""

    device: Device
    link: Link
    devices: int
    images: float

    def times(self, size: int) -> tuple[float, float, float, float]:
        """Of computing, of the all-reduce, and the efficiency if none or most of it is hidden."""
        alone = self.device.step_ms(self.images)
        reduce = self.link.all_reduce_ms(size, self.devices)
        return alone, reduce, alone / (alone + reduce), alone / (alone + EXPOSED * reduce)


WEAK = (
    Row(H100, NVLINK, 8, 16), Row(H100, NVLINK, 8, 64),
    *(Row(H100, INFINIBAND, 8 * nodes, 16) for nodes in (2, 4, 8)),
    Row(H100, INFINIBAND, 64, 64), Row(V5E, TORUS, 256, 16),
)  # fmt: skip


def measure(*, full: bool) -> tuple[str, list[str]]:
    """The page, and what is wrong with the data-parallel step."""
    lines, faults, size = [_describe(), ""], list[str](), 0
    for fsdp in (1, 2):
        setup, found = compile_step(configure(fsdp, full=full))
        leaves = jax.tree.leaves(setup.target.variables.params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        lines += tell_collectives(f"data {setup.mesh.shape['data']} x fsdp {fsdp}", found)
        if fsdp == 1:
            faults = judge(found)
    lines += ["", *tell_weak(size), "", *tell_strong(size)]
    return "\n".join(lines), faults


def configure(fsdp: int, *, full: bool) -> Config:
    """The paper's run on eight devices of 16 images, or the demo's small network."""
    cfg = get_config("gap_pose" if full else "demo")
    cfg.mesh.fsdp, cfg.train.accumulate = fsdp, 1
    cfg.train.batch_size = BATCH
    return cfg.resolved()


def judge(found: Sequence[Collective]) -> list[str]:
    """What data parallelism should not have: anything but few, merged all-reduces."""
    arrays = sum(len(each.shapes) for each in found)
    allowed = MOST_ALL_REDUCES + (arrays - 1) // MERGED_ARRAYS
    faults = [f"a {each.name} from {each.source}" for each in found if each.name != "all-reduce"]
    if len(found) > allowed:
        faults.append(f"{len(found)} collectives where {allowed} would do")
    return faults


def tell_collectives(mesh: str, found: Sequence[Collective]) -> Iterator[str]:
    """A line for each kind."""
    yield f"mesh of {mesh}:"
    for name in sorted({each.name for each in found}):
        same = [each for each in found if each.name == name]
        arrays = sum(len(each.shapes) for each in same)
        megabytes = sum(each.bytes for each in same) / 1e6
        yield f"  {len(same)} {name} of {arrays} arrays, {megabytes:,.1f} MB"


def tell_weak(size: int) -> Iterator[str]:
    """As many images for each device, however many there are."""
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


def tell_strong(size: int) -> Iterator[str]:
    """The paper's batch of 128, cut finer and finer."""
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
    """Devices, and milliseconds of a step that shares the batch among them."""
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
