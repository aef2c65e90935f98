"""The phases by number: what training, evaluation and the command line know of each."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from recsys import phase1, phase2, phase3

PHASES: Final[dict[int, ModuleType]] = {1: phase1, 2: phase2, 3: phase3}
"""Each module has `NAME`, `DEFAULT`, `default_params`, `suggest`, `objective`, `home`, `rows` and `build_surfaces`."""
