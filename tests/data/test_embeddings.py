"""Word vectors of attributes: the recipe behind the files that the field shares, and the files that it reads."""

import csv
import gzip
import shutil
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import DATA
from word2vec_file import write_word2vec

from zeromamba import embeddings
from zeromamba.data import BENCHMARKS, load_dataset
from zeromamba.data.benchmarks import listed_attribute_names
from zeromamba.data.word_vectors import read_pickled_array
from zeromamba.embeddings import OWN, RECIPES, add_up, class_vector, words_of

# gensim leaves a file without a header open, which the garbage collector then reports
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")

needs_attributes = pytest.mark.skipif(not (DATA / "attributes").is_dir(), reason=f"no attribute names in {DATA}")


@pytest.fixture
def tiny_folder(tiny, tmp_path):
    """A copy of the small data set, with attributes of several words and of one."""
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    table = folder / "attributes.csv"
    table.write_text(table.read_text().replace("red,green,blue,large", "number_of_legs (six),red-brown,wings,large"))
    return folder


class Words(dict):
    """Vectors by word, as a file's reader gives them."""

    vector_size = 4


def vocabulary(*words):
    return Words({word: np.random.default_rng(i).normal(size=4).astype(np.float32) for i, word in enumerate(words)})


def run(*arguments):
    """The command's exit status: None, or a sentence."""
    try:
        embeddings.main([*map(str, arguments)])
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.parametrize(
    ("name", "recipe", "words"),
    [
        ("has_bill_shape::curved_(up_or_down)", "cub", "bill shape curved"),
        ("has_bill_shape::spatulate", "cub", "bill shape broad"),
        ("has_upperparts_color::grey", "cub", "upper parts color gray"),
        ("has_shape::upright-perching_water-like", "cub", "shape upright perching water like"),
        ("has_tail_shape::forked_tail", "cub", "tail shape forked tail"),
        ("rock/stone", "sun", "rock stone"),
        ("far-away horizon", "sun", "faraway horizon"),
        ("man-made", "sun", "man-made"),
        ("quadrapedal", "awa2", "quadrupedal"),
        ("newworld", "awa2", "new world"),
    ],
)
def test_words_of_an_attribute(name, recipe, words):
    assert words_of(name, RECIPES[recipe]) == words.split()


def test_words_of_a_user_s_own_attribute():
    assert words_of("beak: hooked_tip (upper)/red-brown", OWN) == ["beak", "hooked", "tip", "upper", "red-brown"]


def test_words_are_added_up_and_what_has_no_vector_is_left_out():
    known = vocabulary("tail", "shape", "forked")
    total, missing = add_up(["tail", "shape", "of", "forked", "tail"], known)
    np.testing.assert_allclose(total, 2.0 * known["tail"] + known["shape"] + known["forked"], rtol=1e-6)
    assert total.dtype == np.float64
    assert missing == ["of"]


def test_a_hyphenated_word_without_a_vector_is_its_parts():
    known = vocabulary("man", "made", "red-brown", "red")
    np.testing.assert_allclose(add_up(["man-made"], known)[0], known["man"].astype(float) + known["made"])
    np.testing.assert_allclose(add_up(["red-brown"], known)[0], known["red-brown"])
    total, missing = add_up(["red-ish", "x-y", "-"], known)
    np.testing.assert_allclose(total, known["red"])
    assert missing == ["ish", "x-y", "-"]


def test_a_word_is_looked_up_as_written_then_in_small_letters():
    known = vocabulary("Jay", "jay", "owl")
    np.testing.assert_allclose(add_up(["Jay"], known)[0], known["Jay"])
    np.testing.assert_allclose(add_up(["Owl"], known)[0], known["owl"])


def test_a_class_takes_its_first_name_with_a_vector_and_phrases_before_words():
    known = vocabulary("golden_retriever", "golden", "retriever", "tench", "fox-terrier")
    np.testing.assert_allclose(class_vector(["golden retriever"], known), known["golden_retriever"])
    both = known["golden"].astype(float) + known["tench"]
    np.testing.assert_allclose(class_vector(["Tinca tinca", "golden tench", "tench"], known), both)
    assert not class_vector(["Tinca tinca"], known).any()


