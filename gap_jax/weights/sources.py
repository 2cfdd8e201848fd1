"""Published weights that `gap_jax weights convert` reads, to be fetched; none was at hand here."""

from typing import NamedTuple


class Published(NamedTuple):
    """A file: what it holds, where it lay, and what is known of its digest."""

    name: str
    address: str
    digest: str


KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"
SLIM = "http://download.tensorflow.org/models"
PUBLISHED = (
    Published(
        "torchvision ResNet-101 V1", "https://download.pytorch.org/models/resnet101-63fe2227.pth",
        "SHA-256 begins 63fe2227",
    ),
    Published(
        "torchvision ResNet-101 V2", "https://download.pytorch.org/models/resnet101-cd907fc2.pth",
        "SHA-256 begins cd907fc2",
    ),
    Published(
        "timm ResNet-101 a1h", "https://huggingface.co/timm/resnet101.a1h_in1k",
        "SHA-256 1a076c0384295e7d3704f201c5711ff245507db934230bab72ff3014a95f90fe",
    ),
    Published(
        "Keras ResNet-101", f"{KERAS}/resnet101_weights_tf_dim_ordering_tf_kernels.h5",
        "MD5 f1aeb4b969a6efcfb50fad2f0c20cfc5",
    ),
    Published("TF-slim ResNet-101", f"{SLIM}/resnet_v1_101_2016_08_28.tar.gz", "none published"),
    Published("TF-slim VGG16", f"{SLIM}/vgg_16_2016_08_28.tar.gz", "none published"),
    Published("TF-slim Inception-v3", f"{SLIM}/inception_v3_2016_08_28.tar.gz", "none published"),
    Published(
        "Attentional Pooling on MPII, three models",
        "https://cmu.box.com/shared/static/s72scgtjj3lm60hsufi25rfjs2dk3a7i.zip", "none published",
    ),
)  # fmt: skip
TERMS = "trained on ImageNet or MPII, whose images are for non-commercial research"
