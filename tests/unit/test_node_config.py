"""Config: where values come from, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.core.errors import ConfigFault
from shoal.node.config import load_config, store_setting
from shoal.node.order import Flags


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path)


def write(home: str, text: str) -> None:
    (Path(home) / "config.toml").write_text(text)


def test_defaults_are_complete(home: str) -> None:
    config = load_config(home, environment={})
    assert config.lan is True
    assert len(config.listen_addresses) == 2
    assert set(config.origins.values()) == {"default"}
    assert set(config.settings()) == set(config.origins)


def test_flags_win_over_environment_over_file(home: str) -> None:
    write(home, 'name = "file"\nuser = "file"\nlan = false\n')
    environment = {"SHOAL_NAME": "env", "SHOAL_LAN": "yes", "SHOAL_LISTEN": "127.0.0.1:0, [::1]:0"}
    config = load_config(home, Flags(name="flag"), environment)
    assert (config.name, config.user, config.lan) == ("flag", "file", True)
    assert config.listen == ["127.0.0.1:0", "[::1]:0"]
    assert [config.origins[k] for k in ("name", "user", "lan")] == ["flag", "file", "environment"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("nmae = 'x'", "nmae"),
        ("name = 3", "'name'"),
        ("name = ''", "'name'"),
        (f"name = '{'x' * 65}'", "'name'"),
        ('name = "a\\u0007"', "'name'"),
        ("lan = 'maybe'", "'lan'"),
        ("listen = []", "'listen'"),
        ("listen = 'nowhere'", "'listen'"),
        ("listen = ['1.2.3.4:99999']", "'listen'"),
        ("log_level = 'loud'", "'log_level'"),
        ("store_quota = 'much'", "'store_quota'"),
        ("store_quota = 5", "'store_quota'"),
        ("name = ", "config.toml"),
        ("name = 'x'\nname = 'y'", "config.toml"),
    ],
)
def test_bad_settings_name_file_key_and_what_is_allowed(home: str, text: str, part: str) -> None:
    write(home, text)
    with pytest.raises(ConfigFault) as caught:
        load_config(home, environment={})
    error = caught.value
    assert part in error.message
    assert "config.toml" in error.message + error.cause
    assert error.next_step


def test_a_file_that_is_not_text(home: str) -> None:
    (Path(home) / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigFault):
        load_config(home, environment={})


def test_a_bad_variable_is_named(home: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load_config(home, environment={"SHOAL_LAN": "perhaps"})
    assert "SHOAL_LAN" in caught.value.cause


def test_storing_keeps_other_lines(home: str) -> None:
    write(home, '# mine\nname = "old"  # was here\nlan = true\n')
    assert store_setting(home, "name", 'n"e\\w') == 'n"e\\w'
    assert store_setting(home, "listen", "127.0.0.1:0,[::1]:9") == ["127.0.0.1:0", "[::1]:9"]
    config = load_config(home, environment={})
    assert (config.name, config.lan, config.listen) == ('n"e\\w', True, ["127.0.0.1:0", "[::1]:9"])
    assert (Path(home) / "config.toml").read_text().startswith("# mine\n")


@pytest.mark.parametrize(("key", "value"), [("nope", "1"), ("lan", "maybe"), ("name", "")])
def test_storing_refuses_what_could_not_be_read(home: str, key: str, value: str) -> None:
    with pytest.raises(ConfigFault):
        store_setting(home, key, value)
    assert not (Path(home) / "config.toml").exists()


def test_a_setting_that_is_none_is_compared_with_those_there_are(home: str) -> None:
    with pytest.raises(ConfigFault) as failed:
        store_setting(home, "lisen", "3")
    assert failed.value.cause == "on the command line, nothing is called so; like it: listen"


def test_a_file_that_cannot_be_read_is_a_fault_of_the_settings(home: str) -> None:
    (Path(home) / "config.toml").mkdir()
    with pytest.raises(ConfigFault) as failed:
        load_config(home, environment={})
    assert "Is a directory" in failed.value.cause
