"""Describes the data of a report and warns of its limits."""

from collections.abc import Mapping
from pathlib import Path

from data_pipelines.manifest import Manifest
from gap_jax.evaluation.evaluate import Protocol
from gap_jax.report.comparison import Comparison

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
