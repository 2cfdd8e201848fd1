"""Writes the report: opens the runs and their data, compares, looks, measures, fills the page.

Scores are those of each run's last evaluation and maps those of its latest checkpoint: one budget
for all, and no step chosen for what it scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import files, records
from data_pipelines.pictures.page import embed
from gap_jax.errors import CannotWrite
from gap_jax.explain.artefact import open_model
from gap_jax.explain.report import gallery, measure, notes, tables
from gap_jax.explain.report.album import Album, open_album
from gap_jax.explain.report.comparison import Comparison, Method, compare
from gap_jax.explain.report.confusions import find_confusions
from gap_jax.explain.report.curves import draw_chart
from gap_jax.explain.report.looking import Look, look
from gap_jax.explain.report.page import Mistake, Page, render
from gap_jax.explain.report.runs import Run, read_runs
from gap_jax.models.cells import Grid

LOSS = "train/loss_action"


class Seen(NamedTuple):
    """What the models look at: `looks` at the gallery's images, one of each method.

    `steps` are those of the checkpoints that were opened.
    """

    looks: list[Look]
    attention: dict[str, measure.Attention]
    steps: dict[Path, int]


def place_of(roots: Sequence[Path]) -> Path:
    """Where a report goes that nobody placed: into its only run, or beside its first one."""
    first = roots[0].absolute()
    return (first if len(roots) == 1 else first.parent) / "report.html"


def write_report(roots: Sequence[Path], out: Path, data: Path | None = None) -> Comparison:
    """Compares runs on one page at `out`; `data` is where their images lie, if they have moved."""
    runs = read_runs(roots)
    with files.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        is_folder = out.is_dir()
    if is_folder:
        raise CannotWrite(f"{out} is a folder; name a file with --out FILE.html")
    album = open_album(runs[0], data)
    comparison = compare(runs)
    files.write_atomically(out, render(_fill(comparison, album)))
    return comparison


def _fill(comparison: Comparison, album: Album) -> Page:
    methods = comparison.methods
    judge = methods[-1]
    runs = [run for method in methods for run in method.runs]
    hits, misses = gallery.choose(judge.runs[0], len(methods))
    absence = _why_not_measured(album)
    seen = _see(methods, album, [*hits, *misses], is_measured=not absence)
    shown = _show(methods, album, seen.looks, [*hits, *misses], len(hits))
    charts = [
        draw_chart("Training loss (cross-entropy)", LOSS, methods),
        draw_chart(f"mAP on {album.split}, %", f"{album.split}/mAP", methods, scale=100.0),
    ]
    pairs = find_confusions(methods)
    return Page(
        title="What the runs learned" if len(methods) > 1 else judge.name,
        lead=notes.lead(comparison, album.data, album.split),
        warnings=notes.warn(comparison, seen.steps),
        methods=[method.name for method in methods],
        results=tables.list_results(comparison),
        results_note=notes.on_results(methods),
        differences=tables.list_differences(comparison) if comparison.differences else None,
        differences_note=notes.on_differences(comparison),
        charts=[chart for chart in charts if chart],
        classes=tables.list_classes(methods, album.data.splits[album.split]),
        mistakes=[
            Mistake(
                f"{pair.truth} taken for {pair.taken_for}",
                ", ".join(
                    f"{method.name}: {count:.3g}"
                    for method, count in zip(methods, pair.counts, strict=True)
                ),
                [
                    embed(
                        album.crop(judge.runs[0], row),
                        alt=f"{pair.truth}, taken for {pair.taken_for}",
                        caption=str(album.record(row)["id"]),
                    )
                    for row in pair.examples
                ],
            )
            for pair in pairs
        ],
        mistakes_note=notes.on_confusions(methods, pairs),
        attention=tables.list_attention(seen.attention) if seen.attention else None,
        attention_note=absence or notes.on_attention(seen.attention),
        gallery=shown,
        gallery_note=notes.on_gallery(shown, judge),
        settings=[tables.list_settings(methods, shared=shared) for shared in (False, True)],
        environments=[tables.list_environments(runs, shared=shared) for shared in (True, False)],
    )


def _why_not_measured(album: Album) -> str:
    """Empty where there are masks to measure attention by."""
    if album.data.name == "people" and measure.mask_file(album.folder).exists():
        return ""
    return (
        f"Not measured: {album.data.name} in {album.folder} has no masks of who acts and with "
        f"what ({measure.mask_file(album.folder).name}); drawn people have them."
    )


def _see(
    methods: Sequence[Method], album: Album, chosen: Sequence[int], *, is_measured: bool
) -> Seen:
    """Opens one model after the other: each looks at every image, or at the gallery's only."""
    seen = Seen([], {}, {})
    for method in methods:
        bottom_up = []
        for run in method.runs if is_measured else method.runs[:1]:
            opened = open_model(run.root, checkpoint="latest")
            opened.check_data(album.data)
            seen.steps[run.root] = opened.origin.step
            rows = range(len(album.places)) if is_measured else chosen
            places = [album.places[row] for row in rows]
            found = look(opened.model, opened.variables, album.rows_of(run), places)
            if run is method.runs[0]:
                seen.looks.append(found.take(chosen) if is_measured else found)
            bottom_up.append(found.bottom_up)
        if is_measured:
            seen.attention[method.name] = _measure(
                method.runs[0], album, bottom_up, seen.looks[-1].grid
            )
    return seen


def _measure(
    run: Run, album: Album, bottom_up: Sequence[measure.Maps], grid: Grid
) -> measure.Attention:
    cfg = album.config_of(run)
    masks = measure.load_masks(cfg, album.source, album.places)
    training = records.open_split(album.folder, cfg.train_split, album.data)
    joints = measure.training_joints(cfg, training)
    return measure.measure(bottom_up, grid, masks, measure.fit_prior(joints, grid))


def _show(
    methods: Sequence[Method],
    album: Album,
    looks: Sequence[Look],
    chosen: Sequence[int],
    hits: int,
) -> gallery.Gallery:
    stored = [album.record(row) for row in chosen]
    return gallery.build_gallery(
        [method.name for method in methods],
        looks,
        [record["label"] for record in stored],
        [record["id"] for record in stored],
        methods[0].runs[0].classes,
        hits=hits,
    )
