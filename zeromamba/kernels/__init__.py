"""The selective scan, over the routes of a map (`ss2d`) or along a line (`selective_scan`).

It imports nothing else of the package, and can be lifted out and used alone.
"""

from .inputs import Discretization, Impl
from .op import ss2d
from .routes import CROSS_SCAN, Route
from .selective_scan import selective_scan

__all__ = ["CROSS_SCAN", "Discretization", "Impl", "Route", "selective_scan", "ss2d"]
