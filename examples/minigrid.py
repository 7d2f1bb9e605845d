"""Train on a MiniGrid task, seen through the agent's partial view.

    python examples/minigrid.py --logdir ~/logdir/minigrid

Needs: pip install 'dreamerv2[minigrid]'. Any knob is a flag; --help lists them.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

# This file has the name of the package, and Python searches the folder of a script first: load the
# package from anywhere else, before gymnasium asks for it. Under another name this is not needed.
here = Path(__file__).resolve().parent
elsewhere = [path for path in sys.path if Path(path).resolve() != here]
spec = importlib.machinery.PathFinder.find_spec("minigrid", elsewhere)
if spec is None:
    sys.exit("This example needs the package minigrid: pip install 'dreamerv2[minigrid]'.")
sys.modules["minigrid"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["minigrid"])

import gymnasium  # noqa: E402
from minigrid.wrappers import RGBImgPartialObsWrapper  # noqa: E402

import dreamerv2.api as dv2  # noqa: E402

config = dv2.defaults.update(
    {
        "logdir": "~/logdir/minigrid",
        "log_every": 1e3,
        "train_every": 10,
        "prefill": 1e5,
        "actor_ent": 3e-3,
        "loss_scales.kl": 1.0,
        "discount": 0.99,
    }
).parse_flags()

env = RGBImgPartialObsWrapper(gymnasium.make("MiniGrid-DoorKey-6x6-v0"))

if __name__ == "__main__":
    dv2.train(env, config)
