import ale_py
import numpy as np
import pytest
from ale_py import roms
from env_contract import EnvContract, draw_action, env_config

from dreamerv2.common.envs import make_env
from dreamerv2.common.envs.atari import Atari
from dreamerv2.common.envs.wrappers import AreaResize
from dreamerv2.common.errors import UserError

BENCHMARK = """
alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk bowling
boxing breakout centipede chopper_command crazy_climber demon_attack double_dunk enduro
fishing_derby freeway frostbite gopher gravitar hero ice_hockey james_bond kangaroo krull
kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong private_eye qbert
riverraid road_runner robotank seaquest skiing solaris space_invaders star_gunner tennis time_pilot
tutankham up_n_down venture video_pinball wizard_of_wor yars_revenge zaxxon
""".split()


class TestPong(EnvContract):
    steps = 60

    def make(self, seed=0):
        return make_env("atari_pong", env_config(action_repeat=4), seed=seed)


class TestRgbSeaquestOfAnotherSize(EnvContract):
    steps = 10

    def make(self, seed=0):
        config = env_config(action_repeat=2, atari_grayscale=False, render_size=(96, 80))
        return make_env("atari_seaquest", config, seed=seed)

    def test_image_has_the_size_and_colours_asked_for(self):
        assert self.make().observation_space["image"].shape == (96, 80, 3)


def emulator(game="pong", sticky=0.25, seed=0):
    """A bare emulator, seeded as the environment's (whose seed it reads off the same stream)."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky)
    rng = np.random.default_rng(seed)
    ale.setInt("random_seed", int(rng.integers(2**31)))
    ale.loadROM(roms.get_rom_path(game))
    return ale, rng


@pytest.mark.parametrize("game", BENCHMARK)
def test_every_game_of_the_benchmark_resets_and_steps(game):
    env = make_env(f"atari_{game}", env_config(action_repeat=4))
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert obs["image"].shape == (64, 64, 1) and obs["image"].dtype == np.uint8
        obs, reward, terminated, truncated, _ = env.step(draw_action(env.action_space, rng))
        assert np.isfinite(reward) and not terminated and not truncated
    assert obs["image"].std() > 0, "the screen is blank"


@pytest.mark.parametrize("name", ["james_bond", "jamesbond", "MsPacman", "ms_pacman"])
def test_names_are_found_however_they_are_split(name):
    assert make_env(f"atari_{name}", env_config()).reset()[0]["image"].any()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("pomg", "pong"), ("PongNoFrameskip-v4", "atari_pong"), ("ALE/Qbert-v5", "atari_qbert")],
)
def test_an_unknown_game_is_refused_and_the_nearest_named(name, nearest):
    with pytest.raises(UserError, match=f"no game '{name}'. Did you mean '{nearest}'"):
        make_env(f"atari_{name}", env_config())


@pytest.mark.parametrize("game", ["pong", "breakout", "space_invaders"])
@pytest.mark.parametrize(("grayscale", "repeats"), [(True, 4), (False, 4), (True, 1)])
def test_steps_equal_a_bare_emulator(game, grayscale, repeats):
    """No-ops, sticky actions, rewards, max over two frames and resize, computed another way."""
    env = Atari(game, (64, 64), repeats, grayscale, noops=30, seed=3)
    ale, rng = emulator(game, seed=3)
    grab = ale.getScreenGrayscale if grayscale else ale.getScreenRGB
    obs, _ = env.reset()
    ale.reset_game()
    for _ in range(rng.integers(1, 31)):
        ale.act(0)
    resize = AreaResize((*ale.getScreenDims(), 1 if grayscale else 3), (64, 64))
    assert np.array_equal(obs["image"], resize(grab()))
    actions = ale.getMinimalActionSet()
    for index in np.random.default_rng(1).integers(len(actions), size=100):
        obs, reward, over, truncated, _ = env.step(index)
        frames, expected = [], 0
        for _ in range(repeats):
            expected += ale.act(actions[index])
            frames.append(grab())
        assert reward == expected
        assert np.array_equal(obs["image"], resize(np.max(frames[-2:], axis=0)))
        assert np.array_equal(env.render(), ale.getScreenRGB())
        if ale.game_over():
            break


def test_last_image_is_the_true_last_frame_wherever_in_the_skip_the_game_ends():
    ends = set()
    for seed in range(6):
        env = Atari("breakout", action_repeat=4, noops=0, sticky=0.25, seed=seed)
        ale, _ = emulator("breakout", seed=seed)
        resize = AreaResize((210, 160, 1), (64, 64))
        env.reset()
        ale.reset_game()
        actions, rng, over = ale.getMinimalActionSet(), np.random.default_rng(seed), False
        while not over:
            index = rng.integers(len(actions))
            obs, _, over, _, _ = env.step(index)
            frame = -1
            while frame < 3 and not ale.game_over():
                before = ale.getScreenGrayscale()
                ale.act(actions[index])
                frame += 1
        last = ale.getScreenGrayscale()
        ends.add(frame)
        expected = np.maximum(before, last) if frame == 3 else last
        assert np.array_equal(obs["image"], resize(expected)), f"ended in frame {frame}"
    assert len(ends) > 1, "the games all ended in the same frame of the skip"


def test_losing_a_life_is_not_the_end():
    env = Atari("breakout", seed=0)
    env.reset()
    rng = np.random.default_rng(0)
    lives = [env._ale.lives()]
    over = False
    while not over:
        over = env.step(rng.integers(4))[2]
        lives.append(env._ale.lives())
    assert lives[0] == 5 and {4, 3, 2, 1} <= set(lives) and lives[-1] == 0


@pytest.mark.slow
def test_no_cap_of_108000_frames():
    env = Atari("montezuma_revenge", action_repeat=60, seed=0)
    env.reset()
    frames = 0
    while frames < 110_000:
        _, _, terminated, truncated, _ = env.step(0)
        frames += 60
        assert not terminated and not truncated, f"the episode ended after {frames} frames"


@pytest.mark.parametrize(("all_actions", "count"), [(False, 6), (True, 18)])
def test_action_set(all_actions, count):
    env = make_env("atari_pong", env_config(atari_all_actions=all_actions))
    assert env.action_space.n == count
