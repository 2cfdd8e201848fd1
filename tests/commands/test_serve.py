"""gap_jax serve: a real run behind the page until Ctrl-C, and what is refused."""

import io
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import gap_jax
from gap_jax import cli
from gap_jax.commands import serve
from tests.support.saved_runs import prepare_run
from tests.support.serving import ask_port


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of GAP with a pose branch."""
    return prepare_run(tmp_path_factory.mktemp("serve"), steps={3: 0.5})[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def refusal(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert cli.main(["serve", *words]) == code
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    return line.partition(": error ")[2]


@pytest.mark.slow
def test_a_run_answers_like_predict_until_ctrl_c(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also computes no rows of a batch that are padding."""
    opened = mock.Mock(wraps=serve.Predictor)
    monkeypatch.setattr(serve, "Predictor", opened)
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    file, port, replies = io.BytesIO(), free_port(), dict[str, Any]()
    Image.fromarray(picture).save(file, "PNG")

    def visit() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:  # connections wait while the model compiles
            try:
                reply = ask_port(port, "POST /answers HTTP/1.1", file.getvalue())
                replies["answer"] = answer = json.loads(reply.body)
                path = f"GET /answers/{answer['id']}/0/1"
                replies["details"] = json.loads(ask_port(port, f"{path} HTTP/1.1").body)
                replies["layer"] = ask_port(port, f"{path}/top-down HTTP/1.1").body
                replies["models"] = json.loads(ask_port(port, "GET /models HTTP/1.1").body)
                break
            except OSError:
                time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=visit)
    thread.start()
    assert cli.main(["serve", str(run), "--port", str(port)]) == 0
    thread.join()
    printed = capsys.readouterr()
    assert printed.out == f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends\n"
    assert printed.err == ""
    model = gap_jax.load(run)
    batches = [each.cfg.eval.batch_size for each in (opened.call_args.args[0], model.opened)]
    assert batches[0] == 1 < batches[1]
    (found,) = replies["answer"]["answers"]
    names, shares, _ = zip(*found["classes"], strict=True)
    expected = dict(model.predict(picture).top(3))
    assert names == (*expected,) and shares == pytest.approx((*expected.values(),), rel=1e-4)
    assert {"combined", "bottom-up", "top-down"} <= replies["details"].keys()
    assert Image.open(io.BytesIO(replies["layer"])).size == (70, 50)
    (model,) = replies["models"]["models"]
    assert model["name"] == str(run) and "trained on drawn people" in model["note"]


def test_mistakes_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")
    assert missing in refusal(capsys, 66, missing)
    assert refusal(capsys, 64).startswith("64: the following arguments are required: MODEL")
    assert refusal(capsys, 64, missing, "--port=65536") == "64: --port=65536 must be in 0..65535"
    assert refusal(capsys, 64, missing, missing) == f"64: {missing} is named twice; name it once"
    assert refusal(capsys, 64, missing, "--host=no.such.invalid").startswith(
        "64: --host=no.such.invalid has no address"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(capsys, 77, missing, f"--port={port}")
    assert line.startswith(f"77: cannot listen on --host=127.0.0.1 --port={port}: ")


def test_a_host_beyond_this_machine_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = ".".join("0000")
    assert cli.main(["serve", str(tmp_path / "missing"), f"--host={host}"]) == 66
    warning, _ = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: --host={host} lets everybody in its network")
