"""Where the package's own files are, in a checkout and in an installed wheel alike."""

from pathlib import Path

from dreamerv2.common.config.yaml import read_yaml


def package_root() -> Path:
    """Return the directory of the package `dreamerv2`.

    Links are not followed: in a checkout this file is reached through the link dreamerv2/common,
    beside which the other links (configs.yaml, scores, ...) lie.
    """
    return Path(__file__).absolute().parents[2]


def configs_path() -> Path:
    """Return the path of configs.yaml."""
    return package_root() / "configs.yaml"


def load_configs(path: str | Path | None = None) -> dict[str, dict]:
    """Read the named configs: name -> nested plain dict, `defaults` among them.

    Args:
        path: another file of the same form; configs.yaml of the package when None.

    Raises:
        UserError: the file cannot be read, is broken YAML, or an entry is not a mapping.
    """
    return read_yaml(path or configs_path(), depth=2)