def text(vectors, header):
    lines = [f"{len(vectors)} 4"] * header + [f"{w} {' '.join(map(str, v.tolist()))}" for w, v in vectors.items()]
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize("kind", ["word2vec.bin", "word2vec.bin.gz", "word2vec", "glove.txt", "glove.txt.gz", "f.vec"])
def test_the_standard_files_are_read_whatever_they_are_called(tmp_path, kind):
    pytest.importorskip("gensim")
    vectors, path = vocabulary("red", "dög", "beak"), tmp_path / kind
    if "word2vec" in kind:
        write_word2vec(path, vectors)
    else:
        path.write_bytes(text(vectors, header=kind == "f.vec"))
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    read = embeddings.read_vectors(path)
    assert read.vector_size == 4
    for word, vector in vectors.items():
        np.testing.assert_allclose(read[word], vector, rtol=1e-6)
    assert "green" not in read


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"3 4\nred " + bytes(12), b"red 1 2 3\nblue 1 x 3\n"])
def test_a_broken_file_is_named(tmp_path, content):
    pytest.importorskip("gensim")
    path = tmp_path / "broken.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.bin: neither a word2vec nor a GloVe file"):
        embeddings.read_vectors(path)


def test_a_broken_archive_is_named(tmp_path):
    """As a download that was joined wrongly leaves it; of one that ends too early gzip raises EOFError."""
    pytest.importorskip("gensim")
    path, whole = tmp_path / "glove.txt.gz", gzip.compress(text(vocabulary("red", "beak"), header=False))
    for content in (whole[:20] + b"\xff" * 8 + whole[28:], whole[:-12]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"glove\.txt\.gz: neither a word2vec nor a GloVe file"):
            embeddings.read_vectors(path)


def test_without_gensim_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ValueError, match=r"needs gensim: pip install -e '\.\[words\]'"):
        embeddings.read_vectors(tmp_path / "f.bin")


def test_a_folder_s_attributes_get_vectors_that_its_loader_reads(tmp_path, capsys, tiny_folder):
    pytest.importorskip("gensim")
    known = vocabulary("legs", "red", "brown", "wings")
    path = write_word2vec(tmp_path / "w.bin", known)
    assert run(tiny_folder, "--vectors", path) is None
    assert (
        "not in the vocabulary: 'number', 'of', 'six' of 'number_of_legs (six)' (left out)" in capsys.readouterr().out
    )
    data = load_dataset(str(tiny_folder), tmp_path, seed=0)
    np.testing.assert_allclose(data.V[0], known["legs"], rtol=1e-6)
    np.testing.assert_allclose(data.V[1], known["red"] + known["brown"], rtol=1e-6)
    before = (tiny_folder / "word_vectors.csv").read_bytes()
    other = write_word2vec(tmp_path / "other.bin", vocabulary("wings", "legs"))
    assert "exists already: give --overwrite" in run(tiny_folder, "--vectors", other), "nothing is written over unasked"
    assert (tiny_folder / "word_vectors.csv").read_bytes() == before
    foreign = write_word2vec(tmp_path / "foreign.bin", vocabulary("Beine"))
    message = run(tiny_folder, "--vectors", foreign, "--overwrite")
    assert f"{foreign}: has no word of the 4 attributes" in message
    assert (tiny_folder / "word_vectors.csv").read_bytes() == before
    assert run(tiny_folder, "--vectors", other, "--overwrite") is None
    (tiny_folder / "word_vectors.npy").touch()
    assert "word_vectors.npy exists already: remove it" in run(tiny_folder, "--vectors", other, "--overwrite")
    (tiny_folder / "word_vectors.npy").unlink()
    assert (tiny_folder / "word_vectors.csv").read_bytes() != before


def test_a_file_that_is_named_is_not_replaced_unasked_nor_by_numbers_that_are_none(tmp_path, tiny_folder):
    pytest.importorskip("gensim")
    mine = tmp_path / "mine.npy"
    mine.write_bytes(b"mine")
    path = write_word2vec(
        tmp_path / "w.bin", vocabulary("legs", "red", "brown") | {"wings": np.array([1, np.inf, 0, 0])}
    )
    assert run(tiny_folder, "--vectors", path, "--out", mine) == (
        f"error: {mine} exists already: give --overwrite to replace it, or another --out"
    )
    message = run(tiny_folder, "--vectors", path, "--out", mine, "--overwrite")
    assert message == f"error: {path}: numbers that are not finite, in words of wings"
    assert mine.read_bytes() == b"mine"


