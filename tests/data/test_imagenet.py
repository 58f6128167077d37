"""ImageNet's folder, small: what is drawn, who sees what, and a run from word2vec to the table."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import error_of
from PIL import Image
from word2vec_file import write_word2vec

import train
from zeromamba import embeddings
from zeromamba.checkpoint import load_checkpoint
from zeromamba.data import load_dataset, require_decodable
from zeromamba.settings import Settings, preset

CLASSES = {
    "n01440764": "tench, Tinca tinca",
    "n02085620": "Chihuahua",
    "n02099601": "golden retriever",
    "n02012849": "crane",
    "n02422106": "hartebeest, bubal",
    "n02504458": "African elephant, Loxodonta africana",
    "n03126707": "crane",
    "n03196217": "digital clock",
    "n07745940": "strawberry",
    "n09472597": "volcano",
}
WORDS = ("tench", "Chihuahua", "golden_retriever", "crane", "bubal", "African", "elephant", "digital", "clock")
WORDS += ("strawberry", "volcano")
CAVEAT = "the backbone saw all classes of ImageNet-1K in pretraining"


def image(path, c, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([c, i]).integers(0, 90, (12, 16, 3), np.uint8)
    pixels[:, :, c % 3] += np.uint8(16 * c)
    Image.fromarray(pixels).save(path, format="JPEG")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    folder = root / "ImageNet"
    for c, wnid in enumerate(CLASSES):
        for i in range(30):
            image(folder / f"train/{wnid}/{wnid}_{i}.JPEG", c, i)
        for i in range(3):
            image(folder / f"val/{wnid}/ILSVRC2012_val_{c}{i}.JPEG", c, 100 + i)
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{w} {n}\n" for w, n in CLASSES.items()))
    vectors = {word: np.random.default_rng(i).normal(size=300) for i, word in enumerate(WORDS)}
    write_word2vec(root / "w2v.bin", vectors)
    return root


@pytest.fixture
def root(original, tmp_path):
    pytest.importorskip("gensim")
    copy = tmp_path / "data"
    shutil.copytree(original, copy)
    embeddings.main(["imagenet", "--vectors", str(copy / "w2v.bin"), "--data-root", str(copy)])
    return copy


def of(data, part):
    return {data.images.name(i) for i in part.tolist()}


def test_a_fifth_of_the_classes_is_unseen_and_a_tenth_of_the_training_images_is_used(root):
    data = load_dataset("imagenet", root, seed=0)
    assert (len(data.seen), len(data.unseen), data.Z.shape) == (8, 2, (10, 300))
    assert data.labels[data.trainval].bincount(minlength=10)[data.seen].tolist() == [3] * 8
    assert not torch.isin(data.labels[data.trainval], data.unseen).any()
    assert all("/ImageNet/train/" in name for name in of(data, data.trainval))
    for part, classes in ((data.test_seen, data.seen), (data.test_unseen, data.unseen)):
        assert all("/ImageNet/val/" in name for name in of(data, part))
        assert data.labels[part].bincount(minlength=10)[classes].tolist() == [3] * len(classes)
    assert torch.isin(data.val_classes, data.seen).all()
    for i, c in enumerate(data.labels.tolist()):
        assert f"/{data.class_names[c].split()[0]}/" in data.images.name(i)


def test_without_val_another_tenth_is_tested_and_a_note_says_so(root):
    shutil.rmtree(root / "ImageNet/val")
    data = load_dataset("imagenet", root, seed=0)
    assert data.labels[data.test_seen].bincount(minlength=10)[data.seen].tolist() == [3] * 8
    assert data.labels[data.test_unseen].bincount(minlength=10)[data.unseen].tolist() == [3] * 2
    assert len(of(data, torch.arange(len(data.labels)))) == len(data.labels)
    assert any("there is no val/" in note for note in data.notes)


def test_the_seed_draws_and_is_told(root):
    first, again, other = (load_dataset("imagenet", root, seed=s) for s in (3, 3, 4))
    assert first.unseen.tolist() == again.unseen.tolist()
    assert of(first, first.trainval) == of(again, again.trainval) != of(other, other.trainval)
    assert any("--data-seed 3" in note for note in first.notes)
    assert any(load_dataset("imagenet", root, seed=s).unseen.tolist() != first.unseen.tolist() for s in range(3))


def test_prototypes_are_the_word_vectors_of_the_names(root):
    data = load_dataset("imagenet", root, seed=0)
    vectors = embeddings.read_vectors(root / "w2v.bin")
    for name, words in (("tench", ["tench"]), ("golden retriever", ["golden_retriever"]), ("hartebeest", ["bubal"])):
        (row,) = [data.Z[c] for c, full in enumerate(data.class_names) if full.endswith(name)]
        expected = torch.tensor(sum(vectors[word] for word in words))
        torch.testing.assert_close(row, expected / expected.norm())
    torch.testing.assert_close(data.V, torch.eye(300))


def test_the_order_of_the_table_is_of_no_account(root):
    expected, table = load_dataset("imagenet", root, seed=0).Z, root / "w2v/ImageNet_class.csv"
    table.write_text("\n".join(reversed(table.read_text().splitlines())))
    assert torch.equal(load_dataset("imagenet", root, seed=0).Z, expected)


def test_what_a_user_should_know_is_noted(root):
    data = load_dataset("imagenet", root, seed=0)
    assert "n02012849 crane = n03126707 crane" in " ".join(data.notes)
    assert data.partial == "not the whole of ImageNet: 10 of 1000 classes"


def test_words_txt_serves_as_well(root):
    (root / "ImageNet/LOC_synset_mapping.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"LOC_synset_mapping\.txt, or words\.txt"):
        load_dataset("imagenet", root, seed=0)
    lines = [f"{wnid}\t{names}\n" for wnid, names in {**CLASSES, "n00001740": "entity"}.items()]
    (root / "ImageNet/words.txt").write_text("".join(lines))
    assert load_dataset("imagenet", root, seed=0).class_names[0] == "n01440764 tench"


def error(root):
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        require_decodable(load_dataset("imagenet", root, seed=0).images)
    return str(raised.value)


def test_mistakes_are_named(root):
    truncated = sorted((root / "ImageNet/val/n07745940").iterdir())[0]
    truncated.write_bytes(truncated.read_bytes()[:-60])
    assert f"{truncated} (" in error(root)
    shutil.rmtree(root / "ImageNet/val/n07745940")
    assert "train/ and val/ differ in 1 class folders" in error(root)
    shutil.rmtree(root / "ImageNet/val")
    mapping = root / "ImageNet/LOC_synset_mapping.txt"
    whole = mapping.read_text()
    mapping.write_text(whole.replace("n09472597 volcano", ""))
    assert "(LOC_synset_mapping.txt or words.txt): nothing on 1 of the classes in train/: n09472597" in error(root)
    mapping.write_text(whole.replace("n09472597 volcano", "n09472597"))
    assert "LOC_synset_mapping.txt: line 10" in error(root)
    mapping.write_text(whole)
    table = root / "w2v/ImageNet_class.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    assert "ImageNet_class.csv: nothing on 1 of the classes in train/: n09472597" in error(root)
    table.unlink()
    assert "python -m zeromamba.embeddings imagenet" in error(root)


def test_a_class_without_any_word_is_an_error_before_anything_is_written(original, tmp_path):
    pytest.importorskip("gensim")
    copy = tmp_path / "data"
    shutil.copytree(original, copy)
    path = write_word2vec(copy / "few.bin", {"tench": np.ones(300)})
    of_few = error_of(embeddings.main, "imagenet", "--vectors", path, "--data-root", copy)
    assert "has no word of 9 classes" in of_few
    names = copy / "ImageNet/LOC_synset_mapping.txt"
    names.write_text(names.read_text().replace("n09472597 volcano\n", ""))
    without_a_name = error_of(embeddings.main, "imagenet", "--vectors", copy / "w2v.bin", "--data-root", copy)
    assert without_a_name.endswith("no name for the classes n09472597")
    assert not any(copy.glob("w2v/*"))


def test_from_the_folder_to_the_table(root, tmp_path, monkeypatch):
    """How a number was made stands wherever it does, and so does what the pretrained backbone saw (the next test)."""
    monkeypatch.setattr(Settings, "chosen_by", property(lambda _: "made so and so"))
    out = tmp_path / "run"
    arguments = ["--preset", "small", "--image-size", "32", "--epochs", "1", "--batch-size", "8", "--workers", "0"]
    train.main(["--dataset", "imagenet", "--data-root", str(root), "--out", str(out), "--device", "cpu", *arguments])
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    assert len(seed["per_class"]["czsl"]) == 2
    table = " ".join((out / "table.txt").read_text().split())
    assert "24.5" in table
    assert "Table 3" in table
    assert "not the whole of ImageNet: 10 of 1000 classes; results do not compare" in table
    assert "made so and so" in table
    zero = " (gamma 0: H was 0 on validation images whatever gamma was)" if seed["validation"]["H"] == 0 else ""
    assert seed["chosen_by"] == f"made so and so{zero}"
    assert load_checkpoint(out / "seed-0" / "model.safetensors").record.chosen_by == f"made so and so{zero}"


def test_a_pretrained_backbone_s_number_says_that_it_saw_all_classes():
    settings = preset("imagenet", "paper")
    assert settings.weights is not None
    assert CAVEAT in settings.chosen_by
    assert CAVEAT not in preset("cub", "paper").chosen_by
    assert CAVEAT not in preset("imagenet", "small").chosen_by, "trained from scratch"
