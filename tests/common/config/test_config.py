"""The configuration: names and types of its options come from the defaults."""

import copy
import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dreamerv2.common.config import values
from dreamerv2.common.config.config import Config
from dreamerv2.common.config.paths import load_configs
from dreamerv2.common.config.yaml import read_yaml
from dreamerv2.common.errors import UserError

CONFIGS = load_configs()
DEFAULTS = Config(CONFIGS["defaults"])


def typed(config: Config) -> dict:
    """A config with its types, since 1 == 1.0 == True."""
    return {
        key: (type(value), value, [type(v) for v in value] if isinstance(value, tuple) else ())
        for key, value in config.flat.items()
    }


# The mapping ------------------------------------------------------------------------------------


def test_nested_dotted_and_attribute_access_agree():
    config = Config({"a.b.c": 1, "a": {"d": [1, 2]}, "e": "x"})
    assert config.a.b.c == config["a.b.c"] == config["a"]["b"]["c"] == config["a"]["b.c"] == 1
    assert config.flat == {"a.b.c": 1, "a.d": (1, 2), "e": "x"}
    assert list(config) == ["a", "e"] and len(config) == 2
    assert "a.d" in config and "a.x" not in config and 3 not in config
    with pytest.raises(AttributeError, match="no option 'dd'. Did you mean 'd'?"):
        _ = config.a.dd
    with pytest.raises(KeyError, match="no option 'd'. Did you mean 'a.d'?"):
        _ = config["d"]
    assert config == {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": "x"}
    assert config.to_dict() == {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": "x"}


def test_config_cannot_be_changed():
    config = Config({"a": 1, "b": {"c": 2}})
    with pytest.raises(AttributeError, match="cannot be changed"):
        config.b.c = 3
    with pytest.raises(AttributeError):
        del config.a
    with pytest.raises(TypeError):
        config["a"] = 2
    config.flat["a"] = 5
    config.to_dict()["b"]["c"] = 5
    assert config.update({"b": {"c": 5}}, a=6) == {"a": 6, "b": {"c": 5}}
    assert config == {"a": 1, "b": {"c": 2}}, "the original was reached"


def test_copies_for_worker_processes_are_equal_and_keep_types():
    config = DEFAULTS.update({"log_keys_video": []})
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):  # noqa: S301
        assert typed(twin) == typed(config)
        with pytest.raises(UserError):
            twin.update(seed="x")


# Keys -------------------------------------------------------------------------------------------


def test_update_takes_nested_dotted_and_regex_keys_in_order():
    before = Config({"norm": 1, "a.norm": 1, "a.norms": 1, "b": {"norm": 1, "free": 0.5}})
    config = before.update({r".*\.norm": 2, "a.norm": 3, "b": {"free": 2}})
    after = {"norm": 1, "a.norm": 3, "a.norms": 1, "b.norm": 2, "b.free": 2.0}
    assert config.flat == after, "a regular expression must match the whole name"


def test_type_survives_an_empty_list():
    config = DEFAULTS.update(render_size=[]).update(render_size=["3", 4])
    assert config.render_size == (3, 4)
    assert Config({"names": []}).update(names=["x"]).names == ("x",)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rssm.hiden": 1}, "'rssm.hiden' 'rssm.hidden'"),
        ({"rssm": {"hiden": 1}}, "'rssm.hiden' 'rssm.hidden'"),
        ({"train_evry": 1}, "'train_every'"),
        ({"hidden": 1}, "'rssm.hidden'"),
        ({"rssm": 1}, "group rssm.hidden"),
        ({"seed": {"x": 1}}, "'seed.x'"),
        ({r".*\.nrm": "layer"}, "matches"),
        ({"(": 1}, "regular expression"),
        ({1: 2}, "1"),
        ({"": 2}, "''"),
        ({"loss_scales.a.b": 2}, "'loss_scales.a.b'"),
        ({"loss_scales.x": "much"}, "loss_scales.x much number"),
        ({"model_opt.eps": "linear(1,2,3)"}, "model_opt.eps number"),
    ],
)
def test_unknown_keys_and_impossible_values_fail_in_a_sentence(change, words):
    with pytest.raises(UserError) as error:
        DEFAULTS.update(change)
    assert all(word in str(error.value) for word in words.split()), str(error.value)


def test_loss_scales_takes_new_keys_and_no_other_group_does():
    config = DEFAULTS.update({"loss_scales": {"my_sensor": 2}})
    assert config.loss_scales.my_sensor == 2.0 and type(config.loss_scales.my_sensor) is float
    assert config.update({"loss_scales.my_sensor": "0.5"}).loss_scales.my_sensor == 0.5
    with pytest.raises(UserError):
        DEFAULTS.update({"kl.my_sensor": 2})


@pytest.mark.parametrize(
    "mapping",
    [
        *({"a": 1, "a.b": 2}, {"a.": 1}, {".a": 1}, {"a..b": 1}, {".".join("a" * 9999): 1}),
        *({"a": bad} for bad in (None, [None], [[1]], object(), float("nan"), b"x")),
    ],
    ids=range(11),
)
def test_impossible_names_and_defaults_fail(mapping):
    with pytest.raises(UserError):
        Config(mapping)


# Types ------------------------------------------------------------------------------------------

LISTS = {"ints": [1], "floats": [1.0], "bools": [True], "words": ["a"]}
TYPES = Config({"i": 1, "f": 1.5, "b": True, "s": "x"} | LISTS)


