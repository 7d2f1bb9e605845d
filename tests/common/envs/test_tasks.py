import sys

import pytest
from env_contract import env_config

from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UserError


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("atri_pong", "SUITE_NAME with one of the suites atari, crafter, .* Did you mean 'atari'"),
        ("pong", "names no known suite; .* Did you mean 'atari_pong'"),
        ("ALE/Pong-v5", "Did you mean 'atari_pong'"),
        ("CartPole-v1", "Did you mean 'gym_CartPole-v1'"),
        ("DMC_walker_walk", "Did you mean 'dmc_walker_walk'"),
        ("Crafter", "Did you mean 'crafter'"),
        ("nintendo_mario", "minigrid.$"),
        ("atari", "lacks a name after the suite"),
        ("atari_", "lacks a name after the suite"),
    ],
)
def test_a_task_of_no_suite_is_refused(task, message):
    with pytest.raises(UserError, match=message):
        make_env(task, env_config())


@pytest.mark.parametrize(
    ("task", "package", "extra"),
    [
        ("crafter_reward", "crafter", r"dreamerv2\[crafter\]"),
        ("minigrid_Empty-5x5", "minigrid", r"dreamerv2\[minigrid\]"),
        ("dmc_walker_walk", "dm_control", r"dreamerv2\[dmc\]"),
    ],
)
def test_a_missing_package_says_which_extra_to_install(task, package, extra, monkeypatch):
    suite = f"dreamerv2.common.envs.{task.split('_')[0]}"
    for name in [name for name in sys.modules if name.split(".")[0] == package or name == suite]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails as if not installed
    with pytest.raises(UserError, match=f"'{package}', which is not installed; .*{extra}"):
        make_env(task, env_config())


def test_suites_are_imported_only_when_asked_for(python):
    code = (
        "import sys; from dreamerv2.common.envs import make_env; "
        "import dreamerv2.common.run.driver;"
        "print([m for m in ('ale_py', 'crafter', 'minigrid', 'dm_control', 'tensorflow', 'PIL')"
        " if m in sys.modules])"
    )
    assert python("-c", code).communicate()[0] == "[]\n"
