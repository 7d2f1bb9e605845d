"""Tasks of the DeepMind Control Suite, its manipulation tasks and its rodent tasks.

dmc_DOMAIN_TASK     dm_control.suite, e.g. dmc_walker_walk, dmc_cup_catch, dmc_point_mass_easy
dmc_manip_TASK      dm_control.manipulation with its vision observations, e.g. reach_site
dmc_locom_TASK      dm_control.locomotion.examples.basic_rodent_2020, e.g. rodent_two_touch
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping

import gymnasium
import numpy as np

from dreamerv2.common.envs import convert, rendering, wrappers
from dreamerv2.common.errors import UserError, nearest

CAMERAS = {
    "quadruped_walk": 2,
    "quadruped_run": 2,
    "quadruped_escape": 2,
    "quadruped_fetch": 2,
    "locom_rodent_maze_forage": 1,
    "locom_rodent_two_touch": 1,
}  # the camera that shows the task; all others use 0


def make(name: str, config: Mapping, mode: str = "train", seed: int = 0) -> gymnasium.Env:
    """Make a task. The observation has its vectors, its own cameras, and 'image' of dmc_camera."""
    render = rendering.choose_backend()
    if not render and name.startswith(("manip_", "locom_")):
        raise UserError(
            f"The task 'dmc_{name}' observes camera images, so it needs rendering, which "
            f"MUJOCO_GL = '{os.environ['MUJOCO_GL']}' switches off; unset it."
        )
    camera = CAMERAS.get(name, 0) if config.dmc_camera == -1 else config.dmc_camera
    size = tuple(config.render_size) if render else None
    env = DMC(_loader(name), size, camera, config.action_repeat, seed)
    return wrappers.standardize(convert.DictObs(env), config, action_repeat=False)


class DMC(gymnasium.Env):
    """A ``dm_env`` environment of dm_control.

    An episode terminates where its discount is 0; the end by the suite's time limit truncates it.

    Args:
      load: ``load(seed)`` makes the environment.
      size: height and width of the image, or None to leave it out.
      action_repeat: simulator steps for each step; rewards add up.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        load: Callable,
        size: tuple[int, int] | None,
        camera: int,
        action_repeat: int = 1,
        seed: int = 0,
    ):
        self._load = load
        self._env = load(seed)
        if size is not None:
            count = self._env.physics.model.ncam
            if not -1 <= camera < count:  # for MuJoCo, -1 is a camera that moves freely
                raise UserError(
                    f"dmc_camera is {camera}, but the task has {count} cameras, which are numbered "
                    "from 0; -1 chooses the one that shows the task."
                )
        self._size = size
        self.render_mode = "rgb_array" if size else None
        self._camera = camera
        self._repeats = action_repeat
        self._fresh_seed: int | None = seed
        specs = self._env.observation_spec().items()
        inner = {key: _box(spec) for key, spec in specs if np.prod(spec.shape)}
        self._shapes = {key: box.shape for key, box in inner.items()}
        if size is not None:
            inner["image"] = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(inner)
        action = self._env.action_spec()
        low, high = np.broadcast_arrays(action.minimum, action.maximum, np.zeros(action.shape))[:2]
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; a seed loads the task anew."""
        if seed is not None and seed != self._fresh_seed:
            self.close()
            self._env = self._load(seed)
        self._fresh_seed = None
        return self._observe(self._env.reset()), {}

    def step(self, action: np.ndarray):
        """Apply the action ``action_repeat`` times."""
        reward = 0.0
        for _ in range(self._repeats):
            time_step = self._env.step(action)
            reward += time_step.reward or 0.0
            if time_step.last():
                break
        terminated = time_step.discount == 0
        truncated = time_step.last() and not terminated
        return self._observe(time_step), reward, terminated, truncated, {}

    def render(self) -> np.ndarray:
        """A larger picture of the same camera, uint8 [240, 320, 3]."""
        return self._env.physics.render(240, 320, camera_id=self._camera)

    def close(self) -> None:
        """Free the simulator and its rendering context; a second time does nothing."""
        env, self._env = self._env, None
        if env is not None:
            env.close()
            # The suite leaves simulator and context to the garbage collector, and OSMesa then
            # complains when Python ends. Other tasks have freed their physics by now.
            with contextlib.suppress(ReferenceError):
                env.physics.free()

    def _observe(self, time_step) -> dict[str, np.ndarray]:
        values = time_step.observation
        obs = {key: np.reshape(values[key], shape) for key, shape in self._shapes.items()}
        if self._size is not None:
            obs["image"] = self._env.physics.render(*self._size, camera_id=self._camera)
        return obs


def _loader(name: str) -> Callable:
    """Return the function that makes the task from a seed."""
    kind, _, task = name.partition("_")
    # Modules are imported only now, because dm_control fixes the rendering backend.
    if kind == "manip":
        from dm_control import manipulation

        tasks = [t.removesuffix("_vision") for t in manipulation.get_environments_by_tag("vision")]
        _check_name("manipulation", task, tasks)
        return lambda seed: manipulation.load(f"{task}_vision", seed=seed)
    if kind == "locom":
        from dm_control.locomotion.examples import basic_rodent_2020 as rodent

        _check_name("locomotion", task, [t for t in dir(rodent) if t.startswith("rodent_")])
        return lambda seed: _OwnRandomness(getattr(rodent, task), seed % 2**32)
    from dm_control import suite

    tasks = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
    full = f"ball_in_{name}" if kind == "cup" else name
    _check_name("control suite", full, tasks)
    domain, task = tasks[full]
    return lambda seed: suite.load(domain, task, task_kwargs={"random": seed})


def _check_name(part: str, task: str, tasks: Iterable[str]) -> None:
    if task not in tasks:
        raise UserError(f"dm_control has no {part} task '{task}'.{nearest(task, tasks)}")


class _OwnRandomness:
    """A rodent task that is identical in every run with the same seed.

    dm_control draws walls, colours and the walker's direction from NumPy's global generator, not
    from its argument ``random_state``. So while the code of the task runs, the global generator has
    a state of this environment's own.
    """

    def __init__(self, function: Callable, seed: int):
        random = np.random.RandomState(seed)
        self._state = random.get_state()
        self._env = self._run(lambda: function(random_state=random))

    def reset(self):
        return self._run(self._env.reset)

    def step(self, action: np.ndarray):
        return self._run(lambda: self._env.step(action))

    def __getattr__(self, name: str):
        return getattr(self._env, name)

    def _run(self, function: Callable):
        others = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            return function()
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002


def _box(spec) -> gymnasium.spaces.Box:
    # Manipulation tasks return a history of length one in front of every observation.
    shape = spec.shape[1:] if len(spec.shape) > 1 and spec.shape[0] == 1 else spec.shape
    if spec.dtype == np.uint8:
        return gymnasium.spaces.Box(0, 255, shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float64)
