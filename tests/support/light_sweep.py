"""`python light_sweep.py FLAGS`: the sweep, with trainings whose agent costs nothing.

A training is tests/reliability/light_run.py, but that of gym_MountainCar-v0 crashes.
"""

import runpy
import sys
from pathlib import Path

from dreamerv2 import sweep

LIGHT = Path(__file__).parents[1] / "reliability" / "light_run.py"

if __name__ == "__main__" and "--task=gym_MountainCar-v0" in sys.argv:
    sys.exit("The car has left the track.")
elif __name__ == "__main__" and sys.argv[-1].startswith("--seed="):
    runpy.run_path(str(LIGHT), run_name="__main__")
elif __name__ == "__main__":
    sweep.TRAINING = [__file__]
    sweep.main()
