"""Data that several files of this folder read."""

from pathlib import Path

import pytest

from tests.support.tiny_videos import prepare_videos, write_frames, write_lists


@pytest.fixture(scope="module")
def of_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HMDB51 prepared from folders of frames."""
    folder = tmp_path_factory.mktemp("frames")
    write_lists(folder / "lists")
    write_frames(folder / "frames")
    prepare_videos(folder)
    return folder