@pytest.mark.parametrize(
    "key, bad, wanted",
    [
        *[("i", v, "an integer") for v in (1.5, "1.5", "two", "", True, [1], 2**63, "1e400", None)],
        *[("f", v, "a number") for v in ("x", True, "nan", "inf", float("inf"), 10**400, [1.0])],
        *[("b", v, "True or False") for v in (0, 1, 1.0, "yes", "TRUE", "", None)],
        *[("s", v, "text") for v in (1, True, None, ["x"], "\udcff", b"x")],
        *[("ints", v, "an integer") for v in (["x"], [1.5], [[1]], [True], [None])],
        *[("ints", v, "a list") for v in (1, "1", None)],
    ],
)
def test_wrong_types_fail_with_key_value_and_wanted_type(key, bad, wanted):
    with pytest.raises(UserError) as error:
        TYPES.update({key: bad})
    shown = values.show(bad[0] if "list" not in wanted and key == "ints" else bad)
    assert str(error.value).startswith(f"--{key} ") and wanted in str(error.value)
    assert shown in str(error.value)


def test_text_may_be_given_as_a_number_and_precisions_have_several_names():
    assert DEFAULTS.update(checkpoint_every=1e4).checkpoint_every == "10000"
    names = {"32": ["float32", "FP32", 32], "16": ["float16", "fp16", 16], "bfloat16": ["bf16"]}
    for precision, others in names.items():
        assert {DEFAULTS.update(precision=name).precision for name in others} == {precision}


# Schedules and intervals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("linear(1, 0.1, 1e6)", ("linear", (1.0, 0.1, 1e6))),
        ("delayed(1,0.1,1e5,1e6)", ("delayed", (1.0, 0.1, 1e5, 1e6))),
        ("warmup(100,3e-4)", ("warmup", (100.0, 3e-4))),
        ("exp(1,0,500)", ("exp", (1.0, 0.0, 500.0))),
        ("horizon(10,100,1e5)", ("horizon", (10.0, 100.0, 1e5))),
    ],
)
def test_schedules(text, parsed):
    assert values.parse_schedule(text) == parsed
    options = ("actor_ent", "model_opt.lr", "actor_opt.lr", "critic_opt.lr", "expl_opt.lr")
    for option in options:
        assert DEFAULTS.update({option: text})[option] == text
        assert DEFAULTS.update({option: text}).update({option: "1"})[option] == 1.0


@pytest.mark.parametrize(
    "text, words",
    [
        ("linear(1,2)", "linear 3"),
        ("warmup(1,2,3)", "warmup 2"),
        ("linaer(1,2,3)", "'linear'"),
        ("linear(1,2,x)", "linear 3"),
        ("linear(1,2,0)", "duration"),
        ("linear(1,2,3", "schedule"),
        ("linear", "schedule"),
        ("exp(1,2,nan)", "3"),
    ],
)
def test_broken_schedules_fail_at_once(text, words):
    with pytest.raises(UserError) as error:
        DEFAULTS.update(actor_ent=text)
    assert all(word in str(error.value) for word in ["--actor_ent", text, *words.split()])


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_save_and_load_give_back_values_and_types(name, tmp_path):
    config = DEFAULTS.update(CONFIGS[name]).update(precision="16", actor_ent="linear(1,0,1e6)")
    config.save(tmp_path / "config.yaml")
    assert typed(Config.load(tmp_path / "config.yaml")) == typed(config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"], "a draft was left behind"


NAMES = st.text("abcxyz_-09.$ é", min_size=1).filter(lambda name: "." not in name)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
    st.sampled_from(["1e4", "16", "true", "null", "~", "1:30", "2020-01-01", "a: b", "- x", " #"]),
)
TREES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=3),
    lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=6,
)


@given(content=st.dictionaries(NAMES, TREES, max_size=4))
@example(content={"0": {"0": ":0"}, "a": ["\x85", "a\u2028b", "\ufeff", "\x7f\0", "a\n b "]})
def test_any_config_survives_its_file(content, tmp_path):
    config = Config(content)
    config.save(tmp_path / "config.yaml")
    assert typed(Config.load(tmp_path / "config.yaml")) == typed(config)


def test_numbers_of_the_yaml_of_the_release(tmp_path):
    (tmp_path / "x.yaml").write_text("lr: 1e-4\nsteps: 2e6\nbig: 5e+7\njit: True\n")
    read = {"lr": 1e-4, "steps": 2e6, "big": 5e7, "jit": True}
    assert typed(Config.load(tmp_path / "x.yaml")) == typed(Config(read))


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3"),
        ("a: 1\na: 2\n", "line 2"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("a: !!python/object:os.system x\n", "line 1"),
        ("a: 2020-99-99\n", "YAML"),
        ("- 1\n- 2\n", "mapping"),
        ("", "mapping"),
        ("a: &a [*a]\n", "list"),
        ("a: &a {b: *a}\n", "deep"),
        ("a: null\n", "--a"),
        ("1: 2\n", "1"),
    ],
)
def test_broken_files_are_named_with_their_line(text, words, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        Config.load(path)
    assert "line" not in words or "broken.yaml" in str(error.value)
    assert "\n" not in str(error.value), "more than one line"


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.yaml", "missing.yaml", "."):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            Config.load(tmp_path / name)


PLAIN = "a b seed rssm hidden : - [ ] { } & * ! | > ' % @ 1 1e4 .inf null ~ , # ? << é 0x_ 1_"
OTHERS = ["\n", ":\n ", "\n \t", '"', "&a", "*a", "!!set", "!!binary", "!!omap", "2020-01-01", "\0"]
SNIPPETS = st.sampled_from(PLAIN.split() + OTHERS)


@given(text=st.lists(SNIPPETS).map(" ".join) | st.text())
def test_any_text_is_a_config_or_a_sentence(text, tmp_path):
    path = tmp_path / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        assert isinstance(Config.load(path), Config)
        DEFAULTS.update(read_yaml(path))
    except UserError as error:
        assert str(error)
