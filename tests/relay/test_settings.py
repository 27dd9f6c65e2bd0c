"""The settings model: three sources, one meaning; and every mistake is named."""

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Config, choose, config_parser, parse_config
from relay.logs import LogFormat
from relay.settings.arguments import Parser, add_flags, flag_values, flags_of
from relay.settings.check import changed
from relay.settings.declare import Source, section, sections, setting
from relay.settings.kinds import (
    Amount,
    ByteRate,
    FilePath,
    Flag,
    Integer,
    Kind,
    Seconds,
    Several,
    Text,
    Unfit,
    members,
    words,
)
from relay.settings.load import Loaded, SettingsError, load


@dataclass(frozen=True, slots=True)
class Inner:
    """A section."""

    max_things: int = setting(5, Integer(1, 9), "how many things", reload=True)
    wait_s: float = setting(1.5, Seconds(0.5, 90.0), "how long", name="wait")
    names: tuple[str, ...] = setting((), Several(Text("a name", "[a-z]+")), "who")
    really: bool = setting(False, Flag(), "whether")


@dataclass(frozen=True, slots=True)
class Model:
    """All kinds of settings."""

    rate: int = setting(0, ByteRate(100, 10**9, or_zero=True), "how fast")
    key_file: Path | None = setting(None, FilePath(), "where the key is")
    secret: str | None = setting(
        None, Text("a secret", "s+"), "psst", secret=True, sources=Source.NOT_ON_COMMAND_LINE
    )
    only_flag: int = setting(1, Integer(0, 9), "on the command line", sources=Source.FLAG)
    inner: Inner = section(Inner(), "what is inside")
    not_ours: int = 3
    """No setting."""

    def problem(self) -> tuple[str, str] | None:
        """The key file and a rate exclude each other."""
        if self.key_file and self.rate:
            return "rate", "not together with key-file"
        return None


def loaded(
    tmp_path: Path,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: str = "",
) -> Loaded[Model]:
    file = tmp_path / "relay.toml"
    if text is not None:
        file.write_text(text)
    parser = Parser(prog="test")
    add_flags(parser, Model)
    return load(
        Model,
        flags=flag_values(parser.parse_args(flags.split()), Model),
        environment=environment or {},
        file=None if text is None else file,
    )


FILE = """\
rate = "8mbit"
[inner]
max-things = 7
wait = "1m"
names = ["a", "b", "a"]
really = true
"""


def test_nothing_said_is_the_default(tmp_path: Path) -> None:
    assert loaded(tmp_path).settings == Model()


def test_a_file_says_it_all(tmp_path: Path) -> None:
    settings = loaded(tmp_path, FILE).settings
    assert settings == Model(rate=10**6, inner=Inner(7, 60.0, ("a", "b"), True))


def test_the_environment_says_the_same(tmp_path: Path) -> None:
    environment = {
        "QUICPIPE_RELAY_RATE": " 8mbit ",
        "QUICPIPE_RELAY_INNER_MAX_THINGS": "7",
        "QUICPIPE_RELAY_INNER_WAIT": "60s",
        "QUICPIPE_RELAY_INNER_NAMES": "a,b, a",
        "QUICPIPE_RELAY_INNER_REALLY": "1",
        "OTHERS_RATE": "x",
        "QUICPIPE_RELAY_ONLY": "",
        "QUICPIPE_RELAY": "where peers find a relay: no setting of ours",
        "QUICPIPE_RELAY_FINGERPRINT": "by what they know it: neither",
    }
    del environment["QUICPIPE_RELAY_ONLY"]
    assert loaded(tmp_path, None, environment) == loaded(tmp_path, None, environment)
    assert loaded(tmp_path, None, environment).settings == loaded(tmp_path, FILE).settings


def test_flags_say_the_same(tmp_path: Path) -> None:
    flags = (
        "--rate 1000kB --inner-max-things 7 --inner-wait 60000ms "
        "--inner-names a --inner-names b --inner-names a --inner-really"
    )
    assert loaded(tmp_path, flags=flags).settings == loaded(tmp_path, FILE).settings


