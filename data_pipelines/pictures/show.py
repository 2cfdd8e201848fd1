"""Shows the batches of a config beside the stored images they were made from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines import decode, loader, manifest, records
from data_pipelines.config import DataConfig
from data_pipelines.core import files
from data_pipelines.example import PADDING_ID, HostBatch
from data_pipelines.manifest import Manifest
from data_pipelines.pictures.drawing import count_not_known, label_text
from data_pipelines.pictures.page import Figure, Gallery, Page, fill_template, thumbnail
from data_pipelines.transforms import NO_BOXES, View


def show(
    data: DataConfig, *, seed: int, batch_size: int, html: Path, log: Callable[[str], None] = print
) -> None:
    """Writes a page of training batch 0 of `seed` and of the first evaluation batch.

    Evaluation images are shown as their centre crops, whatever `data.eval_crops` is, and videos by
    their middle frame.
    """
    stated = manifest.load(data.directory)
    centre = dataclasses.replace(data, eval_crops="center", eval_flip=False, eval_frames=1)
    both: dict[str, Any] = {"batch_size": batch_size, "with_people": stated.has_boxes}
    with loader.training_batches(data, stated, seed=seed, **both) as batches:
        training = next(batches)
    with loader.evaluation_batches(centre, stated, **both) as batches:
        evaluation = next(batches)
    page = Page(
        title=f"{stated.name}: input of a model",
        lead=f"The first training batch of seed {seed} and the first evaluation batch, "
        f"{batch_size} images each, from {data.directory} (fingerprint {stated.fingerprint})",
        galleries=[
            _make_gallery("Training batch", data.train_split, training, data, stated),
            _make_gallery("Evaluation batch", data.eval_split, evaluation, data, stated),
        ],
        facts_heading="Settings",
        facts=[(f"data.{name}", str(value)) for name, value in dataclasses.asdict(data).items()],
    )
    files.write_atomically(html, fill_template(page=page))
    log(f"batches: {html}")


def _make_gallery(
    heading: str, split: str, batch: HostBatch, data: DataConfig, stated: Manifest
) -> Gallery:
    stored = records.open_split(data.directory, split, stated)
    rows = [row for row in range(len(batch.id)) if batch.id[row] != PADDING_ID]
    padding = len(batch.id) - len(rows)
    note = f"Split {split}. Left: as stored. Right: the crop; its circle has a disc target's size."
    if padding:
        note += f" {padding} more rows are padding."
    figures = [_make_figure(batch, row, stored[int(batch.id[row])], stated) for row in rows]
    return Gallery(heading, note, figures, wide=True)


def _make_figure(batch: HostBatch, row: int, record: records.Record, stated: Manifest) -> Figure:
    label = label_text(record["label"], stated.classes)
    weight = "" if batch.weight[row] else " \u00b7 weight 0"
    image = decode.decode(record["image"], upright=stated.exif_applied)
    whole = View(image, record["keypoints"], 0.0, record["boxes"])
    boxes = batch.people.boxes[row] if batch.people else NO_BOXES
    crop = View(batch.image[row], batch.keypoints[row], float(batch.disc_radius[row]), boxes)
    thumbnails = []
    for view, kind in ((whole, "as stored"), (crop, "as input of a model")):
        height_px, width_px, _ = view.image.shape
        size = f"{width_px} \u00d7 {height_px} px"
        thumbnails.append(thumbnail(view, alt=f"{label}, {kind}", caption=size))
    named = f"{record['id']} \u00b7 record {batch.id[row]}{weight}"
    details = " \u00b7 ".join([named, *count_not_known(record["label"])])
    return Figure(label, details, thumbnails)
