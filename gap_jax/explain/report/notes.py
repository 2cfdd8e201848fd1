"""Writes the notes of a report: the origin of its numbers and their limits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.manifest import Manifest
from gap_jax.evaluation.evaluate import Protocol
from gap_jax.explain.report.comparison import Comparison, Method
from gap_jax.explain.report.confusions import Confusion
from gap_jax.explain.report.gallery import Gallery
from gap_jax.explain.report.maps import LOWEST_JOINT_PEAK
from gap_jax.explain.report.measure import Attention

SYNTHETIC_DATA = ("people", "objects")


def describe_data(comparison: Comparison, data: Manifest, split: str) -> str:
    """Describes the evaluated data."""
    counts_all = Protocol.of(comparison.methods[0].runs[0].cfg).counts_unlabelled
    text = (
        f"{data.name} (fingerprint {data.fingerprint}), split {split}: {comparison.images:,} "
        f"{'' if counts_all else 'labelled '}images of {len(data.classes):,} classes."
    )
    if data.name in SYNTHETIC_DATA:
        text += " Drawn, synthetic pictures: not to be compared with the papers\u2019 MPII figures."
    if comparison.skipped:
        text += f" {comparison.skipped}."
    return text


def list_warnings(comparison: Comparison, saved_steps: Mapping[Path, int]) -> list[str]:
    """Lists reasons to distrust the numbers."""
    runs = [run for method in comparison.methods for run in method.runs]
    found = [
        f"{run.root} has not ended: its scores are of step {run.step:,} of {run.cfg.train.steps:,}"
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


def explain_results(methods: Sequence[Method]) -> str:
    """Explains how mAP is computed and what the intervals cover."""
    protocol = Protocol.of(methods[0].runs[0].cfg)
    text = (
        f"mAP: average precision by the rule {protocol.rule}, images ranked by {protocol.ranking}, "
        f"on the view {protocol.views}. "
        "Scores are of each run\u2019s last evaluation; the highest of all evaluations was chosen "
        "on these images and is biased upwards. An interval covers 95 % of the scores of other "
        "test sets of this size (1,000 bootstrap resamples of the images). It often misses the "
        "mAP of the whole population, which a small test set overestimates (docs/method.md). "
    )
    if all(len(method.runs) == 1 for method in methods):
        return text + "One run of each method does not show the variation between seeds."
    return text + (
        "Runs that differ in their seed only share a row: the mean over seeds, its interval over "
        "images, and the standard deviation over seeds."
    )


def explain_differences(comparison: Comparison) -> str:
    """Explains the paired differences."""
    count = len(comparison.differences)
    text = "Both methods are scored on the same resampled images, so that difficult images cancel."
    if count > 1:
        text += f" With {count} pairs, about one interval in twenty excludes 0 by chance alone."
    return text


def explain_confusions(methods: Sequence[Method], pairs: Sequence[Confusion]) -> str:
    """Explains the counts of the confusions."""
    if not pairs:
        return "None: every image is classified correctly, or images have several labels."
    text = "The most frequent confusions, with the number of images"
    if any(len(method.runs) > 1 for method in methods):
        text += ", averaged over the seeds"
    return text + "; images that most runs confuse come first."


def explain_attention(found: Mapping[str, Attention]) -> str:
    """Explains the measure of attention and its two baselines."""
    images = next(iter(found.values())).images
    return (
        f"The share of |h - median(h)|, summed over the crop, on the actor and on the object that "
        f"the actor holds: the mean of {images:,} images whose masks reach into the crop. Masks "
        "are resized and cropped like the images. The share of a uniform map is the masks\u2019 "
        "share of the area; the centre prior is the distribution of the joints in the training "
        "images. Differences are paired by image. The maps are of the latest checkpoint; shares "
        "are averaged over the seeds."
    )


def explain_gallery(shown: Gallery, method: Method) -> str:
    """Explains the choice of the images and the panels."""
    name = method.runs[0].root.absolute().name
    text = (
        f"{shown.hits} images that {method.name} ({name}) gets right, "
        f"then {shown.misses} that it gets wrong: drawn at random with a fixed seed. Maps are of "
        "the predicted class; a cell stands at the centre of its receptive field, with bilinear "
        "interpolation between cells. "
        "Only the product of h and the top-down map is determined, so h has the sign that makes "
        "its largest values positive. On the shared colour scale 1 is the absolute value that "
        "99.5 % of a method\u2019s cells in these images stay below, for each kind of map. "
        f"Joints: the highest peak of each heatmap, if above {LOWEST_JOINT_PEAK:g}; with several "
        "people in the image they may belong to different persons."
    )
    if method.runs[0].cfg.model.rank > 1:
        text += " h and the top-down map are those of the first pair; combined sums all pairs."
    return text
