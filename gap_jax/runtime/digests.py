"""The leaves of a state as named host arrays, and their SHA-256."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Leaves = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LeafDigest:
    dtype: str
    shape: list[int]
    sha256: str


def name_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by path, such as params/head/kernel."""
    found = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
    if len(named) != len(found):
        raise ValueError("two leaves of the state have the same path")
    return named


def copy_to_host(state: Any) -> Leaves:
    """Copies the whole state, safe from later donations; every process must call this."""

    def gather(leaf: jax.Array) -> jax.Array | np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    whole = {name: gather(leaf) for name, leaf in name_leaves(state).items()}
    return {name: np.array(leaf) for name, leaf in jax.device_get(whole).items()}


def place(leaves: Leaves, target: Any) -> Any:
    """Returns the tree of `target` with the host's values, under the target's shardings."""
    arrays = [
        jax.make_array_from_callback(like.shape, like.sharding, leaves[name].__getitem__)
        if like.sharding
        else jax.device_put(leaves[name])
        for name, like in name_leaves(target).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(target), arrays)


def describe(leaves: Leaves) -> dict[str, LeafDigest]:
    """Returns the dtype, shape and SHA-256 of every leaf."""
    return {name: LeafDigest(str(x.dtype), list(x.shape), _digest(x)) for name, x in leaves.items()}


def _digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.sha256(content.data).hexdigest()


def find_misfits(written: Mapping[str, LeafDigest], target: Any) -> list[str]:
    """Returns a clause for each leaf whose name, dtype or shape differs from the target's."""

    def name_forms(leaves: Mapping[str, Any]) -> dict[str, str]:
        return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}

    there, here = name_forms(written), name_forms(name_leaves(target))
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
