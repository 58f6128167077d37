"""Where tests look for real data: `$ZEROMAMBA_SHARED`, else the folder shared/ beside the repository."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("ZEROMAMBA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
DATA = SHARED / "data"
