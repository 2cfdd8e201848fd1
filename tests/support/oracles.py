"""Reference implementations of the method and its layers in float64 numpy."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "..."]


def with_one(x: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c1"]:
    """Appends a bias as one more row of a matrix, for inputs with one more column of ones."""
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def trace_scores(
    top_down_input: Float[np.ndarray, "b n f"],
    saliency_input: Float[np.ndarray, "b n s"],
    a: Float[np.ndarray, "p f1 k"],
    c: Float[np.ndarray, "s1 p"],
) -> Float[np.ndarray, "b k"]:
    """score_k = sum_p Tr(Xd^T Z W_kp^T) / n with W_kp = a_kp c_p^T, biases as last rows."""
    b, n, _ = top_down_input.shape
    rank, _, classes = a.shape
    scores = np.zeros((b, classes))
    for image in range(b):
        x, z = with_one(top_down_input[image]), with_one(saliency_input[image])
        for k in range(classes):
            for p in range(rank):
                w = np.outer(a[p, :, k], c[:, p])
                scores[image, k] += np.trace(x.T @ z @ w.T) / n
    return scores


def map_scores(
    top_down_input: Float[np.ndarray, "b n f"],
    bottom_up: Float[np.ndarray, "b n k p"],
    a: Float[np.ndarray, "p f1 k"],
) -> Float[np.ndarray, "b k"]:
    """score_k = sum_p mean_n((X a_kp) h_kp), one number at a time, for any h."""
    b, n, classes, rank = bottom_up.shape
    scores = np.zeros((b, classes))
    for image, position, k, p in np.ndindex(b, n, classes, rank):
        t = with_one(top_down_input[image])[position] @ a[p, :, k]
        scores[image, k] += t * bottom_up[image, position, k, p] / n
    return scores


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax_positions(h: Float[np.ndarray, "b n p"]) -> Float[np.ndarray, "b n p"]:
    shares = np.exp(h)
    return shares / shares.sum(1, keepdims=True)


def chain(x: Float[np.ndarray, "b n s"], layers: Sequence[Array]) -> Float[np.ndarray, "b n r"]:
    """Z_t = relu(Z_{t-1} U_t + u_t), u_t the last row of its layer."""
    for layer in layers:
        x = np.stack([relu(with_one(z) @ layer) for z in x])
    return x


def weight_vector(kernels: Sequence[Array], c: Array) -> Array:
    """f(V c), V = f(U_1) f(U_2) ... f(U_T)."""
    v = np.eye(len(kernels[0]))
    for u in kernels:
        v = v @ relu(u)
    return relu(v @ c)


def numeric_gradients(
    scalar: Callable[[Mapping[str, Array]], float], at: Mapping[str, Array], step: float = 1e-6
) -> dict[str, Array]:
    """Central differences in every coordinate."""
    gradients = {}
    for name, value in at.items():
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            sides = []
            for sign in (1, -1):
                moved = value.copy()
                moved[index] += sign * step
                sides.append(scalar({**at, name: moved}))
            gradient[index] = (sides[0] - sides[1]) / (2 * step)
        gradients[name] = gradient
    return gradients


def batch_norm(
    x: Float[np.ndarray, "b h w c"], gamma: Array, beta: Array, group: int, eps: float
) -> tuple[Array, Array, Array]:
    """The normalised map, and the mean over groups of the groups' means and variances."""
    y, means, variances = np.zeros_like(x), [], []
    for start in range(0, len(x), group):
        images = x[start : start + group]
        mean, var = images.mean((0, 1, 2)), images.var((0, 1, 2))
        y[start : start + group] = (images - mean) / np.sqrt(var + eps) * gamma + beta
        means.append(mean)
        variances.append(var)
    return y, np.mean(means, 0), np.mean(variances, 0)


def convolve(
    x: Float[np.ndarray, "b h w c"], kernel: Array, stride: int, *, padded: bool = True
) -> Array:
    """A cross-correlation, `padded` by half its window on every side, kernel HWIO."""
    rows, columns = kernel.shape[:2]
    if padded:
        x = np.pad(x, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), axis=(1, 2))
    y = np.tensordot(windows[:, ::stride, ::stride], kernel, ((4, 5, 3), (0, 1, 2)))
    return np.asarray(y)