def test_a_flag_wins_over_a_variable_and_that_over_the_file(tmp_path: Path) -> None:
    variables = {"QUICPIPE_RELAY_INNER_MAX_THINGS": "2", "QUICPIPE_RELAY_INNER_REALLY": "0"}
    found = loaded(tmp_path, FILE, variables, "--inner-max-things 3 --inner-names z")
    assert found.settings.inner == Inner(3, 60.0, ("z",), False)
    by_key = {each.key: each for group in sections(Model) for each in group.settings}
    said = {key: found.said_by(each) for key, each in by_key.items()}
    assert said == {
        "rate": f"{tmp_path}/relay.toml: rate",
        "key-file": "default",
        "secret": "default",
        "only-flag": "default",
        "inner.max-things": "--inner-max-things",
        "inner.wait": f"{tmp_path}/relay.toml: inner.wait",
        "inner.names": "--inner-names",
        "inner.really": "QUICPIPE_RELAY_INNER_REALLY",
    }


def test_a_variable_set_to_nothing_is_not_set(tmp_path: Path) -> None:
    assert loaded(tmp_path, FILE, {"QUICPIPE_RELAY_RATE": " "}).settings.rate == 10**6


def test_a_path_in_a_file_is_relative_to_it(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'key-file = "a/b"').settings.key_file == tmp_path / "a/b"
    assert loaded(tmp_path, 'key-file = "/a/b"').settings.key_file == Path("/a/b")
    assert loaded(tmp_path, flags="--key-file a/b").settings.key_file == Path("a/b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rat = 5", "relay.toml: rat: there is no such setting; did you mean 'rate'?"),
        ("[innner]\nx = 1", "relay.toml: innner: there is no such setting; did you mean 'inner'?"),
        ("[inner]\nmax = 1", "inner.max: there is no such setting; there are max-things, names"),
        ("inner = 3", "inner: 3 is no section: expected [inner] and its keys"),
        ("[inner]\nmax-things = 10", "inner.max-things: 10 is not a number from 1 to 9"),
        ("[inner]\nmax-things = true", "inner.max-things: true is not a number"),
        ('[inner]\nmax-things = "x"', "inner.max-things: 'x' is not a number"),
        ("[inner]\nwait = nan", "inner.wait: nan is not a number of seconds"),
        ("[inner]\nwait = 0.4", "inner.wait: 0.4 is not a number of seconds"),
        ("[inner]\nnames = 'a'", "inner.names: 'a' is no array: expected one"),
        ("[inner]\nnames = ['a', 1]", "inner.names: 1 is not a name: expected a string"),
        ("[inner]\nreally = 1", "inner.really: 1 is not yes or no: expected true or false"),
        ("[inner.deeper]\na = 1", "inner.deeper: there is no such setting"),
        ("key-file = 1", "key-file: 1 is not the path of a file"),
        ("key-file = 'a'\nrate = 500", "relay.toml: rate: not together with key-file"),
        ("only-flag = 1", "only-flag: not in a file; use --only-flag"),
        ("secret = 'xyz'", "secret: is not what it should be (its value is not shown)"),
        ("rate = ", "relay.toml: is not TOML: Invalid value (at "),
        ("rate = 5\nrate = 5", "relay.toml: is not TOML: Cannot overwrite a value"),
        ("rate = " + "[" * 100_000, "relay.toml: is not TOML"),
        ("#" * (2**20 + 1), "that is no settings file"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as mistake:
        loaded(tmp_path, text)
    assert expected in str(mistake.value)
    assert str(mistake.value).startswith(str(tmp_path))
    assert "\n" not in str(mistake.value)
    assert "xyz" not in str(mistake.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, said in (("none", "there is no such file"), (".", "cannot be read: Is a directory")):
        with pytest.raises(SettingsError, match=said):
            load(Model, flags={}, environment={}, file=tmp_path / name)
    (tmp_path / "x").write_bytes(b"rate = '\xff'")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        load(Model, flags={}, environment={}, file=tmp_path / "x")
    nowhere = load(Model, flags={}, environment={}, file=tmp_path / "none", must_exist=False)
    assert nowhere.settings == Model()
    assert nowhere.file is None


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RATTE", "1", "QUICPIPE_RELAY_RATTE is not known; did you mean 'QUICPIPE_RELAY_RATE'?"),
        ("RATE", "99", "QUICPIPE_RELAY_RATE: '99' is not 0 or a rate from 100 to"),
        ("ONLY_FLAG", "1", "QUICPIPE_RELAY_ONLY_FLAG is not known"),
        ("SECRET", "xyz", "QUICPIPE_RELAY_SECRET: is not what it should be"),
        ("INNER_NAMES", "a,,B", "QUICPIPE_RELAY_INNER_NAMES: 'B' is not a name"),
        ("INNER_REALLY", "maybe", "'maybe' is not yes or no: expected 0 or 1"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as mistake:
        loaded(tmp_path, None, {f"QUICPIPE_RELAY_{variable}": value})
    assert expected in str(mistake.value)
    assert "xyz" not in str(mistake.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--rate 1xbit", "argument --rate: '1xbit' is not 0 or a rate"),
        ("--secret sss", "unrecognized arguments: --secret sss"),
        ("--inner-max 3", "unrecognized arguments: --inner-max 3"),
        ("--inner-names A", "argument --inner-names: 'A' is not a name"),
    ],
)
def test_a_mistake_in_a_flag_is_named(tmp_path: Path, flags: str, expected: str) -> None:
    with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        loaded(tmp_path, flags=flags)
    assert end.value.code == 2
    (line,) = said.getvalue().splitlines()
    assert expected in line


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Integer(1, 10**6), "10_000", 10_000),
        (Integer(5, 9, or_zero=True), "0", 0),
        (Seconds(0.1, 10**6), "250ms", 0.25),
        (Seconds(0.1, 10**6), "1.5h", 5400.0),
        (Seconds(0.1, 10**6), "2d", 172_800.0),
        (Seconds(5.0, 9.0, or_zero=True), "0", 0.0),
        (Amount(1, 10**12), "10kB", 10_000),
        (Amount(1, 10**12), "4MiB", 4 * 2**20),
        (Amount(1, 10**12), "2.5GB", 2_500_000_000),
        (Amount(1, 10**12), "1500", 1500),
        (ByteRate(1, 10**12), "20mbit", 2_500_000),
        (ByteRate(1, 10**12), "20Mbit/s", 2_500_000),
        (ByteRate(1, 10**12), "20Mbps", 20_000_000),
        (ByteRate(1, 10**12), "1gbit", 125_000_000),
        (ByteRate(1, 10**12), "2MB/s", 2_000_000),
        (members(LogFormat), "json", LogFormat.JSON),
        (words(("a", "b")), "b", "b"),
    ],
)
def test_kinds(kind: Kind[Any], text: str, value: object) -> None:
    assert kind.from_text(text) == value
    assert kind.from_toml(text if not isinstance(kind, Integer) else value) == value


