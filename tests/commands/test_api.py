"""The public API: names, docstrings, and training in a notebook and in a thread."""

import asyncio
import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gap_jax
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import FactoredSaliency
from tests.campaigns import api_reference
from tests.support.saved_runs import tiny_config
from tests.support.tiny_data import prepare_tiny_people, write_photo

pytestmark = pytest.mark.slow

CLASSES = ("AttentionalPooling", "FactoredSaliency", "GeneralizedAttentionalPooling")


def test_names_are_loaded_on_use_and_differ_from_modules() -> None:
    modules = {module.name for module in pkgutil.iter_modules(gap_jax.__path__)}
    assert modules.isdisjoint(gap_jax.__all__) and dir(gap_jax) == sorted(gap_jax.__all__)
    for name, home in gap_jax.MODULES.items():
        assert getattr(gap_jax, name) is getattr(importlib.import_module(home), name)
    assert not hasattr(gap_jax, "AttentionPooling")
    script = (
        "import sys, gap_jax; assert 'jax' not in sys.modules; "
        "from gap_jax import GeneralizedAttentionalPooling; "
        "assert 'tensorflow_datasets' not in sys.modules and 'orbax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (Path(gap_jax.__path__[0]) / "py.typed").is_file()


class ShownOutput(doctest.OutputChecker):
    """Checks output only where a docstring shows it, as training logs."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def run_docstrings(*names: str) -> None:
    """Runs the examples of docstrings in order, with shared variables."""
    variables: dict[str, Any] = {"jax": jax}
    for name in names:
        [found] = doctest.DocTestFinder(recurse=False).find(getattr(gap_jax, name), name)
        assert found.examples, name
        found.globs = variables
        report: list[str] = []
        runner = doctest.DocTestRunner(ShownOutput())
        result = runner.run(found, out=report.append, clear_globs=False)
        assert not result.failed, "".join(report)


@pytest.mark.parametrize("name", [*CLASSES, "read_config"])
def test_docstrings_run(name: str) -> None:
    run_docstrings(name)


def test_reference_is_up_to_date() -> None:
    assert api_reference.PAGE.read_text("utf-8") == api_reference.render() + "\n"


def test_trains_in_a_thread_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_tiny_people(tmp_path / "data" / "people")
    write_photo(tmp_path / "my.jpg", 1)
    monkeypatch.chdir(tmp_path)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            run_docstrings("train_config", "evaluate_run", "load")
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not problems, problems


def test_trains_in_a_notebook(tmp_path: Path) -> None:
    """A notebook's event loop runs during its cells."""
    prepare_tiny_people(tmp_path / "people")
    cfg = tiny_config(tmp_path / "people", "train.steps=2", "model.stage=1")

    async def cell() -> dict[str, Any]:
        return gap_jax.train_config(cfg, tmp_path / "run")

    numbers = asyncio.run(cell())
    assert numbers == gap_jax.train_config(cfg, tmp_path / "run"), "it is complete"
    rows = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rows[-1])["val/mAP"] == numbers["mAP"]


def generalized(widths: tuple[int, ...], **arguments: Any) -> AttentionalPooling:
    return gap_jax.GeneralizedAttentionalPooling(8, 3, widths, **arguments, rngs=nnx.Rngs(0))


def attentional(**arguments: Any) -> AttentionalPooling:
    return AttentionalPooling(8, 3, **arguments, rngs=nnx.Rngs(0))


X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 8)), jnp.float32)


def test_widths_determine_the_layers() -> None:
    for widths in ((), (4,), (6, 4, 2)):
        saliency = generalized(widths).saliency
        assert isinstance(saliency, FactoredSaliency) and len(saliency.chain) == len(widths)
    np.testing.assert_array_equal(generalized(())(X), attentional()(X))


@pytest.mark.parametrize("make", [attentional, lambda **each: generalized((4,), **each)])
def test_constructor_takes_gate_init_and_dtypes(
    make: Callable[..., AttentionalPooling],
) -> None:
    gated = make(gate_init="one", rank=2)
    np.testing.assert_array_equal(gated.maps(X).bottom_up, jnp.ones((2, 3, 3, 2)))
    halves = make(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(halves))} == {jnp.dtype("bfloat16")}
    assert halves(X).dtype == halves.maps(X).logits.dtype == jnp.float32
    whole = make(init=nnx.initializers.normal(1))
    exact, rounded = whole(X), make(init=nnx.initializers.normal(1), dtype=jnp.bfloat16)(X)
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.02)
    assert (rounded != exact).any()


def test_gate_init_with_a_saliency_is_refused() -> None:
    saliency = gap_jax.FactoredSaliency(8, (4,), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="gate_init='one' has no effect with a saliency"):
        attentional(saliency=saliency, gate_init="one")