def max_pool(
    x: Float[np.ndarray, "b h w c"], before: tuple[int, int], gradient: Array | None = None
) -> tuple[Array, Array]:
    """3x3 maxima at stride 2, padded by `before`; `gradient` goes to the first maximum."""
    b, h, w, c = x.shape
    rows, columns = (h + 1) // 2, (w + 1) // 2
    y, dx = np.zeros((b, rows, columns, c)), np.zeros_like(x)
    for image, i, j, channel in np.ndindex(b, rows, columns, c):
        best = None
        for r in range(2 * i - before[0], 2 * i - before[0] + 3):
            for s in range(2 * j - before[1], 2 * j - before[1] + 3):
                inside = 0 <= r < h and 0 <= s < w
                if inside and (best is None or x[image, r, s, channel] > best[0]):
                    best = (x[image, r, s, channel], r, s)
        assert best is not None
        y[image, i, j, channel] = best[0]
        if gradient is not None:
            dx[image, best[1], best[2], channel] += gradient[image, i, j, channel]
    return y, dx


def resnet(
    parameters: Mapping, statistics: Mapping, image: Array, strides: str, eps: float = 1e-5
) -> Array:
    """The last map of a network with bottleneck units, batch norm by running statistics."""

    def norm_of(x: Array, pair: Mapping, running: Mapping) -> Array:
        gamma, beta = pair["norm"]["gamma"], pair["norm"]["beta"]
        mean, var = running["norm"]["mean"], running["norm"]["var"]
        return (x - mean) / np.sqrt(var + eps) * gamma + beta

    def conv(x: Array, pair: Mapping, running: Mapping, stride: int = 1) -> Array:
        return norm_of(convolve(x, pair["conv"]["kernel"], stride), pair, running)

    x = relu(conv(image, parameters["conv1"], statistics["conv1"], 2))
    even = [int(strides != "slim" or size % 2) for size in x.shape[1:3]]
    x, _ = max_pool(x, (even[0], even[1]))
    blocks = len(parameters["stages"])
    for block in range(blocks):
        units = parameters["stages"][block]
        for index in range(len(units)):
            halves = (
                index == len(units) - 1 and block < blocks - 1
                if strides == "slim"
                else index == 0 and block > 0
            )
            stride = 2 if halves else 1
            unit, running = units[index], statistics["stages"][block][index]
            shortcut = x[:, ::stride, ::stride]
            if "shortcut" in unit:
                shortcut = conv(x, unit["shortcut"], running["shortcut"], stride)
            early, late = (stride, 1) if strides == "caffe" else (1, stride)
            y = relu(conv(x, unit["conv1"], running["conv1"], early))
            y = relu(conv(y, unit["conv2"], running["conv2"], late))
            x = relu(shortcut + conv(y, unit["conv3"], running["conv3"]))
    return x


def same_pool(x: Float[np.ndarray, "b h w c"], reduce: Callable[..., Array], stride: int) -> Array:
    """Applies `reduce` to the cells of the map in each 3x3 window, padded as in TensorFlow."""
    b, h, w, c = x.shape
    starts = []
    for size in (h, w):
        cells = -(-size // stride)
        before = max((cells - 1) * stride + 3 - size, 0) // 2
        starts.append([stride * cell - before for cell in range(cells)])
    y = np.zeros((b, len(starts[0]), len(starts[1]), c))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            window = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
            y[:, i, j] = reduce(window, axis=(1, 2))
    return y


def bn_inception(blobs: Mapping[str, Array], image: Array) -> Array:
    """The map inception_5b from blobs "LAYER/VALUE", batch norm by running statistics."""

    def conv(x: Array, name: str, stride: int = 1) -> Array:
        y = convolve(x, blobs[f"{name}/weights"], stride) + blobs[f"{name}/biases"]
        scale, shift, mean, variance = (
            blobs[f"{name}_bn/{field}"] for field in ("scale", "shift", "mean", "variance")
        )
        return relu((y - mean) / np.sqrt(variance + 1e-5) * scale + shift)

    x = same_pool(conv(image, "conv1_7x7_s2", 2), np.max, 2)
    x = same_pool(conv(conv(x, "conv2_3x3_reduce"), "conv2_3x3"), np.max, 2)
    for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        scope = f"inception_{module}"
        stride = 2 if module in ("3c", "4e") else 1
        three = conv(conv(x, f"{scope}_3x3_reduce"), f"{scope}_3x3", stride)
        double = conv(conv(x, f"{scope}_double_3x3_reduce"), f"{scope}_double_3x3_1")
        double = conv(double, f"{scope}_double_3x3_2", stride)
        if stride == 2:
            x = np.concatenate([three, double, same_pool(x, np.max, 2)], axis=3)
            continue
        pool = same_pool(x, np.max if module == "5b" else np.mean, 1)
        one, pool = conv(x, f"{scope}_1x1"), conv(pool, f"{scope}_pool_proj")
        x = np.concatenate([one, three, double, pool], axis=3)
    return x
