"""The catalogue's entries: TerraIncognita, DomainNet, SVIRO, Camelyon17."""

from __future__ import annotations

from scmd.data.benchmarks.entries import Benchmark, Counts, RemoteFile, Source, Way, drive

_GB = 10**9

_LILA = "https://storage.googleapis.com/public-datasets-lila/caltechcameratraps/"
_LILA_OLD = "https://lilablobssc.blob.core.windows.net/caltechcameratraps/"
_CCT20 = "the data sheet of K-Bound, after the hosts' own MD5"

TERRA_INCOGNITA = Benchmark(
    name="terra-incognita",
    title="TerraIncognita",
    domains=("location_100", "location_38", "location_43", "location_46"),
    classes=(
        "bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon",
        "squirrel",
    ),
    counts=(
        Counts(
            label="24,788 images, with the labels of 2018: what DomainBed's paper and later "
            "tables have",
            domains={
                "location_100": 4879,
                "location_38": 9767,
                "location_43": 4020,
                "location_46": 6122,
            },
            source="khanrc/miro, issue 9; total: Gulrajani and Lopez-Paz 2021",
        ),
        Counts(
            label="24,330 images, with the labels of January 2021, which were revised",
            domains={
                "location_100": 4741,
                "location_38": 9736,
                "location_43": 3970,
                "location_46": 5883,
            },
            source="total: khanrc/miro, issue 9; per domain as commonly reported",
        ),
    ),
    ways=tuple(
        Way(
            (
                RemoteFile(
                    "eccv_18_all_images_sm.tar.gz",
                    tuple(
                        Source(
                            f"{host}eccv_18_all_images_sm.tar.gz",
                            size=6_492_615_601,
                            digest="sha256:"
                            "50d0e46d4f42c4891d99a13cda80b6c062d3586d79296edc9d1406a5e7cc4b20",
                            said_by=_CCT20,
                        )
                        for host in (_LILA, _LILA_OLD)
                    ),
                    "tar",
                    most_files=100_000,
                    most_bytes=20 * _GB,
                ),
                labels,
            )
        )
        for labels in (
            RemoteFile(
                "eccv_18_annotations.tar.gz",
                tuple(
                    Source(
                        f"{host}eccv_18_annotations.tar.gz",
                        size=2_997_071,
                        digest="sha256:"
                        "e31d0162d411fb031ba4741758a54fa15cc7257df6f344581f5fda612b2cc974",
                        said_by=_CCT20,
                    )
                    for host in (_LILA, _LILA_OLD)
                ),
                "tar",
                most_files=100,
                most_bytes=_GB,
            ),
            RemoteFile(
                "caltech_camera_traps.json.zip",
                tuple(
                    Source(f"{host}labels/caltech_camera_traps.json.zip")
                    for host in (_LILA, _LILA_OLD)
                ),
                "zip",
                most_files=100,
                most_bytes=2 * _GB,
            ),
        )
    ),
    by_hand="https://lila.science/datasets/caltech-camera-traps (CCT20 benchmark subset)",
    paper="Beery et al., ECCV 2018, arXiv:1807.04975",
    licence="Community Data License Agreement, permissive, 1.0 (CDLA-Permissive-1.0)",
    layout="camera-traps",
    download="6.5 GB",
    notes=(
        "DomainBed's choice: four cameras, ten classes. An image with two kinds of animals is in "
        "both classes, as in DomainBed.",
        "The images are the same in both versions; the labels are not. With those of the 2018 "
        "paper (eccv_18_annotations.tar.gz, tried first) there are 24,788 images; with those that "
        "the hosts offered from 2021 on (caltech_images_20210113.json) there are 24,330. Do not "
        "mix the two in one table.",
    ),
)  # fmt: skip

_VISDA = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
_DDG = "the data set classes of ddg (ddg.utils.DATASET_REGISTRY)"
_HUB_DOMAINNET = {
    # Sizes and SHA-256 are those of the commits that added the files; others are asked at the hub.
    "clipart": (
        1_270_909_081,
        "sha256:f8f248a3e8bbc9868c523ae24e6601b4c2ad102afc60c0efeb4f3255df22354d",
    ),
    "infograph": (
        4_338_659_804,
        "sha256:891e14f476317e97b6f06d6498c11d0a5b8d0c8b57210765ed9beb072da611fa",
    ),
    "quickdraw": (
        459_920_701,
        "sha256:9f37df2a8c3733703dbb35ad9964202a65f675ca30137756457537536b485d84",
    ),
}
_AUTHORS_DOMAINNET = {
    "clipart": ("groundtruth/", "md5:cd0d8f2d77a4e181449b78ed62bccf1e"),
    "infograph": ("", "md5:720380b86f9e6ab4805bb38b6bd135f8"),
    "painting": ("groundtruth/", "md5:1ae32cdb4f98fe7ab5eb0a351768abfd"),
    "quickdraw": ("", "md5:bdc1b6f09f277da1a263389efe0c7a66"),
    "real": ("", "md5:dcc47055e8935767784b7162e7c7cca6"),
    "sketch": ("", "md5:658d8009644040ff7ce30bb2e820850f"),
}


