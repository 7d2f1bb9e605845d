"""MiniGrid and BabyAI, seen through the agent's partial view drawn in RGB."""

from collections.abc import Mapping

import gymnasium
import minigrid  # registers its environments
from minigrid.wrappers import RGBImgPartialObsWrapper

from dreamerv2.common.envs import gym
from dreamerv2.common.errors import UserError, nearest


def make(name: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make an environment: 'image' uint8 [H, W, 3] and 'direction' float32 [4].

    Its name may lack 'MiniGrid-' and '-v0', as in 'DoorKey-6x6' and 'BabyAI-GoToObj-v0'.
    """
    try:
        env = gymnasium.make(find(name), disable_env_checker=True, render_mode="rgb_array")
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"MiniGrid cannot make '{name}': {error}") from error
    return gym.wrap(RGBImgPartialObsWrapper(env), config)


def find(name: str) -> str:
    """The registered id of an environment."""
    known = [i for i in gymnasium.registry if i.startswith(("MiniGrid-", "BabyAI-"))]
    for candidate in (name, f"{name}-v0", f"MiniGrid-{name}", f"MiniGrid-{name}-v0"):
        if candidate in known:
            return candidate
    short = [identity.removeprefix("MiniGrid-").removesuffix("-v0") for identity in known]
    hint = nearest(name, [*short, *known])
    raise UserError(f"MiniGrid {minigrid.__version__} has no environment '{name}'.{hint}")
