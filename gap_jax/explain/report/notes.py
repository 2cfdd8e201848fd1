"""The small print of a report: how its numbers were made, and what they do not say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.manifest import Manifest
from gap_jax.evaluation.evaluate import Protocol
from gap_jax.explain.report.comparison import Comparison, Method
from gap_jax.explain.report.confusions import Confusion
from gap_jax.explain.report.gallery import Gallery
from gap_jax.explain.report.looking import JOINT_SHOWN
from gap_jax.explain.report.measure import Attention

DRAWN = ("people", "objects")


def lead(comparison: Comparison, data: Manifest, split: str) -> str:
    """What was evaluated."""
    counts_all = Protocol.of(comparison.methods[0].runs[0].cfg).counts_unlabelled
    text = (
        f"{data.name} (fingerprint {data.fingerprint}), split {split}: {comparison.images:,} "
        f"{'' if counts_all else 'labelled '}images of {len(data.classes):,} classes."
    )
    if data.name in DRAWN:
        text += " Drawn, synthetic pictures: not to be compared with the papers\u2019 MPII figures."
    if comparison.skipped:
        text += f" {comparison.skipped}."
    return text


def warn(comparison: Comparison, saved_steps: Mapping[Path, int]) -> list[str]:
    """What a reader has to know before believing a number."""
    runs = [run for method in comparison.methods for run in method.runs]
    found = [
        f"{run.root} has not ended: its numbers are of step {run.step:,} of {run.cfg.train.steps:,}"
        for run in runs
        if not run.has_ended
    ]
    if len({run.step for run in runs}) > 1:
        found.append("The runs were evaluated after different numbers of steps")
    if any(run.cfg.eval.max_examples for run in runs):
        found.append("The evaluations leave images of the split out (eval.max_examples)")
    found += [
        f"{run.root} was evaluated at step {run.step:,} and its maps are of checkpoint {step:,}"
        for run in runs
        if (step := saved_steps.get(run.root, run.step)) != run.step
    ]
    return found


def on_results(methods: Sequence[Method]) -> str:
    """How mAP is made, and what the intervals cover."""
    protocol = Protocol.of(methods[0].runs[0].cfg)
    text = (
        f"mAP: average precision by the rule {protocol.rule}, images ranked by {protocol.ranking}, "
        f"on the view {protocol.views}. "
        "Each run\u2019s last evaluation, whatever it scored; the highest of all its evaluations "
        "was chosen on these images and flatters the run. Intervals hold 95 % of what test sets of "
        "this size, drawn anew, would give (1,000 resamples of the images). They often miss the "
        "mAP of all images there could be, which a small test set overstates (docs/method.md). "
    )
    if all(len(method.runs) == 1 for method in methods):
        return text + "How far other seeds would move a number, one run each cannot tell."
    return text + (
        "Runs that differ in their seed alone are one row: the mean over seeds, its interval over "
        "images, and how the seeds spread."
    )


def on_differences(comparison: Comparison) -> str:
    """How a difference is to be read."""
    count = len(comparison.differences)
    text = "Both methods on the same resampled images, so that what is hard for both cancels."
    if count > 1:
        text += f" With {count} pairs, about one interval in twenty leaves 0 out by chance alone."
    return text


def on_confusions(methods: Sequence[Method], pairs: Sequence[Confusion]) -> str:
    """What is counted."""
    if not pairs:
        return "There is none to show: no image has another class on top, or images have several."
    text = "The pairs that are taken for each other most often, with images counted"
    if any(len(method.runs) > 1 for method in methods):
        text += " on the mean of the seeds"
    return text + "; shown are those that most runs confuse first."


def on_attention(found: Mapping[str, Attention]) -> str:
    """What is measured, and against what."""
    images = next(iter(found.values())).images
    return (
        f"The share of |h - median(h)|, summed over the crop, that lies on the person who acts and "
        f"on what they hold: the mean of {images:,} images whose masks reach into the crop, with "
        "masks that went through the same resize and crop as the image. A uniform map has the "
        "masks\u2019 share of the area; the centre prior is where the joints of the training "
        "images lie, whatever the image. Differences are paired, image by image. The maps are of "
        "the latest checkpoint; with several seeds, shares are averaged over them."
    )


def on_gallery(shown: Gallery, judge: Method) -> str:
    """How the images were chosen and what the panels are."""
    text = (
        f"{shown.hits} images that {judge.name} ({judge.runs[0].root.absolute().name}) gets right, "
        f"then {shown.misses} that it gets wrong: drawn at random with a fixed seed. Maps are of "
        "the class that the method names, each cell at the centre of what it sees and bilinear "
        "between. "
        "Only the product of h and the top-down map has a meaning, so h has the sign that makes "
        "its largest values positive. All maps share one scale, on which 1 is the size that "
        "99.5 % of a method\u2019s cells in these images stay below, for each kind of map. "
        f"Joints: the highest peak of each heatmap, if above {JOINT_SHOWN:g}; where several people "
        "stand they need not be of one."
    )
    if judge.runs[0].cfg.model.rank > 1:
        text += " h and the top-down map are those of the first pair; combined sums all pairs."
    return text
