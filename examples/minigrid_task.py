"""Train on a MiniGrid task, seen through the agent's partial view.

    python examples/minigrid_task.py --logdir ~/logdir/minigrid

Needs: pip install 'dreamerv2[minigrid]'. Every option is a flag; --help lists them.
"""

import gymnasium
from minigrid.wrappers import RGBImgPartialObsWrapper

import dreamerv2.api as dv2

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
