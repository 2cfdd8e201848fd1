"""Multiplies constants of a network into its weights, for evaluation only."""

from flax import nnx

from gap_jax import hardware
from gap_jax.models.layers import ConvNorm
from gap_jax.models.network import Network
from gap_jax.models.pooling import AttentionalPooling
from gap_jax.models.saliency import ChainedSaliency, FactoredSaliency, LinearSaliency, Saliency


def fold(network: Network) -> Network:
    """Copies a network with norms in their convolutions, V c as a vector: equal up to rounding."""
    folded = nnx.clone(network)
    for _, module in nnx.iter_modules(folded):
        if isinstance(module, ConvNorm):
            _fold_norm(module)
    if isinstance(folded.pooling, AttentionalPooling):
        folded.pooling.saliency = _fold_saliency(folded.pooling.saliency)
    return folded


def _fold_norm(pair: ConvNorm) -> None:
    if pair.norm is None:
        return
    scale, shift = pair.norm.affine()
    pair.conv.kernel[...] = pair.conv.kernel[...] * scale[None, None, None]
    if pair.conv.bias is not None:
        shift = shift + pair.conv.bias[...] * scale
    pair.conv.bias = nnx.data(nnx.Param(shift))
    pair.conv.as_product &= hardware.is_cpu()  # cuDNN fuses bias and relu
    pair.norm = nnx.data(None)


def _fold_saliency(saliency: Saliency) -> Saliency:
    if isinstance(saliency, ChainedSaliency):
        saliency.first = _fold_saliency(saliency.first)
    if not (isinstance(saliency, FactoredSaliency) and saliency.space == "weight"):
        return saliency
    vector = saliency.vector()
    return LinearSaliency(*vector.shape, bias=False, init=lambda *_: vector, rngs=nnx.Rngs(0))
