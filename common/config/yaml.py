"""YAML files: mappings in, mappings out, and a sentence with file and line for a broken one."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from dreamerv2.common.errors import UserError
from dreamerv2.common.files import replacing


class _Representer(SafeRepresenter):
    """Write all text but plain words in double quotes, where every character survives.

    Without quotes ruamel.yaml writes a few texts (`:0` within braces) that it cannot read again.
    """

    def represent_str(self, data: str) -> ScalarNode:
        style = None if re.fullmatch(r"[A-Za-z_][\w./-]*", data, re.ASCII) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; errors name the file and the line."""
    try:
        content = _yaml().load(Path(path).read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{path}{line}: this is not valid YAML: {problem}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # ruamel raises many kinds for a damaged file
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: this is not valid YAML: {problem}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: this must be a mapping of names to values.")
    return content


def write_yaml(path: str | Path, content: dict[str, Any]) -> None:
    """Write nested plain dicts and lists, complete or not at all."""
    with replacing(path, "w", encoding="utf-8") as file:
        _yaml().dump(content, file)


def _yaml() -> YAML:
    # The compiled parser reads YAML 1.1, where 1e-4 is text: use the pure one.
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1_000_000  # Folding long text would change its spaces.
    return yaml
