"""The selective scan over the routes of a map: `ss2d`. Imports nothing else of the package."""

from .op import ss2d
from .routes import SS2D, Route

__all__ = ["SS2D", "Route", "ss2d"]
