"""Train on your own environment, then play with the trained policy in your own loop.

    python examples/custom_env.py --logdir ~/logdir/reach

Every option is a flag; --help lists them. A model of this size learns on two CPU cores.
"""

import gymnasium
import numpy as np

import dreamerv2.api as dv2


class Reach(gymnasium.Env):
    """Move the white dot to the red one. The observation has an image and a vector."""

    observation_space = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "velocity": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)  # acceleration

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # makes self.np_random
        self.place, self.goal = self.np_random.uniform(0, 1, (2, 2))
        self.velocity = np.zeros(2, np.float32)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.velocity = np.clip(0.8 * self.velocity + action, -1, 1).astype(np.float32)
        self.place = np.clip(self.place + self.velocity, 0, 1)
        self.steps += 1
        reached = np.abs(self.place - self.goal).max() < 0.1
        # Reaching the goal ends the task (terminated), the time limit does not (truncated).
        return self.observe(), float(reached), bool(reached), self.steps >= 100, {}

    def observe(self):
        image = np.zeros((64, 64, 3), np.uint8)
        for (y, x), color in ((self.goal * 59, (255, 0, 0)), (self.place * 59, (255, 255, 255))):
            image[int(y) : int(y) + 5, int(x) : int(x) + 5] = color
        return {"image": image, "velocity": self.velocity}


config = dv2.defaults.update(dv2.configs["small"])
config = config.update({"logdir": "~/logdir/reach", "steps": 1e5, "eval_every": 5e3})
config = config.parse_flags()


def play(policy: dv2.Policy, env: gymnasium.Env) -> float:
    policy.reset()
    obs, _ = env.reset()
    score, over = 0.0, False
    while not over:
        action = policy(obs)  # in the environment's own range, -0.1..0.1
        obs, reward, terminated, truncated, _ = env.step(action)
        score += reward
        over = terminated or truncated
    return score


if __name__ == "__main__":
    # With a constructor, evaluation gets its own environment, and --envs 4 works.
    dv2.train(Reach, config)
    print("Playing:", play(dv2.load(config.logdir), Reach()))
