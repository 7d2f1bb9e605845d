"""Agent steps per second of the environment, beside the bare emulator doing the same work."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.bench import Bench
from benchmarks.measure import Row
from dreamerv2.common import envs

# Vectors of environments in worker processes: row of the table -> number of processes.
PROCESSES = {"environment, 1 process": 1, "environment, 2 processes": 2}


def rows(bench: Bench) -> Iterator[Row]:
    """Measure `make_env`, `make_vector_env`, processes, and for Atari the bare emulator.

    They take turns, so that other work on the machine slows all of them equally.
    """
    rounds, steps = (5, 200) if bench.quick else (15, 1000)
    config, task = bench.config, bench.config.task
    runners = {"environment, make_env": single(task, config)}
    runners["environment, make_vector_env of 1"] = vector(task, config)
    runners |= {name: vector(task, config, count, "process") for name, count in PROCESSES.items()}
    atari = task.startswith("atari_")
    if atari:
        runners["environment, bare ale-py"] = bare(task, config)
    rates: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run(steps)
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run(steps)
            made = steps * PROCESSES.get(name, 1)
            rates[name].append(made / (time.perf_counter() - start))
    for name, values in rates.items():
        yield Row(name, values, "agent steps/s")
        if atari and "bare" not in name and name not in PROCESSES:
            bare_rates = rates["environment, bare ale-py"]
            shares = [100 * own / other for own, other in zip(values, bare_rates, strict=True)]
            yield Row(f"{name}, of bare ale-py", shares, "%")
    one, two = (rates[name] for name in PROCESSES)
    ratios = [many / few for few, many in zip(one, two, strict=True)]
    yield Row("environment, 2 processes next to 1", ratios, "times")


def single(task: str, config) -> Callable[[int], None]:
    """Return a function that takes a number of random steps in one environment."""
    env = envs.make_env(task, config)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(256)]
    env.reset()

    def run(steps: int) -> None:
        for step in range(steps):
            _, _, terminated, truncated, _ = env.step(actions[step % 256])
            if terminated or truncated:
                env.reset()

    return run


def vector(task: str, config, count: int = 1, parallel: str = "none") -> Callable[[int], None]:
    """The same in each environment of a vector."""
    vector_env = envs.make_vector_env(task, config, count, parallel, "train", range(count))
    space = vector_env.single_action_space
    space.seed(0)
    choices = [np.stack([space.sample() for _ in range(count)]) for _ in range(256)]
    vector_env.reset()

    def run(steps: int) -> None:
        for step in range(steps):
            _, _, terminated, truncated, _ = vector_env.step(choices[step % 256])
            done = terminated | truncated
            if done.any():
                vector_env.reset(options={"reset_mask": done})

    return run


def bare(task: str, config) -> Callable[[int], None]:
    """Return the same for ale-py itself: four frames, the maximum of two screens, resized."""
    import ale_py
    from ale_py import roms

    from dreamerv2.common.envs.atari import find_game
    from dreamerv2.common.envs.wrappers import AreaResize

    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.25)
    ale.setInt("random_seed", 0)
    ale.loadROM(roms.get_rom_path(find_game(task.removeprefix("atari_"))))
    gray, repeat = config.atari_grayscale, config.action_repeat
    grab = ale.getScreenGrayscale if gray else ale.getScreenRGB
    screen, channels = ale.getScreenDims(), 1 if gray else 3
    frames = np.zeros((2, *screen, *([] if gray else [3])), np.uint8)
    resize = AreaResize((*screen, channels), tuple(config.render_size))
    legal = ale.getLegalActionSet() if config.atari_all_actions else ale.getMinimalActionSet()
    actions = [legal[i] for i in np.random.default_rng(0).integers(len(legal), size=256)]

    def run(steps: int) -> None:
        for step in range(steps):
            action = actions[step % 256]
            for _ in range(repeat - 1):
                ale.act(action)
            grab(frames[0])
            ale.act(action)
            grab(frames[1])
            resize(np.maximum(frames[0], frames[1], out=frames[1]))
            if ale.game_over():
                ale.reset_game()

    return run
