"""The layouts in which the sets are found, MNIST's variants, and the counts."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.arrange import items_of, place
from scmd.data.benchmarks.catalogue import CATALOGUE, find
from scmd.data.benchmarks.counts import compare
from scmd.data.benchmarks.entries import Counts
from scmd.data.benchmarks.mnist import coloured, coloured_labels, read_idx, rotated
from scmd.data.benchmarks.sets_large import CAMELYON17, DOMAIN_NET, TERRA_INCOGNITA
from scmd.data.benchmarks.sets_mnist import COLORED_MNIST, ROTATED_MNIST
from scmd.data.benchmarks.sets_small import OFFICE_HOME, PACS, VLCS
from scmd.errors import ScmdError


def nothing(done: int, of: int) -> None: ...


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def arranged(benchmark, folder: Path, out: Path) -> set[str]:
    place(items_of(benchmark, folder), out, "copy", nothing)
    return files(out)


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, training: int = 50, testing: int = 10) -> np.ndarray:
    """A small MNIST: labels are drawn, images are noise; returns all labels."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    all_labels = []
    for name, n in (("train", training), ("t10k", testing)):
        labels = draw.integers(0, 10, n)
        images = draw.integers(0, 256, (n, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        all_labels.append(labels)
    return np.concatenate(all_labels)


def test_a_folder_above_the_domains_does_not_matter(tmp_path):
    names = {f"{d}/{c}/1.jpg" for d in PACS.domains for c in PACS.classes}
    for number, top in enumerate(("", "kfold/", "pacs/images/")):
        folder = tmp_path / str(number)
        put(folder, *(top + name for name in names), f"{top}readme.txt", "__MACOSX/._1.jpg")
        put(folder, f"{top}photo/dog/._1.jpg", f"{top}photo/dog/Thumbs.db")
        assert arranged(PACS, folder, tmp_path / f"out{number}") == names


def test_other_names_of_a_domain_become_the_sets(tmp_path):
    for other in ("Real World", "RealWorld", "Real_World", "real"):
        folder = tmp_path / other.replace(" ", "-")
        put(folder, "Art/Mop/1.jpg", "Clipart/Mop/1.jpg", "Product/Mop/1.jpg")
        put(folder, f"{other}/Mop/1.jpg")
        assert "Real World/Mop/1.jpg" in arranged(OFFICE_HOME, folder, tmp_path / f"out {other}")


def test_the_older_layout_of_vlcs_takes_every_image_once(tmp_path):
    for domain in ("CALTECH", "LABELME", "PASCAL", "SUN"):
        for part, names in (
            ("full", ("0/a.jpg", "4/b.jpg")), ("train", ("0/a.jpg",)), ("crossval", ("4/b.jpg",)),
            ("test", ("0/c.jpg", "4/b.jpg")),
        ):  # fmt: skip
            put(tmp_path / "in", *(f"VLCS/{domain}/{part}/{name}" for name in names))
    found = arranged(VLCS, tmp_path / "in", tmp_path / "out")
    assert found == {
        f"{domain}/{name}"
        for domain in VLCS.domains
        for name in ("bird/a.jpg", "bird/c.jpg", "person/b.jpg", "person/test_b.jpg")
    }


def test_listed_duplicates_of_domainnet_are_left_out(tmp_path):
    for number, domain in enumerate(DOMAIN_NET.domains):  # an archive each, the domain within
        put(tmp_path / "in" / f"archive-{number}", f"{domain}/cup/1.jpg", f"{domain}/cup/2.jpg")
    (tmp_path / "in" / "domain_net_duplicates.txt").write_text(
        "clipart/cup/2.jpg\nreal/cup/1.jpg\nreal/none/1.jpg\n"
    )
    found = arranged(DOMAIN_NET, tmp_path / "in", tmp_path / "out")
    everything = {f"{domain}/cup/{n}.jpg" for domain in DOMAIN_NET.domains for n in (1, 2)}
    assert everything - found == {"clipart/cup/2.jpg", "real/cup/1.jpg"}


def test_duplicates_are_left_out_whatever_the_copy_calls_a_domain(tmp_path):
    domains = [d.capitalize() if d != "real" else "real/Real" for d in DOMAIN_NET.domains]
    put(tmp_path / "in", *(f"{domain}/cup/{n}.jpg" for domain in domains for n in (1, 2)))
    listed = "".join(f"{domain}/cup/2.jpg\n" for domain in DOMAIN_NET.domains)
    (tmp_path / "in" / "domain_net_duplicates.txt").write_text(listed)
    found = arranged(DOMAIN_NET, tmp_path / "in", tmp_path / "out")
    assert found == {f"{domain}/cup/1.jpg" for domain in DOMAIN_NET.domains}


def test_a_domain_within_a_folder_of_its_name(tmp_path):
    put(tmp_path / "in", *(f"{d}/{d}/cup/1.jpg" for d in DOMAIN_NET.domains))
    found = arranged(DOMAIN_NET, tmp_path / "in", tmp_path / "out")
    assert found == {f"{d}/cup/1.jpg" for d in DOMAIN_NET.domains}


def write_labels(path: Path, labels: list[tuple[str, object, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = {image: location for image, location, _ in labels}
    path.write_text(
        json.dumps(
            {
                "categories": [{"id": n, "name": name} for n, name in enumerate(("cat", "car"))]
                + [{"id": 2, "name": "dog"}],
                "images": [
                    {"id": i, "location": where, "file_name": f"{i}.jpg"}
                    for i, where in images.items()
                ],
                "annotations": [{"image_id": i, "category_id": c} for i, _, c in labels],
            }
        )
    )


def test_camera_traps_are_chosen_as_domainbed_chooses_them(tmp_path):
    source = tmp_path / "in"
    put(source, *(f"all/{name}.jpg" for name in "abcdef"))
    write_labels(source / "one.json", [("a", 38, 0), ("a", 38, 2), ("b", 38, 1), ("b", 38, 0)])
    write_labels(source / "two.json", [("c", "46", 2), ("d", 7, 0), ("a", 38, 0), ("e", 100, 0)])
    assert arranged(TERRA_INCOGNITA, source, tmp_path / "out") == {
        "location_38/cat/a.jpg", "location_38/dog/a.jpg", "location_38/cat/b.jpg",
        "location_46/dog/c.jpg", "location_100/cat/e.jpg",
    }  # fmt: skip
    write_labels(source / "three.json", [("gone", 38, 0)])
    with pytest.raises(SourceError, match=r"not there: gone\.jpg"):
        arranged(TERRA_INCOGNITA, source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_hospitals_of_camelyon(tmp_path):
    source = tmp_path / "in" / "camelyon17_v1.0"
    rows = [("4", "0", "3328", "21792", "1", "0"), ("96", "2", "5", "6", "0", "4")]
    put(source, "patches/patient_004_node_0/patch_patient_004_node_0_x_3328_y_21792.png")
    put(source, "patches/patient_096_node_2/patch_patient_096_node_2_x_5_y_6.png")
    with (source / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("", "patient", "node", "x_coord", "y_coord", "tumor", "center"))
        table.writerows((n, *row) for n, row in enumerate(rows))
    assert arranged(CAMELYON17, tmp_path / "in", tmp_path / "out") == {
        "hospital_0/tumor/patch_patient_004_node_0_x_3328_y_21792.png",
        "hospital_4/normal/patch_patient_096_node_2_x_5_y_6.png",
    }


def write_table(
    path: Path, rows: list[tuple], names: list[str], about: str | bytes | None = None
) -> None:
    image = [{"bytes": content, "path": name} for content, name, _, _ in rows]
    table = pa.table(
        {"image": image, "domain": [r[2] for r in rows], "label": [r[3] for r in rows]}
    )
    hubs = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(hubs) if about is None else about}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_the_hubs_tables_keep_names_classes_and_bytes(tmp_path):
    rows = [(b"one", "pic_1.jpg", "photo", 0), (b"\x89PNG", None, "Sketch", 1)]
    write_table(tmp_path / "in" / "t.parquet", rows, ["dog", "elephant"])
    found = arranged(PACS, tmp_path / "in", tmp_path / "out")
    assert found == {"photo/dog/pic_1.jpg", "sketch/elephant/t-000001.png"}
    assert (tmp_path / "out" / "photo" / "dog" / "pic_1.jpg").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ((b"x", "../../evil.jpg", "photo", 0), ["dog"]),
        ((b"x", "a.jpg", "..", 0), ["dog"]),
        ((b"x", "a.jpg", "a/b", 0), ["dog"]),
        ((b"x", "a.jpg", "photo", 0), ["/etc"]),
        ((b"x", "a.jpg", "photo", 7), ["dog"]),
        ((b"x", "a.jpg", "photo", 0), []),
        ((None, "a.jpg", "photo", 0), ["dog"]),
        ((b"x", f"{'a' * 300}.jpg", "photo", 0), ["dog"]),
        ((b"x", "a.jpg", "photo", 0), ["d" * 300]),
    ],
)
def test_tables_that_mean_harm(tmp_path, row, names):
    write_table(tmp_path / "in" / "t.parquet", [row], names)
    with pytest.raises(SourceError):
        arranged(PACS, tmp_path / "in", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize("label", [-1, -2, 2, None, 0.0])
def test_a_label_without_a_name_is_no_class(tmp_path, label):
    """The hub has -1 where there is no label."""
    write_table(tmp_path / "in" / "t.parquet", [(b"x", "a.jpg", "photo", label)], ["dog", "cat"])
    with pytest.raises(SourceError, match=rf"{label}\b.*t\.parquet"):
        arranged(PACS, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "about", ["{no json", "[]", "5", '{"info": null}', b"\xff\xfe{", "[" * 100_000]
)
def test_tables_with_damaged_metadata(tmp_path, about):
    write_table(tmp_path / "in" / "t.parquet", [(b"x", "a.jpg", "photo", 0)], ["dog"], about)
    with pytest.raises(SourceError, match=r"table that cannot be read \(t\.parquet"):
        arranged(PACS, tmp_path / "in", tmp_path / "out")


def test_other_names_of_a_domain_hold_in_tables(tmp_path):
    for number, other in enumerate(("Real World", "Real", "real_world")):
        folder = tmp_path / str(number)
        write_table(folder / "t.parquet", [(b"x", "a.jpg", other, 0)], ["Mop"])
        found = arranged(OFFICE_HOME, folder, tmp_path / f"out{number}")
        assert found == {"Real World/Mop/a.jpg"}


def test_a_folder_of_something_else_is_told_what_was_looked_for(tmp_path):
    put(tmp_path / "in", "photo/dog/1.jpg", "sketch/dog/1.jpg")
    with pytest.raises(SourceError, match=r"art_painting.*at its top: photo, sketch"):
        arranged(PACS, tmp_path / "in", tmp_path / "out")


def test_rotated_digits(tmp_path):
    labels = write_mnist(tmp_path / "in")
    found = arranged(ROTATED_MNIST, tmp_path / "in", tmp_path / "out")
    assert len(found) == 60
    per_domain = {d: {int(Path(n).stem) for n in found if n.startswith(f"{d}/")} for d in
                  ROTATED_MNIST.domains}  # fmt: skip
    assert all(len(rows) == 10 for rows in per_domain.values())
    assert set().union(*per_domain.values()) == set(range(60))  # each digit in one domain
    for name in found:
        assert name.split("/")[1] == str(labels[int(Path(name).stem)])
    image = Image.open(tmp_path / "out" / sorted(found)[0])
    assert (image.size, image.mode) == ((28, 28), "L")
    again = arranged(ROTATED_MNIST, tmp_path / "in", tmp_path / "again")
    assert again == found  # one data set, whoever makes it


def test_an_angle_turns_against_the_clock():
    digit = np.zeros((28, 28), np.uint8)
    digit[2:10, 12:16] = 255  # above the middle
    assert np.array_equal(rotated(digit, 0), digit)
    turned = rotated(digit, 75)
    rows, columns = np.nonzero(turned > 127)
    assert columns.mean() < 10  # to the left
    assert 8 < rows.mean() < 14


def test_coloured_digits_follow_the_rule():
    draw = np.random.default_rng(0)
    digits = draw.integers(0, 10, 40_000)
    for noise in (0.1, 0.2, 0.9):
        low, colours = coloured_labels(digits, noise, draw)
        assert np.mean(low != (digits < 5)) == pytest.approx(0.25, abs=0.01)
        assert np.mean(low != (colours == 1)) == pytest.approx(noise, abs=0.01)
    image = coloured(np.full((28, 28), 7, np.uint8), 1)
    assert image[..., 1].min() == 7
    assert image[..., (0, 2)].max() == 0


def test_coloured_digits_on_the_disk(tmp_path):
    write_mnist(tmp_path / "in", 200, 40)
    found = arranged(COLORED_MNIST, tmp_path / "in", tmp_path / "out")
    assert len(found) == 240
    for domain, follows in (("plus_90", 0.9), ("plus_80", 0.8), ("minus_90", 0.1)):
        own = [name for name in found if name.startswith(f"{domain}/")]
        assert len(own) == 80
        green = [np.asarray(Image.open(tmp_path / "out" / n))[..., 1].max() > 0 for n in own]
        agree = [("0_to_4" in name) == is_green for name, is_green in zip(own, green, strict=True)]
        assert np.mean(agree) == pytest.approx(follows, abs=0.12)


def test_mnists_files_in_folders_of_their_names(tmp_path):
    """As Kaggle has them."""
    write_mnist(tmp_path / "in")
    expected = arranged(ROTATED_MNIST, tmp_path / "in", tmp_path / "out")
    for path in (tmp_path / "in").iterdir():
        inside = tmp_path / "other" / path.stem / path.stem
        inside.parent.mkdir(parents=True)
        inside.write_bytes(gzip.decompress(path.read_bytes()))
    assert arranged(ROTATED_MNIST, tmp_path / "other", tmp_path / "again") == expected


@pytest.mark.parametrize("harm", ["missing", "cut", "other", "mixed", "flat", "large", "eleven"])
def test_damaged_mnist(tmp_path, harm):
    write_mnist(tmp_path / "in")
    path = tmp_path / "in" / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-100])
    elif harm == "other":
        path.write_bytes(gzip.compress(b"\x00\x00\x0d\x03" + bytes(100)))
    elif harm == "mixed":
        path.write_bytes(gzip.compress(idx(np.zeros((3, 28, 28)))))
    elif harm == "eleven":
        labels = tmp_path / "in" / "train-labels-idx1-ubyte.gz"
        labels.write_bytes(gzip.compress(idx(np.full(50, 10))))
    else:
        shape = (50, 0, 28) if harm == "flat" else (50, 32, 32)
        path.write_bytes(gzip.compress(idx(np.zeros(shape))))
    with pytest.raises(SourceError, match=r"MNIST|damaged|no digits with labels"):
        arranged(ROTATED_MNIST, tmp_path / "in", tmp_path / "out")


def test_an_array_comes_back(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "a"), array)


def test_two_images_of_one_place(tmp_path):
    rows = [(b"one", "a.jpg", "photo", 0), (b"two", "a.jpg", "photo", 0)]
    write_table(tmp_path / "in" / "t.parquet", rows, ["dog"])
    with pytest.raises(SourceError, match=r"two images of one name"):
        arranged(PACS, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("how", ["link", "copy"])
def test_what_is_arranged_is_not_altered(tmp_path, how):
    put(tmp_path / "in", *(f"{d}/{c}/1.jpg" for d in PACS.domains for c in PACS.classes))
    before = {name: (tmp_path / "in" / name).stat().st_mtime_ns for name in files(tmp_path / "in")}
    place(items_of(PACS, tmp_path / "in"), tmp_path / "out", how, nothing)
    after = {name: (tmp_path / "in" / name).stat().st_mtime_ns for name in files(tmp_path / "in")}
    assert after == before
    one = tmp_path / "out" / "photo" / "dog" / "1.jpg"
    assert one.samefile(tmp_path / "in" / "photo" / "dog" / "1.jpg") == (how == "link")


def test_only_what_was_made_for_it_becomes_a_link_unasked(tmp_path):
    put(tmp_path / "in", *(f"{d}/{c}/1.jpg" for d in PACS.domains for c in PACS.classes))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "given").symlink_to(tmp_path / "in")
    for source, out, linked in (
        ("in", "out", True), ("in", "work/out", False), ("work/given", "work/again", False)
    ):  # fmt: skip
        place(items_of(PACS, tmp_path / source), tmp_path / out, "link or copy", nothing)
        one = "photo/dog/1.jpg"
        assert (tmp_path / out / one).samefile(tmp_path / "in" / one) == linked


def small(**about):
    """PACS with two domains and two classes."""
    counts = Counts("small", {"photo": 3, "sketch": 2}, "here", {"photo": (2, 1), "sketch": (1, 1)})
    return dataclasses.replace(
        PACS, domains=("photo", "sketch"), classes=("cat", "dog"), counts=(counts,), known_bad=(),
        **about,
    )  # fmt: skip


def test_counts_as_published_and_every_difference(tmp_path):
    put(tmp_path, "photo/cat/1.jpg", "photo/cat/2.jpg", "photo/dog/1.jpg", "sketch/cat/1.jpg")
    put(tmp_path, "sketch/dog/1.jpg")
    assert compare(small(), tmp_path).differences == ()
    put(tmp_path, "photo/cat/3.jpg", "photo/cow/1.jpg", "other/cat/1.jpg")
    (tmp_path / "sketch" / "dog" / "1.jpg").unlink()
    differences = compare(small(), tmp_path).differences
    for line in (
        "domain 'other' is not one of the set", "class 'cow' is not one of the set",
        "sketch has no dog", "photo has 5 images instead of 3", "sketch has 1 images instead of 2",
        "photo/cat has 3 images instead of 2", "sketch/dog has 0 images instead of 1",
    ):  # fmt: skip
        assert line in differences


def test_the_nearest_version_is_compared(tmp_path):
    put(tmp_path, "photo/cat/1.jpg", "photo/dog/1.jpg", "sketch/cat/1.jpg", "sketch/dog/1.jpg")
    new = Counts("revised", {"photo": 2, "sketch": 2}, "there")
    two = dataclasses.replace(small(), counts=(*small().counts, new))
    found = compare(two, tmp_path)
    assert (found.version, found.differences) == (new, ())


def test_a_reported_image_is_looked_at(tmp_path):
    put(tmp_path, "photo/cat/1.jpg", "sketch/dog/1.jpg", "sketch/cat/1.jpg", "photo/dog/1.jpg")
    found = compare(dataclasses.replace(small(), known_bad=("photo/cat/1.jpg",)), tmp_path)
    assert found.bad == ("photo/cat/1.jpg",)


def test_the_catalogue_is_consistent():
    for name, benchmark in CATALOGUE.items():
        assert name == benchmark.name
        assert benchmark.classes == tuple(sorted(benchmark.classes))
        assert bool(benchmark.classes) != bool(benchmark.class_count)
        for version in benchmark.counts:
            assert set(version.domains) == set(benchmark.domains)
            assert version.source
            for domain, per_class in (version.classes or {}).items():
                assert len(per_class) == len(benchmark.classes)
                assert sum(per_class) == version.domains[domain]
        for file in (file for way in benchmark.ways for file in way.files):
            assert (file.most_files > 0) == (file.form in ("zip", "tar"))
            for source in file.sources:
                known = source.size is not None or source.digest is not None
                assert known == bool(source.said_by), source
                if source.digest:
                    kind, _, digits = source.digest.partition(":")
                    assert len(bytes.fromhex(digits)) == {"sha256": 32, "md5": 16}[kind]
    totals = {name: b.counts[0].total for name, b in CATALOGUE.items() if b.counts}
    assert totals == {
        "pacs": 9_991, "vlcs": 10_729, "office-home": 15_588, "terra-incognita": 24_788,
        "domain-net": 586_575, "camelyon17": 455_954, "rotated-mnist": 70_000,
        "colored-mnist": 70_000,
    }  # fmt: skip
    assert TERRA_INCOGNITA.counts[1].total == 24_330
    assert DOMAIN_NET.counts[1].total - DOMAIN_NET.counts[0].total == 9_431


@pytest.mark.parametrize("name", ["PACS", "Office Home", "office_home", "TerraIncognita"])
def test_names_are_found_however_they_are_written(name):
    assert find(name).title.lower() == name.lower().replace(" ", "").replace("_", "")


def test_a_wrong_name_is_told_the_nearest():
    with pytest.raises(ScmdError, match="Did you mean 'office-home'"):
        find("offce-home")
