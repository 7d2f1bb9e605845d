"""Atari 2600 games through the Arcade Learning Environment (ale-py, ROMs included).

The evaluation protocol is that of Machado et al. 2018 (arXiv 1709.06009): sticky actions with
probability 0.25, no end of episode when a life is lost. Up to 30 no-ops start each episode.
"""

import re
from collections.abc import Mapping

import ale_py
import gymnasium
import numpy as np
from ale_py import roms

from dreamerv2.common.envs import wrappers
from dreamerv2.common.errors import UserError, nearest


def make(name: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make the game called ``name`` in snake_case; both modes have the same rules."""
    env = Atari(
        name,
        size=config.render_size,
        action_repeat=config.action_repeat,
        grayscale=config.atari_grayscale,
        all_actions=config.atari_all_actions,
        seed=seed,
    )
    return wrappers.standardize(env, config, action_repeat=False)


def find_game(name: str) -> str:
    """Return the ROM's own spelling of a game's name: 'james_bond' -> 'jamesbond'."""
    games = _games()
    rom = games.get(name.replace("_", "").lower())
    if rom is None:
        meant = game_of_id(name)
        known = [*games.values(), "james_bond"]
        hint = f" Did you mean 'atari_{meant}'?" if meant else nearest(name.lower(), known)
        raise UserError(f"Atari has no game '{name}'.{hint}")
    return rom


def game_of_id(name: str) -> str | None:
    """Return the ROM of an id such as 'ALE/Pong-v5' or 'PongNoFrameskip-v4', or None."""
    match = re.fullmatch(r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?(?:-v\d+)?", name)
    return _games().get(match[1].replace("_", "").lower()) if match else None


def _games() -> dict[str, str]:
    return {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids()}


class Atari(gymnasium.Env):
    """One game: observations ``{"image": uint8 [H, W, 1 or 3]}``, a Discrete action space.

    Args:
      size: height and width of the image in pixels.
      action_repeat: emulator frames for each step; the image is the maximum of the last two, or
        the very last frame where the episode ends inside the repeats.
      grayscale: one channel of luminance instead of RGB.
      all_actions: all 18 actions of the joystick instead of those the game uses.
      noops: an episode begins with one to ``noops`` no-op frames.
      sticky: the probability, each frame, that the previous action is executed again.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self,
        game: str,
        size: tuple[int, int] = (64, 64),
        action_repeat: int = 4,
        grayscale: bool = True,
        all_actions: bool = False,
        noops: int = 30,
        sticky: float = 0.25,
        seed: int = 0,
    ):
        self._rom = roms.get_rom_path(find_game(game))
        self._repeats = action_repeat
        self._noops = noops
        self._ale = _make_emulator(sticky)
        self._seed(seed)
        self._actions = (
            self._ale.getLegalActionSet() if all_actions else self._ale.getMinimalActionSet()
        )
        self._grab = self._ale.getScreenGrayscale if grayscale else self._ale.getScreenRGB
        channels = 1 if grayscale else 3
        screen = self._ale.getScreenDims()
        shape = screen if grayscale else (*screen, 3)
        self._frames = np.zeros((2, *shape), np.uint8)
        self._resize = wrappers.AreaResize((*screen, channels), tuple(size))
        image = gymnasium.spaces.Box(0, 255, (*size, channels), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"image": image})
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start a game and let a random number of no-op frames pass."""
        if seed is not None:
            self._seed(seed)
        self._ale.reset_game()
        for _ in range(self._random.integers(1, self._noops + 1) if self._noops else 0):
            self._ale.act(ale_py.Action.NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._grab(self._frames[1])
        return {"image": self._resize(self._frames[1])}, {}

    def step(self, action: int):
        """Hold the action (an index) for ``action_repeat`` frames."""
        ale, frames, last = self._ale, self._frames, self._repeats - 1
        button, reward, over = self._actions[action], 0.0, False
        for repeat in range(last + 1):
            reward += ale.act(button)
            over = ale.game_over()
            if over:
                break
            if repeat == last - 1:
                self._grab(frames[0])
        self._grab(frames[1])
        # Games that draw sprites on alternate frames flicker; the maximum shows them all. Where
        # the episode ended early, frames[0] is stale and the last frame stands alone.
        if repeat == last and last > 0:
            np.maximum(frames[0], frames[1], out=frames[1])
        return {"image": self._resize(frames[1])}, reward, over, False, {}

    def render(self) -> np.ndarray:
        """The emulator's current frame at its own resolution, uint8 [210, 160, 3]."""
        return self._ale.getScreenRGB()

    def _seed(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        # The emulator reads its seed only when it loads a ROM.
        self._ale.setInt("random_seed", int(self._random.integers(2**31)))
        self._ale.loadROM(self._rom)


def _make_emulator(sticky: float) -> ale_py.ALEInterface:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setFloat("repeat_action_probability", sticky)
    emulator.setInt("frame_skip", 1)
    emulator.setInt("max_num_frames_per_episode", 0)  # no cap: config.time_limit alone decides
    return emulator
