"""Word vectors: pickles are read without running code, all-zero rows are repaired and said to be."""

import os
import pickle
import re

import numpy as np
import pytest
import torch
from harmful import Harmful
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zeromamba.data.word_vectors import ADMITTED, PickleRunsCodeError, read_pickled_array, word_vectors


@given(
    array=hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(max_dims=3, max_side=4)),
    protocol=st.sampled_from([3, 4, 5]),
    old=st.booleans(),
)
def test_arrays_come_back_whichever_numpy_pickled_them(tmp_path_factory, array, protocol, old):
    path = tmp_path_factory.mktemp("w2v") / "vectors.pkl"
    stream = pickle.dumps(array, protocol=protocol)
    if old and protocol == 3:  # names stand in a line of their own, so they can be those of numpy 1
        stream = stream.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(stream)
    back = read_pickled_array(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: [np.eye(2), bad], lambda bad: {"V": bad}])
def test_pickle_that_would_run_code(tmp_path, monkeypatch, protocol, wrap):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(wrap(Harmful()), protocol=protocol))
    with pytest.raises(PickleRunsCodeError, match=r"evil\.pkl: reading this pickle would run code, it asks for "):
        read_pickled_array(path)
    assert not (tmp_path / "ran").exists()


def test_error_names_what_the_pickle_asks_for(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(PickleRunsCodeError, match=rf"asks for {os.name}\.mkdir"):
        read_pickled_array(path)


def test_code_inside_an_array_of_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(np.array([Harmful(), None], dtype=object)))
    with pytest.raises(PickleRunsCodeError):
        read_pickled_array(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("module", ["numpy", "numpy._core.multiarray", "os"])
@pytest.mark.parametrize("name", ["dtype.__init__", "ndarray.tofile", "f2py", "fromfile", "load", "system"])
def test_nothing_else_is_admitted(tmp_path, module, name):
    assert (module, name) not in ADMITTED
    path = tmp_path / "vectors.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name)) + b"\x93.")
    with pytest.raises(PickleRunsCodeError):
        read_pickled_array(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", pickle.dumps(np.eye(3))[:-9]])
def test_broken_pickle(tmp_path, content):
    path = tmp_path / "vectors.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vectors\.pkl: not a readable pickle"):
        read_pickled_array(path)


def test_pickle_of_something_else(tmp_path):
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps({"black": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="holds a dict, expected a numpy array"):
        read_pickled_array(path)


NAMES = ("natural", "man-made", "open")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_zero_row_is_repaired_and_said_to_be(dtype):
    array = np.array([[1, 2, 0], [0, 0, 0], [3, 0, 4]], dtype)
    V, notes = word_vectors(array, NAMES, "SUN.pkl", repair=True)
    torch.testing.assert_close(V, torch.tensor([[1.0, 2, 0], [2, 1, 2], [3, 0, 4]]))
    assert len(notes) == 1
    assert "'man-made' (row 1 of SUN.pkl" in notes[0]
    assert not array[1].any(), "the caller's array is left as it is"


def test_all_zero_row_is_kept_on_request_with_a_warning():
    array = np.array([[1.0, 2, 0], [0, 0, 0], [3, 0, 4]])
    V, notes = word_vectors(array, NAMES, "SUN.pkl", repair=False)
    torch.testing.assert_close(V, torch.from_numpy(array).float())
    assert len(notes) == 1
    assert "kept as released" in notes[0]


@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 100, width=16)), st.booleans())
def test_no_zero_row_after_repair_and_no_change_elsewhere(array, repair):
    zero = ~array.any(1)
    assume(not zero.all())
    V, notes = word_vectors(array, NAMES, "f", repair=repair)
    assert len(notes) == zero.sum()
    np.testing.assert_array_equal(V.numpy()[~zero], array[~zero].astype(np.float32))
    assert V.any(1).all() if repair else not V[torch.from_numpy(zero)].any()


@pytest.mark.parametrize("others", [[[0.0, 0], [0, 0]], [[1.0, -2], [-1, 2]]])
def test_zero_row_that_cannot_be_repaired(others):
    with pytest.raises(ValueError, match="f: all-zero rows, and the mean of the others is zero too"):
        word_vectors(np.array([[0.0, 0], *others]), NAMES, "f", repair=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_word_vector_that_is_no_number(value):
    array = np.ones((3, 4))
    array[2, 1] = value
    with pytest.raises(ValueError, match=r"f: row 2 \('open'\) is not finite"):
        word_vectors(array, NAMES, "f", repair=True)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (4, 4), (3, 0), (3, 4, 1)])
def test_word_vectors_that_are_not_one_row_an_attribute(shape):
    with pytest.raises(ValueError, match=rf"f: word vectors of shape {re.escape(str(shape))}, expected \(3, v\)"):
        word_vectors(np.ones(shape), NAMES, "f", repair=True)


@pytest.mark.parametrize("dtype", [complex, str, bool, object])
def test_word_vectors_that_are_not_real(dtype):
    with pytest.raises(ValueError, match="expected real numbers"):
        word_vectors(np.ones((3, 4)).astype(dtype), NAMES, "f", repair=True)
