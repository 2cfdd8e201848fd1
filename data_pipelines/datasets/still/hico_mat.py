"""Parses HICO's annotation file (MAT v5, anno.mat) into plain lists, in a child process.

The label of an image is a text with a character of CODES for each class: "+" positive, "-" verified
as absent while its object is in the image, "0" ambiguous, "?" unknown (NaN).
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.core.errors import DataError
from data_pipelines.core.mat_file import as_struct, as_text, elements, load_variables

CODES = "+-0?"
SPLITS = ("train", "test")
FIX = "pass anno.mat of hico_20150920 as HICO publishes it"


def parse(path: Path) -> dict[str, Any]:
    """Returns verb and object of each class, and for each split the file names and labels."""
    names = ["list_action", *(f"{kind}_{split}" for kind in ("list", "anno") for split in SPLITS)]
    try:
        variables = load_variables(path, names, FIX)
        actions = [as_struct(each) for each in elements(variables["list_action"])]
        classes = [_class(number, action) for number, action in enumerate(actions, 1)]
        if not classes:
            raise ValueError("list_action is empty")
        splits = {
            split: _split(split, variables[f"list_{split}"], variables[f"anno_{split}"], classes)
            for split in SPLITS
        }
    except ValueError as error:
        raise DataError(f"{path} is not HICO's annotation file: {error}; {FIX}") from error
    return {"classes": classes, "splits": splits}


def _class(number: int, action: np.void | None) -> tuple[str, str]:
    """Returns the verb and the object of a class."""
    fields = () if action is None else action.dtype.names or ()
    if action is None or not {"vname", "nname"} <= set(fields):
        raise ValueError(f"list_action({number}) has no vname and nname")
    verb, noun = as_text("vname", action["vname"]), as_text("nname", action["nname"])
    if not verb or not noun:
        raise ValueError(f"list_action({number}) has an empty vname or nname")
    return verb, noun


def _split(split: str, listed: Any, values: Any, classes: list[tuple[str, str]]) -> dict[str, Any]:
    names = [as_text(f"list_{split}", name) for name in elements(listed)]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError(f"anno_{split} is no matrix of numbers")
    if values.shape != (len(classes), len(names)):
        raise ValueError(
            f"anno_{split} has shape {values.shape}, not one row for each of {len(classes)} "
            f"classes and one column for each of {len(names)} images"
        )
    codes = np.zeros(values.shape, np.uint8)
    for code, is_here in zip(
        CODES, (values == 1, values == -1, values == 0, np.isnan(values)), strict=True
    ):
        codes[is_here] = ord(code)
    if not codes.all():
        row, column = np.argwhere(codes == 0)[0].tolist()
        raise ValueError(
            f"anno_{split}({row + 1},{column + 1}) is {values[row, column]:g}, not 1, -1, 0 or NaN"
        )
    return {"names": names, "labels": [each.tobytes().decode() for each in codes.T]}
