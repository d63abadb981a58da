"""The catalogue's entries: the sets that are made of MNIST."""

from __future__ import annotations

from scmd.data.benchmarks.entries import Benchmark, Counts, RemoteFile, Source, Way

_MNIST_HOSTS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://yann.lecun.com/exdb/mnist/",
)
_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
_MNIST_WAY = Way(
    tuple(
        RemoteFile(
            name,
            tuple(
                Source(
                    host + name, size=size, digest=f"sha256:{digest}", said_by="TensorFlow Datasets"
                )
                for host in _MNIST_HOSTS
            ),
            "gzip",
        )
        for name, (size, digest) in _MNIST_FILES.items()
    )
)
_MNIST_IMAGES = 70_000
_MNIST_LICENCE = "CC BY-SA 3.0, as commonly stated; MNIST's own page names none"

ROTATED_MNIST = Benchmark(
    name="rotated-mnist",
    title="RotatedMNIST",
    domains=("0", "15", "30", "45", "60", "75"),
    classes=tuple("0123456789"),
    counts=(
        Counts(
            label="70,000 digits dealt out to six angles",
            domains={
                angle: len(range(place, _MNIST_IMAGES, 6))
                for place, angle in enumerate(("0", "15", "30", "45", "60", "75"))
            },
            source="the rule of DomainBed's datasets.py",
        ),
    ),
    ways=(_MNIST_WAY,),
    by_hand="https://yann.lecun.com/exdb/mnist (the four files *-ubyte.gz)",
    paper="Ghifary et al., ICCV 2015, arXiv:1508.07680",
    licence=_MNIST_LICENCE,
    layout="rotated-mnist",
    download="12 MB",
    notes=(
        "Made here from MNIST's own files: all 70,000 digits in a fixed random order, every sixth "
        "to a domain, turned by Pillow (bicubic). DomainBed draws the order anew with each trial.",
    ),
)

COLORED_MNIST = Benchmark(
    name="colored-mnist",
    title="ColoredMNIST",
    domains=("minus_90", "plus_80", "plus_90"),
    classes=("0_to_4", "5_to_9"),
    counts=(
        Counts(
            label="70,000 digits dealt out to three domains",
            domains={
                domain: len(range(place, _MNIST_IMAGES, 3))
                for place, domain in enumerate(("plus_90", "plus_80", "minus_90"))
            },
            source="the rule of DomainBed's datasets.py",
        ),
    ),
    ways=(_MNIST_WAY,),
    by_hand="https://yann.lecun.com/exdb/mnist (the four files *-ubyte.gz)",
    paper="Arjovsky et al., 2019, arXiv:1907.02893",
    licence=_MNIST_LICENCE,
    layout="coloured-mnist",
    download="12 MB",
    notes=(
        "Made here from MNIST's own files: the label says whether the digit is below five, and is "
        "flipped in a quarter of the images; the colour follows the label in 90 %, 80 % and 10 % "
        "of them. DomainBed calls the domains +90%, +80% and -90%; here they are plus_90, plus_80 "
        "and minus_90, which a command line takes. A label is noisy by design: 75 % is the best "
        "that the shape alone allows.",
    ),
)
