"""Published weights that `gap_jax weights convert` downloads; none was available for tests."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published file: its name on the command line, contents, address and digest."""

    name: str
    holds: str
    address: str
    known: str = "none published"
    sha256: str = ""  # empty: none is published, or only its first digits


TORCH = "https://download.pytorch.org/models"
TIMM = "https://huggingface.co/timm"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"
SLIM = "http://download.tensorflow.org/models"
PUBLISHED = (
    Published(
        "torchvision-resnet101-v1", "torchvision's ResNet-101, V1",
        f"{TORCH}/resnet101-63fe2227.pth", "begins 63fe2227",
    ),
    Published(
        "torchvision-resnet101-v2", "torchvision's ResNet-101, V2",
        f"{TORCH}/resnet101-cd907fc2.pth", "begins cd907fc2",
    ),
    Published(
        "torchvision-vgg16", "torchvision's VGG16", f"{TORCH}/vgg16-397923af.pth", "begins 397923af"
    ),
    Published(
        "timm-resnet101-a1h", "timm's ResNet-101, a1h",
        f"{TIMM}/resnet101.a1h_in1k/resolve/main/model.safetensors",
        sha256="1a076c0384295e7d3704f201c5711ff245507db934230bab72ff3014a95f90fe",
    ),
    Published(
        "keras-resnet101", "Keras' ResNet-101",
        f"{KERAS}/resnet101_weights_tf_dim_ordering_tf_kernels.h5",
        "none published, MD5 f1aeb4b969a6efcfb50fad2f0c20cfc5",
    ),
    Published("slim-resnet101", "TF-slim's ResNet-101", f"{SLIM}/resnet_v1_101_2016_08_28.tar.gz"),
    Published("slim-vgg16", "TF-slim's VGG16", f"{SLIM}/vgg_16_2016_08_28.tar.gz"),
    Published(
        "slim-inception-v3", "TF-slim's Inception-v3", f"{SLIM}/inception_v3_2016_08_28.tar.gz"
    ),
    Published(
        "attentional-pooling-mpii", "Attentional Pooling's three models of MPII",
        "https://cmu.box.com/shared/static/s72scgtjj3lm60hsufi25rfjs2dk3a7i.zip",
    ),
)  # fmt: skip
TERMS = "trained on ImageNet or MPII, whose images are for non-commercial research"
