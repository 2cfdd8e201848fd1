"""Writes a report: compares the runs, computes maps and fills the page.

Scores are of each run's last evaluation, maps of its latest checkpoint: no step is chosen by score.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite, ConfigError
from data_pipelines.datasets.drawn import DRAWN_DATA
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.page import Thumbnail, embed, fill_template
from gap_jax.evaluation import evaluate
from gap_jax.learning.length import count_evaluated, count_scored
from gap_jax.prediction.attention import LOWEST_JOINT_PEAK
from gap_jax.report import gallery, label_errors, maps, measure, tables
from gap_jax.report.comparison import Comparison, Method, compare
from gap_jax.report.confusions import Confusion, build_matrices, find_confusions
from gap_jax.report.curves import FRAME, draw_chart
from gap_jax.report.images import EvaluatedImages, open_images
from gap_jax.report.label_errors import LabelErrors
from gap_jax.report.runs import ReportedRun, read_runs
from gap_jax.saved.model import open_model

LOSS = "train/loss_action"
TEMPLATE = "report.html"


def default_path(roots: Sequence[Path]) -> Path:
    """Returns the default path of a report: in its only run, or beside the first of several."""
    first = roots[0].absolute()
    return (first if len(roots) == 1 else first.parent) / "report.html"


def write_report(roots: Sequence[Path], out: Path, data: Path | None = None) -> Comparison:
    """Compares runs on one page at `out`; `data` is the folder of their images, if it moved.

    Likely label errors are listed in a CSV file beside it.
    """
    runs = read_runs(roots)
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        is_folder = out.is_dir()
    if is_folder:
        raise CannotWrite(f"{out} is a folder; name a file with --out FILE.html")
    for run in runs:
        if run.cfg.model.frames > 1:
            raise ConfigError(
                f"{run.root} takes clips of {run.cfg.model.frames} frames, whose maps no page "
                "shows; score it with gap_jax evaluate, or runs on several splits with --mean"
            )
    images = open_images(runs[0], data)
    comparison = compare(runs)
    template = resources.files("gap_jax.report").joinpath(TEMPLATE).read_text("utf-8")
    found = label_errors.find_label_errors(comparison.methods[-1].runs)
    page = _build_page(comparison, images, found)
    html = fill_template(
        TEMPLATE, {TEMPLATE: template}, page=page, frame=FRAME, unknown=tables.UNKNOWN
    )
    files.write_atomically(out, html)
    label_errors.write_csv(out, found, runs[0].classes, images)
    return comparison


def _build_page(
    comparison: Comparison, images: EvaluatedImages, found: LabelErrors
) -> Mapping[str, Any]:
    """Returns the contents of report.html."""
    methods = comparison.methods
    runs = [run for method in methods for run in method.runs]
    shown_run = methods[-1].runs[0]
    names = [method.name for method in methods]
    split = shown_run.cfg.data.scored_split
    hits, misses = gallery.choose(shown_run, len(methods))
    chosen = [*hits, *misses]
    stored = [images.record(row) for row in chosen]
    masks = measure.mask_file(images.folder)
    is_measured = images.data.name == "people" and masks.exists()
    predictions, attention, steps = _compute_maps(methods, images, chosen, is_measured=is_measured)
    charts = [
        draw_chart("Training loss (cross-entropy)", LOSS, methods),
        draw_chart(f"mAP on {split}, %", f"{split}/mAP", methods, scale=100.0),
    ]
    return {
        "title": "Comparison of runs" if len(methods) > 1 else names[0],
        "lead": describe_data(comparison, images.data, split),
        "warnings": list_warnings(comparison, images.data, steps),
        "methods": names,
        "has_seeds": len(runs) > len(methods),
        "protocol": evaluate.Protocol.of(shown_run.cfg),
        "results": tables.list_results(comparison),
        "differences": tables.list_differences(comparison),
        "charts": [chart for chart in charts if chart],
        "classes": tables.list_classes(methods),
        "mistakes": [
            (pair, [_show_example(row, pair, shown_run, images) for row in pair.examples])
            for pair in find_confusions(methods)
        ],
        "matrices": [tables.list_confusions(each) for each in build_matrices(methods)],
        "label_errors": found,
        "label_error_table": label_errors.name_errors(found, shown_run.classes, images),
        "most_label_errors": label_errors.MOST_SHOWN,
        "csv_suffix": label_errors.CSV_SUFFIX,
        "images": images,
        "mask_file": masks.name,
        "measured_images": next((each.images for each in attention.values()), 0),
        "attention": tables.list_attention(attention),
        "gallery": gallery.build_gallery(names, predictions, stored, shown_run.classes),
        "hits": len(hits),
        "misses": len(misses),
        "gallery_run": shown_run,
        "lowest_joint_peak": LOWEST_JOINT_PEAK,
        "settings": tables.list_settings(methods),
        "environments": tables.list_environments(runs),
    }


def describe_data(comparison: Comparison, data: Manifest, split: str) -> str:
    """Describes the evaluated data."""
    counts_all = evaluate.Protocol.of(comparison.methods[0].runs[0].cfg).counts_unlabelled
    text = (
        f"{data.name} (fingerprint {data.fingerprint}), split {split}: {comparison.images:,} "
        f"{'' if counts_all else 'labelled '}images of {len(data.classes):,} classes."
    )
    if data.name in DRAWN_DATA:
        text += " Drawn, synthetic pictures: not to be compared with the papers\u2019 MPII figures."
    if comparison.skipped:
        text += f" {comparison.skipped}."
    return text


def list_warnings(
    comparison: Comparison, data: Manifest, saved_steps: Mapping[Path, int]
) -> list[str]:
    """Lists reasons to distrust the numbers."""
    runs = [run for method in comparison.methods for run in method.runs]
    found = [
        f"{run.root} has not ended: its scores are of step {run.step:,} of {run.cfg.train.steps:,}"
        for run in runs
        if not run.has_ended
    ]
    if len({run.step for run in runs}) > 1:
        found.append("The runs were evaluated after different numbers of steps")
    found += [
        f"{run.root} was trained on {run.cfg.data.train_split}, which holds evaluated images: its "
        "scores are not those of other images"
        for run in runs
        if run.cfg.data.scores_trained
    ]
    if any(count_scored(run.cfg, data) < count_evaluated(run.cfg, data) for run in runs):
        found.append("The evaluations leave images of the split out (eval.max_examples)")
    found += [
        f"{run.root} was evaluated at step {run.step:,} and its maps are of checkpoint {step:,}"
        for run in runs
        if (step := saved_steps.get(run.root, run.step)) != run.step
    ]
    return found


def _show_example(
    row: int, pair: Confusion, run: ReportedRun, images: EvaluatedImages
) -> Thumbnail:
    alt = f"{pair.truth}, taken for {pair.predicted}"
    return embed(images.crop(run, row), alt=alt, caption=str(images.record(row)["id"]))


def _compute_maps(
    methods: Sequence[Method],
    images: EvaluatedImages,
    chosen: Sequence[int],
    *,
    is_measured: bool,
) -> tuple[list[maps.Predictions], dict[str, measure.Attention], dict[Path, int]]:
    """Returns each method's predictions for the gallery, its attention, and each run's step.

    Applies one model after the other to every image, or only to those of the gallery.
    """
    predictions: list[maps.Predictions] = []
    attention: dict[str, measure.Attention] = {}
    steps: dict[Path, int] = {}
    for method in methods:
        bottom_up = []
        for run in method.runs if is_measured else method.runs[:1]:
            opened = open_model(run.root, checkpoint="latest")
            opened.check_data(images.data)
            steps[run.root] = opened.origin.step
            rows = range(len(images.positions)) if is_measured else chosen
            positions = [images.positions[row] for row in rows]
            found = maps.predict(opened.model, opened.variables, images.rows_of(run), positions)
            if run is method.runs[0]:
                predictions.append(found.take(chosen) if is_measured else found)
            bottom_up.append(found.bottom_up)
        if is_measured:
            cfg, grid = images.config_of(method.runs[0]), predictions[-1].grid
            masks = measure.load_masks(cfg, images.source, images.positions)
            training = records.open_split(images.folder, cfg.train_split, images.data)
            prior = measure.fit_prior(measure.training_joints(cfg, training), grid)
            attention[method.name] = measure.measure(bottom_up, grid, masks, prior)
    return predictions, attention, steps