KINDS: list[Kind[Any]] = [
    Integer(1, 9),
    Seconds(1.0, 9.0),
    Amount(1, 9),
    ByteRate(1, 9),
    Flag(),
    FilePath(),
    Text("a word", "[a-z]+"),
    words(("a", "b")),
    Several(Integer(1, 9)),
]

TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def refusal(read: Callable[..., object], value: object) -> str:
    try:
        read(value)
    except Unfit as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
@given(text=st.text(), value=TOML_VALUES)
def test_any_value_is_taken_or_refused_in_one_line(
    kind: Kind[Any], text: str, value: object
) -> None:
    for read, given_value in ((kind.from_text, text), (kind.from_toml, value)):
        said = refusal(read, given_value)
        assert len(said.splitlines()) == bool(said)
        assert len(said) < 500


def test_every_setting_of_the_relay_is_declared_well() -> None:
    flags = flags_of(Config)
    assert len(set(flags)) == len(flags)
    variables = [each.variable for group in sections(Config) for each in group.settings]
    assert len(set(variables)) == len(variables)
    for group in sections(Config):
        for each in group.settings:
            assert each.help
            assert not each.help.endswith("."), each.key
            if each.secret:
                assert Source.FLAG not in each.sources, each.key
            if isinstance(each.kind, Flag) and Source.FLAG in each.sources:
                assert f"--no-{'-'.join(each.keys)}" not in flags


def test_a_secret_is_not_in_what_a_dataclass_says_of_itself(tmp_path: Path) -> None:
    model = loaded(tmp_path, "secret = 'sss'").settings
    assert model.secret == "sss"
    assert "sss" not in repr(model)


def test_what_changed() -> None:
    before, after = (
        parse_config(["--open"], {}),
        parse_config(["--open", "--lease", "9", "--xdp-require"], {"QUICPIPE_XDP_IFACE": "lo"}),
    )
    assert [each.key for each in changed(before, after)] == ["lease", "xdp.iface", "xdp.require"]


def test_a_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("lease = 5")
    environment = {"QUICPIPE_RELAY_CONFIG": str(file)}
    chosen = choose(config_parser(), ["--workers", "3", "--open"], environment)
    assert chosen.load().settings.lease_s == 5.0
    file.write_text("lease = '6s'\nworkers = 9")
    assert chosen.load().settings.lease_s == 6.0
    assert chosen.load().settings.workers == 3
    file.write_text("leas = 6")
    with pytest.raises(SettingsError, match="did you mean 'lease'"):
        chosen.load()
