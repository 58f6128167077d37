"""Routes are permutations of the tokens, in the orders that their names say."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeromamba.kernels import CROSS_SCAN, Route

routes = st.builds(Route, st.booleans(), st.booleans(), st.integers(0, 5))
sides = st.integers(1, 9)


@given(routes, sides, sides)
def test_every_route_visits_every_token_once_and_positions_are_its_inverse(route, h, w):
    tokens = route.tokens(h, w)
    assert torch.equal(tokens.sort().values, torch.arange(h * w))
    assert torch.equal(tokens[route.positions(h, w)], torch.arange(h * w))


@given(routes, sides, sides)
def test_reverse_is_the_same_order_from_its_end(route, h, w):
    other = Route(route.column, not route.reverse, route.window)
    assert torch.equal(other.tokens(h, w), route.tokens(h, w).flip(0))


def test_the_four_routes_of_ss2d_on_a_map_of_2_by_3():
    """k = 0 row-major, 1 column-major, 2 and 3 those reversed."""
    orders = [route.tokens(2, 3).tolist() for route in CROSS_SCAN]
    assert orders == [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]


def test_windows_of_2_on_a_map_of_3_by_3_are_cut_off_by_its_border():
    assert Route(window=2).tokens(3, 3).tolist() == [0, 1, 3, 4, 2, 5, 6, 7, 8]
    assert Route(window=2, column=True).tokens(3, 3).tolist() == [0, 3, 1, 4, 6, 7, 2, 5, 8]


def test_a_window_larger_than_the_map_is_the_map():
    assert torch.equal(Route(window=sys.maxsize).tokens(2, 3), Route().tokens(2, 3))
    assert torch.equal(Route(column=True, window=3).tokens(2, 3), Route(column=True).tokens(2, 3))


def test_numbers_of_numpy_are_options_too():
    assert Route(np.bool_(True), window=np.int64(2)) == Route(True, window=2)
    assert torch.equal(Route(np.bool_(True), window=np.int64(2)).tokens(3, 3), Route(True, window=2).tokens(3, 3))


def test_what_is_no_option_is_refused_by_name():
    with pytest.raises(ValueError, match="window: expected 0"):
        Route(window=-1)
    for window in (2.5, None, "2"):
        with pytest.raises(TypeError, match="window: expected a whole number"):
            Route(window=window)
    for name in ("column", "reverse"):
        with pytest.raises(TypeError, match=f"{name}: expected True or False, got None"):
            Route(**{name: None})