def _domain_net(domain: str) -> RemoteFile:
    size, digest = _HUB_DOMAINNET.get(domain, (None, None))
    folder, md5 = _AUTHORS_DOMAINNET[domain]
    return RemoteFile(
        f"{domain}.zip",
        (
            Source(
                f"yashkant/evalmerge/resolve/main/domainnet/{domain}.zip",
                "hub",
                size=size,
                digest=digest,
                said_by="the hub" if digest else "",
            ),
            Source(f"{_VISDA}{folder}{domain}.zip", digest=md5, said_by=_DDG),
        ),
        "zip",
        most_files=400_000,
        most_bytes=20 * _GB,
    )


DOMAIN_NET = Benchmark(
    name="domain-net",
    title="DomainNet",
    domains=tuple(_AUTHORS_DOMAINNET),
    class_count=345,
    counts=(
        Counts(
            label="without the duplicates, as in DomainBed",
            domains={
                "clipart": 48_129,
                "infograph": 51_605,
                "painting": 72_266,
                "quickdraw": 172_500,
                "real": 172_947,
                "sketch": 69_128,
            },
            source="the lengths of the authors' lists (train and test) as commonly reported; their "
            "sum is the 586,575 of Gulrajani and Lopez-Paz 2021",
        ),
        Counts(
            label="with the 9,431 duplicates that DomainBed leaves out",
            domains={
                "clipart": 48_833,
                "infograph": 53_201,
                "painting": 75_759,
                "quickdraw": 172_500,
                "real": 175_327,
                "sketch": 70_386,
            },
            source="as commonly reported; more than the other version by the 9,431 lines of "
            "DomainBed's list",
        ),
    ),
    ways=(
        Way(
            (
                *(_domain_net(domain) for domain in _AUTHORS_DOMAINNET),
                RemoteFile(
                    "domain_net_duplicates.txt",
                    (
                        Source(
                            "https://raw.githubusercontent.com/facebookresearch/DomainBed/main/"
                            "domainbed/misc/domain_net_duplicates.txt"
                        ),
                        drive("14tmS_VaUHoflJsaeVGQeNEojxFMsqJbx"),
                    ),
                    "text",
                ),
            )
        ),
    ),
    by_hand="https://ai.bu.edu/M3SDA (cleaned version), and domain_net_duplicates.txt from "
    "https://github.com/facebookresearch/DomainBed/tree/main/domainbed/misc",
    paper="Peng et al., ICCV 2019, arXiv:1812.01754",
    licence="the authors' fair-use notice: for research, not commercial",
    duplicates="domain_net_duplicates.txt",
    download="18 GB",
    notes=(
        "clipart and painting are the authors' cleaned archives. DomainBed leaves out 9,431 more "
        "images, which are in its list domain_net_duplicates.txt, and so does this. A copy that "
        "you import is taken without the duplicates if the list lies beside its domains.",
    ),
)

SVIRO = Benchmark(
    name="sviro",
    title="SVIRO",
    domains=(
        "aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe",
    ),
    classes=("0", "1", "2", "3", "4", "5", "6"),
    ways=(
        Way(
            (
                RemoteFile(
                    "sviro_grayscale_rectangle_classification.zip",
                    (Source("https://sviro.kl.dfki.de/?wpdmdl=1731"),),
                    "zip",
                    most_files=200_000,
                    most_bytes=20 * _GB,
                ),
            )
        ),
    ),
    by_hand="https://sviro.kl.dfki.de",
    paper="Dias Da Cruz et al., WACV 2020, arXiv:2001.03483",
    licence="see https://sviro.kl.dfki.de",
    download="not published",
    notes=(
        "Classes are numbers, of which a teacher's prompts say nothing: 0 is an empty seat, the "
        "others are listed at https://sviro.kl.dfki.de/data-format.",
        "No counts per domain were found published: there is nothing to compare with.",
    ),
)  # fmt: skip

CAMELYON17 = Benchmark(
    name="camelyon17",
    title="Camelyon17",
    domains=tuple(f"hospital_{center}" for center in range(5)),
    classes=("normal", "tumor"),
    counts=(
        Counts(
            label="WILDS 1.0",
            domains={
                "hospital_0": 59_436,
                "hospital_1": 34_904,
                "hospital_2": 85_054,
                "hospital_3": 129_838,
                "hospital_4": 146_722,
            },
            source="as commonly reported; hospitals 1 and 2 and the sum are the sizes of the "
            "splits in Koh et al. 2021",
        ),
    ),
    ways=(
        Way(
            (
                RemoteFile(
                    "camelyon17_v1.0.tar.gz",
                    (
                        Source(
                            "https://worksheets.codalab.org/rest/bundles/"
                            "0xe45e15f39fb54e9d9e919556af67aabe/contents/blob/"
                        ),
                    ),
                    "tar",
                    most_files=600_000,
                    most_bytes=30 * _GB,
                ),
            )
        ),
    ),
    by_hand="https://wilds.stanford.edu/datasets (camelyon17)",
    paper="Bandi et al., TMI 2018; WILDS: Koh et al., ICML 2021, arXiv:2012.07421",
    licence="CC0 1.0",
    layout="camelyon",
    download="10 GB",
    notes=("Patches of 96 x 96 pixels; the domains are DomainBed's, the hospitals of WILDS 1.0.",),
)
