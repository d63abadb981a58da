"""The catalogue's entries: PACS, VLCS, Office-Home."""

from __future__ import annotations

from scmd.data.benchmarks.entries import Benchmark, Counts, RemoteFile, Source, Way, drive

_GB = 10**9

PACS = Benchmark(
    name="pacs",
    title="PACS",
    domains=("art_painting", "cartoon", "photo", "sketch"),
    classes=("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
    counts=(
        Counts(
            label="the published set",
            domains={"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
            classes={
                "art_painting": (379, 255, 285, 184, 201, 295, 449),
                "cartoon": (389, 457, 346, 135, 324, 288, 405),
                "photo": (189, 202, 182, 186, 199, 280, 432),
                "sketch": (772, 740, 753, 608, 816, 80, 160),
            },
            source="per domain: Li et al. 2017 and the card of flwrlabs/pacs on the hub; per "
            "class: counted in a complete copy",
        ),
    ),
    ways=(
        Way(
            (
                RemoteFile(
                    "pacs.parquet",
                    (
                        Source(
                            "datasets/flwrlabs/pacs/resolve/main/data/train-00000-of-00001.parquet",
                            "hub",
                            size=191_395_900,
                            said_by="the card of flwrlabs/pacs",
                        ),
                    ),
                    "parquet",
                ),
            )
        ),
        Way(
            (
                RemoteFile(
                    "PACS.zip",
                    (
                        drive("1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd"),  # in DomainBed's download.py
                        drive("1m4X4fROCCXMO0lRLrr6Zz9Vb3974NWhE"),  # in Dassl's pacs.py
                    ),
                    "zip",
                    most_files=50_000,
                    most_bytes=2 * _GB,
                ),
            )
        ),
    ),
    by_hand="https://huggingface.co/datasets/flwrlabs/pacs or https://dali-dl.github.io/"
    "project_iccv2017.html",
    paper="Li et al., ICCV 2017, arXiv:1710.03077",
    licence="none published (the hub's card says unknown)",
    known_bad=("sketch/dog/n02103406_4068-1.png",),
    download="0.19 GB",
    notes=(
        "sketch/dog/n02103406_4068-1.png is reported as faulty by Dassl, which leaves it out "
        "(9,990 images). DomainBed keeps it, and so does this: leaving it out would change the "
        "holdout split. It is decoded after the import, and you are told if that fails.",
    ),
)

VLCS = Benchmark(
    name="vlcs",
    title="VLCS",
    domains=("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    classes=("bird", "car", "chair", "dog", "person"),
    counts=(
        Counts(
            label="the published set",
            domains={"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
            source="per domain as commonly reported; their sum is the 10,729 of Gulrajani and "
            "Lopez-Paz 2021",
        ),
    ),
    ways=(
        Way(
            (
                RemoteFile(
                    "VLCS.tar.gz",
                    (
                        drive(
                            "1skwblH1_okBwxWxmRsp9_qi15hyPpxg8",  # in DomainBed's download.py
                            digest="md5:8870171eba660927d9668f4e515928e4",
                            said_by="LarsKue/context-aware-domain-generalization",
                        ),
                    ),
                    "tar",
                    most_files=50_000,
                    most_bytes=10 * _GB,
                ),
            )
        ),
        Way(
            (
                RemoteFile(
                    "VLCS.zip",
                    (drive("1r0WL5DDqKfSPp9E3tRENwHaXNs1olLZd"),),  # in Dassl's vlcs.py
                    "zip",
                    most_files=100_000,
                    most_bytes=10 * _GB,
                ),
            )
        ),
    ),
    by_hand="https://drive.google.com/file/d/1skwblH1_okBwxWxmRsp9_qi15hyPpxg8 or "
    "https://www.mediafire.com/file/7yv132lgn1v267r/vlcs.tar.gz/file",
    paper="Fang et al., ICCV 2013; Torralba and Efros, CVPR 2011",
    licence="none published for the set; its images are those of four others",
    aliases={
        "Caltech101": ("CALTECH",),
        "LabelMe": ("LABELME",),
        "SUN09": ("SUN",),
        "VOC2007": ("PASCAL", "VOC"),
    },
    numbered_classes=True,
    download="not published",
    notes=(
        "There are two layouts: DomainBed's (Caltech101/bird/...) and an older one "
        "(CALTECH/full/0/..., with test, train and crossval beside full, and numbers for "
        "classes). Both become the first; full is train and crossval, so that each image is "
        "taken once. The holdout split depends on the names of the files, which differ.",
    ),
)

OFFICE_HOME = Benchmark(
    name="office-home",
    title="OfficeHome",
    domains=("Art", "Clipart", "Product", "Real World"),
    class_count=65,
    counts=(
        Counts(
            label="the published set",
            domains={"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
            source="per domain as commonly reported; their sum is the 15,588 of Gulrajani and "
            "Lopez-Paz 2021",
        ),
    ),
    ways=(
        Way(
            tuple(
                RemoteFile(
                    f"office-home-{part}.parquet",
                    (
                        Source(
                            "datasets/flwrlabs/office-home/resolve/main/data/"
                            f"train-0000{part}-of-00003.parquet",
                            "hub",
                        ),
                    ),
                    "parquet",
                )
                for part in range(3)
            )
        ),
        Way(
            (
                RemoteFile(
                    "office_home.zip",
                    (
                        drive(
                            "1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC",  # in DomainBed's download.py
                            digest="md5:b1c14819770c4448fd5b6d931031c91c",
                            said_by="LarsKue/context-aware-domain-generalization",
                        ),
                        drive("0B81rNlvomiwed0V1YUxQdC1uOTg"),  # the authors'
                    ),
                    "zip",
                    most_files=50_000,
                    most_bytes=5 * _GB,
                ),
            )
        ),
    ),
    by_hand="https://www.hemanthdv.org/officeHomeDataset.html",
    paper="Venkateswara et al., CVPR 2017, arXiv:1706.07522",
    licence="the authors' fair-use notice: for research, not commercial",
    aliases={"Real World": ("Real", "RealWorld", "Real_World")},
    download="1.2 GB",
    notes=(
        "The folder of the fourth domain is called 'Real World', with a blank, as in DomainBed: "
        "put it in quotes (--target 'Real World').",
    ),
)