def test_a_write_that_fails_leaves_the_old_vectors(tmp_path, monkeypatch):
    path = tmp_path / "v.npy"
    embeddings.write(path, ("red",), np.ones((1, 4)))
    before = path.read_bytes()
    monkeypatch.setattr("zeromamba.files.os.fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        embeddings.write(path, ("red",), np.zeros((1, 4)))
    assert path.read_bytes() == before


def test_a_home_folder_is_found(tmp_path, tiny_folder, monkeypatch):
    pytest.importorskip("gensim")
    write_word2vec(tmp_path / "w.bin", vocabulary("wings"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(f"~/{tiny_folder.name}", "--vectors=~/w.bin") is None
    assert (tiny_folder / "word_vectors.csv").is_file()


def test_an_interruption_ends_with_one_word(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(embeddings, "read_vectors", Mock(side_effect=KeyboardInterrupt))
    assert run(tiny_folder, "--vectors", tmp_path / "w.bin") == "interrupted"


@pytest.mark.parametrize("suffix", [".npy", ".pkl", ".csv"])
def test_the_forms_hold_the_same_numbers(tmp_path, tiny_folder, suffix):
    pytest.importorskip("gensim")
    known = vocabulary("legs", "red", "brown", "wings")
    path, out = write_word2vec(tmp_path / "w.bin", known), tmp_path / f"new/folder/v{suffix}"
    assert run(tiny_folder, "--vectors", path, "--out", out) is None
    if suffix == ".csv":
        array = np.array([row[1:] for row in csv.reader(out.read_text().splitlines())], float)
    else:
        array = np.load(out) if suffix == ".npy" else read_pickled_array(out)
    assert (array.shape, array.dtype) == ((4, 4), np.float64)
    np.testing.assert_array_equal(array[2], known["wings"].astype(float))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cub",), "has no attributes.txt with the names of CUB's attributes"),
        (("nosuch",), "expected cub, sun, awa2, imagenet, or a folder with attributes.csv"),
        (("imagenet",), "has no class folders"),
    ],
)
def test_what_is_missing_is_told(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in run(*arguments, "--vectors", tmp_path / "w.bin")


def test_a_missing_vector_file_and_a_wrong_suffix_are_told(tmp_path, tiny_folder):
    pytest.importorskip("gensim")
    assert "--vectors" in run(tiny_folder, "--vectors", tmp_path / "nosuch.bin")
    assert ".pkl, .npy or .csv" in run(tiny_folder, "--vectors", tmp_path / "w.bin", "--out", "v.mat")


@given(st.text(max_size=30), st.sampled_from([OWN, *RECIPES.values()]))
def test_any_name_has_words_without_spaces(name, recipe):
    assert all(word and not any(c.isspace() for c in word) for word in words_of(name, recipe))


def peers_words(name, stale):
    """The cleaned words that DAZLE's repository lists; its AWA2 list was written without the renames (`stale`)."""
    with (DATA / "attributes" / BENCHMARKS[name].title / "new_des.csv").open() as file:
        listed = [row["new_des"] for row in csv.DictReader(file)]
    for old, new in stale.items():
        listed = [new if text == old else text for text in listed]
    return [text.split() for text in listed]


def our_words(name):
    _, names = listed_attribute_names(BENCHMARKS[name], DATA)
    return [words_of(attribute, RECIPES[name]) for attribute in names]


@needs_attributes
@pytest.mark.parametrize("name", BENCHMARKS)
def test_our_words_are_the_peers_words_for_every_attribute(name):
    stale = RECIPES["awa2"].renames if name == "awa2" else {}
    ours = our_words(name)
    assert ours == peers_words(name, stale)
    assert len(ours) == BENCHMARKS[name].attributes


@needs_attributes
def test_the_shared_vectors_are_the_sums_of_our_words(tmp_path, capsys):
    """Without word2vec itself: one vector a word, solved from all 499 shared sums, gives every one of them back.

    311 words of 499 sums are determined up to 49 directions, so 237 sums are a real test; a wrong word anywhere
    (AWA2's "toughskin" left whole, "wood" with "tree") would leave a residual. The solved vocabulary is then written
    as a word2vec file, and the command makes the shared files from it.
    """
    pytest.importorskip("gensim")
    unknown = {"a", "of", "to", "and", "(not", "tree)", "man-made"}  # not in Google News' vocabulary
    words = [[w for w in row if w not in unknown] for name in BENCHMARKS for row in our_words(name)]
    shared = {name: read_pickled_array(DATA / BENCHMARKS[name].word_vectors) for name in BENCHMARKS}
    V = np.concatenate([*shared.values()])
    column = {word: i for i, word in enumerate(sorted({w for row in words for w in row}))}
    counts = np.zeros((len(words), len(column)))
    for i, row in enumerate(words):
        for word in row:
            counts[i, column[word]] += 1
    E, _, rank, _ = np.linalg.lstsq(counts, V, rcond=None)
    assert len(words) - rank > 200
    np.testing.assert_allclose(counts @ E, V, atol=1e-9)

    path = write_word2vec(tmp_path / "solved.bin", {word: E[i] for word, i in column.items()})
    for name, array in shared.items():
        out = tmp_path / f"{name}.pkl"
        assert run(name, "--vectors", path, "--data-root", DATA, "--out", out) is None
        made = read_pickled_array(out)
        assert (made.shape, made.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(made, array, atol=1e-5)  # word2vec files are float32
    assert "'man-made' of 'man-made' (no word is left" in capsys.readouterr().out
