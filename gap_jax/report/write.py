"""Writes a report: reads runs and data, compares methods, computes maps and fills the page.

Scores are those of each run's last evaluation and maps those of its latest checkpoint, so that no
step is chosen by its score.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.core import files
from data_pipelines.core.errors import CannotWrite
from data_pipelines.pictures.page import embed, fill_template
from gap_jax.evaluation import evaluate
from gap_jax.models.cells import Grid
from gap_jax.report import gallery, maps, measure, notes, tables
from gap_jax.report.comparison import Comparison, Method, compare
from gap_jax.report.confusions import Confusion, find_confusions
from gap_jax.report.curves import FRAME, draw_chart
from gap_jax.report.images import EvaluatedImages, open_images
from gap_jax.report.runs import ReportedRun, read_runs
from gap_jax.saved.model import open_model

LOSS = "train/loss_action"
TEMPLATE = "report.html"


def default_path(roots: Sequence[Path]) -> Path:
    """Returns the default path of a report: in its only run, or beside the first of several."""
    first = roots[0].absolute()
    return (first if len(roots) == 1 else first.parent) / "report.html"


def write_report(roots: Sequence[Path], out: Path, data: Path | None = None) -> Comparison:
    """Compares runs on one page at `out`; `data` is the folder of their images, if it moved."""
    runs = read_runs(roots)
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        is_folder = out.is_dir()
    if is_folder:
        raise CannotWrite(f"{out} is a folder; name a file with --out FILE.html")
    images = open_images(runs[0], data)
    comparison = compare(runs)
    template = resources.files("gap_jax.report").joinpath(TEMPLATE).read_text("utf-8")
    page = _build_page(comparison, images)
    html = fill_template(TEMPLATE, {TEMPLATE: template}, page=page, frame=FRAME)
    files.write_atomically(out, html)
    return comparison


def _build_page(comparison: Comparison, images: EvaluatedImages) -> Mapping[str, Any]:
    """Returns the contents of report.html."""
    methods, split = comparison.methods, images.split
    last = methods[-1]
    runs = [run for method in methods for run in method.runs]
    hits, misses = gallery.choose(last.runs[0], len(methods))
    chosen = [*hits, *misses]
    absence = _explain_missing_masks(images)
    predictions, attention, steps = _compute_maps(methods, images, chosen, is_measured=not absence)
    stored = [images.record(row) for row in chosen]
    shown = gallery.build_gallery(
        [method.name for method in methods],
        predictions,
        [record["label"] for record in stored],
        [record["id"] for record in stored],
        runs[0].classes,
        hits=len(hits),
    )
    charts = [
        draw_chart("Training loss (cross-entropy)", LOSS, methods),
        draw_chart(f"mAP on {split}, %", f"{split}/mAP", methods, scale=100.0),
    ]
    pairs = find_confusions(methods)
    return {
        "title": "Comparison of runs" if len(methods) > 1 else last.name,
        "lead": notes.describe_data(comparison, images.data, split),
        "warnings": notes.list_warnings(comparison, steps),
        "methods": [method.name for method in methods],
        "has_seeds": any(len(method.runs) > 1 for method in methods),
        "protocol": evaluate.Protocol.of(runs[0].cfg),
        "results": tables.list_results(comparison),
        "differences": tables.list_differences(comparison),
        "charts": [chart for chart in charts if chart],
        "classes": tables.list_classes(methods, images.data.splits[split]),
        "mistakes": [_show_mistake(pair, methods, images) for pair in pairs],
        "mistakes_note": notes.explain_confusions(methods, pairs),
        "not_measured": absence,
        "measured_images": next(iter(attention.values())).images if attention else 0,
        "attention": tables.list_attention(attention),
        "gallery": shown,
        "gallery_run": last.runs[0].root.absolute().name,
        "lowest_joint_peak": maps.LOWEST_JOINT_PEAK,
        "has_pairs": last.runs[0].cfg.model.rank > 1,
        "settings": [tables.list_settings(methods, shared=shared) for shared in (False, True)],
        "environments": [tables.list_environments(runs, shared=shared) for shared in (True, False)],
    }


def _show_mistake(
    pair: Confusion, methods: Sequence[Method], images: EvaluatedImages
) -> Mapping[str, Any]:
    counts = zip(methods, pair.counts, strict=True)
    return {
        "title": f"{pair.truth} taken for {pair.predicted}",
        "counts": ", ".join(f"{method.name}: {count:.3g}" for method, count in counts),
        "pictures": [
            embed(
                images.crop(methods[-1].runs[0], row),
                alt=f"{pair.truth}, taken for {pair.predicted}",
                caption=str(images.record(row)["id"]),
            )
            for row in pair.examples
        ],
    }


def _explain_missing_masks(images: EvaluatedImages) -> str:
    """Returns an empty text if there are masks to measure attention with."""
    masks = measure.mask_file(images.folder)
    if images.data.name == "people" and masks.exists():
        return ""
    return (
        f"Not measured: {images.data.name} in {images.folder} has no masks of actors and objects "
        f"({masks.name}); drawn people have them."
    )


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
            attention[method.name] = _measure(
                method.runs[0], images, bottom_up, predictions[-1].grid
            )
    return predictions, attention, steps


def _measure(
    run: ReportedRun, images: EvaluatedImages, bottom_up: Sequence[measure.Maps], grid: Grid
) -> measure.Attention:
    cfg = images.config_of(run)
    masks = measure.load_masks(cfg, images.source, images.positions)
    training = records.open_split(images.folder, cfg.train_split, images.data)
    joints = measure.training_joints(cfg, training)
    return measure.measure(bottom_up, grid, masks, measure.fit_prior(joints, grid))
