from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.config import Settings
from neverstale.errors import SettingsError

SECRET = "s3cr3t-Pa55"


def test_an_empty_environment_gives_the_local_redis() -> None:
    """Without any variable the cache looks for Redis where Redis listens by default."""
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.db, settings.mode) == ("localhost", 6379, 0, "single")
    assert (settings.username, settings.password, settings.tls) == (None, None, False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"nodes": (("h", 6379),), "db": 0, "mode": "single"}),
        ("redis://h:7000/3", {"nodes": (("h", 7000),), "db": 3}),
        ("redis://h?db=3", {"db": 3}),
        ("redis://:p%40w@h", {"username": None, "password": "p@w"}),
        ("redis://u:p:w@h", {"username": "u", "password": "p:w"}),
        ("redis://u@h", {"username": "u", "password": None}),
        ("redis://[::1]:7000", {"nodes": (("::1", 7000),)}),
        ("rediss://h", {"tls": True, "tls_options": {}}),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
            {
                "tls_options": {
                    "ssl_cert_reqs": "none",
                    "ssl_ca_certs": "/etc/ca.pem",
                    "ssl_check_hostname": False,
                }
            },
        ),
        (
            "unix:///run/r.sock?db=2",
            {"mode": "unix", "path": "/run/r.sock", "db": 2, "host": None, "port": None},
        ),
        ("unix://:pw@/run/r.sock", {"path": "/run/r.sock", "password": "pw", "nodes": ()}),
        ("redis://h:1?cluster=true", {"mode": "cluster", "nodes": (("h", 1),)}),
        ("redis://h:1,i:2?cluster=true", {"mode": "cluster", "nodes": (("h", 1), ("i", 2))}),
        ("rediss://u:p@h,i?cluster=1", {"mode": "cluster", "tls": True, "password": "p"}),
        ("redis://h?cluster=false", {"mode": "single"}),
        (
            "redis+sentinel://h,i:2/main/4",
            {"mode": "sentinel", "nodes": (("h", 26379), ("i", 2)), "service": "main", "db": 4},
        ),
        ("redis+sentinel://u:p@h/main", {"username": "u", "password": "p", "service": "main", "db": 0}),
        ("rediss+sentinel://h/main", {"mode": "sentinel", "tls": True}),
        (" redis://h \n", {"nodes": (("h", 6379),)}),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: dict[str, Any]) -> None:
    """Every kind of URL says what it means, and the masked URL means the same."""
    settings = Settings.from_url(url)
    assert expected == {name: getattr(settings, name) for name in expected}
    if settings.password is None:
        again = Settings.from_url(str(settings.url))
        assert settings == again
        assert settings.url == again.url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://h",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:port",
        "redis://h/name",
        "redis://h/1?db=1",
        "redis://h?db=x",
        "redis://h?db=1&db=1",
        "redis://h?decode_responses=true",
        "redis://h?ssl_cert_reqs=none",
        "rediss://h?ssl_cert_reqs=maybe",
        "redis://h?cluster=perhaps",
        "redis://h,i",
        "redis://h,",
        "redis://,h?cluster=true",
        "redis://h/1?cluster=true",
        "unix://",
        "unix:///run/r.sock?cluster=true",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel://h/main/x",
        "redis://h#1",
    ],
)
def test_a_wrong_url_is_an_error_that_names_its_variable(url: str) -> None:
    """A URL that is not understood is refused, by the name under which it was given."""
    if url:
        with pytest.raises(SettingsError) as by_variable:
            Settings.from_env({"REDIS_URL": url})
        assert by_variable.value.variable == "REDIS_URL"
    with pytest.raises(SettingsError, match=r"^url: ") as by_option:
        Settings.from_url(url)
    assert by_option.value.variable == "url"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:x",
        f"redis://:{SECRET}/@h:1",
        f"redis://:{SECRET}?@h:1",
        f"redis://:{SECRET}#@h:1",
        f"redis://:/{SECRET}@h:1",
        f"redis://:?{SECRET}@h:1",
        f"redis://:#{SECRET}@h:1",
        f"redis://:1:{SECRET}",
        f"redis://h:{SECRET}",
        f"redis://h/{SECRET}",
        f"redis://h?{SECRET}=1",
        f"redis://h?password={SECRET}",
        f"redis://h?db={SECRET}",
        f"{SECRET}://h",
        SECRET,
    ],
)
def test_an_error_about_a_url_quotes_nothing_of_it(url: str) -> None:
    """A URL that is not understood may have its password anywhere."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"REDIS_URL": url})
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.args)
    assert SECRET not in told


def test_the_password_is_shown_by_password_alone() -> None:
    """No text made of the settings has the password in it."""
    settings = Settings.from_url(f"redis://app:{SECRET}@h:1/2")
    assert settings.password == SECRET
    assert settings.url == "redis://app:***@h:1/2"
    shown = [
        repr(settings),
        str(settings),
        f"{settings.url}",
        repr(settings.url),
        repr(dataclasses.asdict(settings)),
    ]
    assert [text for text in shown if SECRET in text] == []


def test_copies_keep_the_password() -> None:
    """A changed, copied or pickled object still reaches Redis, and equal settings are equal."""
    settings = Settings.from_url(f"redis://:{SECRET}@h:1")
    changed = dataclasses.replace(settings, ttl=5)
    assert (changed.password, changed.ttl) == (SECRET, 5.0)
    assert dataclasses.replace(changed, ttl=settings.ttl) == settings
    assert copy.deepcopy(changed) == changed
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert hash(settings) == hash(Settings.from_url(f"redis://:{SECRET}@h:1"))
    assert settings != Settings.from_url("redis://:other@h:1")


def test_variables_are_read_and_options_win() -> None:
    """Each option has a variable; an option given by hand is preferred, and its variable is not even looked at."""
    environ = {
        "REDIS_URL": "redis://h",
        "NEVERSTALE_NAMESPACE": "shop",
        "NEVERSTALE_VERSION": "3",
        "NEVERSTALE_TTL": "60",
        "NEVERSTALE_MAX_TTL": " 7200.5 ",
        "NEVERSTALE_TIMEOUT": "0.1",
        "NEVERSTALE_PATIENT_TIMEOUT": "1",
        "NEVERSTALE_LEASE_TTL": "5",
        "NEVERSTALE_WAIT_LIMIT": "0",
        "NEVERSTALE_POOL_SIZE": "4",
        "NEVERSTALE_COMPRESS_ABOVE": "100",
        "NEVERSTALE_MAX_VALUE_BYTES": "1000",
    }
    expected = Settings(
        url="redis://h",
        namespace="shop",
        version=3,
        ttl=60.0,
        max_ttl=7200.5,
        timeout=0.1,
        patient_timeout=1.0,
        lease_ttl=5.0,
        wait_limit=0.0,
        pool_size=4,
        compress_above=100,
        max_value_bytes=1000,
    )
    assert Settings.from_env(environ) == expected
    assert {f.name for f in dataclasses.fields(Settings) if f.init} == {
        "url" if name == "REDIS_URL" else name.removeprefix("NEVERSTALE_").lower() for name in environ
    }
    wrong = {**environ, "NEVERSTALE_VERSION": "x", "REDIS_URL": "x"}
    assert Settings.from_env(wrong, version=4, url="redis://i") == dataclasses.replace(
        expected, version=4, url="redis://i"
    )
    assert Settings.from_env(dict.fromkeys(environ, "")) == Settings()


WRONG = [
    ("namespace", "a b"),
    ("namespace", "a:b"),
    ("namespace", "a{b}"),
    ("namespace", "ä"),
    ("namespace", "x" * 65),
    ("namespace", "cache"),
    ("namespace", "v1"),
    ("version", "0"),
    ("version", "-1"),
    ("version", "1.5"),
    ("version", "1000000"),
    ("version", "three"),
    ("ttl", "0"),
    ("ttl", "-5"),
    ("ttl", "nan"),
    ("ttl", "inf"),
    ("ttl", "1h"),
    ("max_ttl", "86401"),
    ("max_ttl", "0"),
    ("timeout", "0"),
    ("timeout", "61"),
    ("patient_timeout", "-1"),
    ("patient_timeout", "nan"),
    ("lease_ttl", "0"),
    ("wait_limit", "-1"),
    ("wait_limit", "inf"),
    ("pool_size", "0"),
    ("compress_above", "-1"),
    ("max_value_bytes", "0"),
    ("max_value_bytes", str(513 * 1024 * 1024)),
]


@pytest.mark.parametrize(("option", "text"), WRONG)
def test_a_wrong_variable_is_an_error_that_names_it_and_says_what_is_allowed(option: str, text: str) -> None:
    """The operator learns which variable is wrong and what it may be."""
    variable = f"NEVERSTALE_{option.upper()}"
    with pytest.raises(SettingsError, match=f"^{variable}: must ") as caught:
        Settings.from_env({variable: text})
    assert caught.value.variable == variable


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("namespace", "shop\n"),
        ("namespace", None),
        ("version", True),
        ("version", 1.0),
        ("version", 0),
        ("ttl", True),
        ("ttl", None),
        ("ttl", float("nan")),
        ("ttl", float("inf")),
        ("ttl", 0),
        ("max_ttl", 86400.5),
        ("pool_size", None),
        ("url", None),
        ("url", b"redis://h"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(option: str, value: Any) -> None:
    """A programmer learns which argument is wrong."""
    with pytest.raises(SettingsError, match=f"^{option}: must ") as caught:
        Settings(**{option: value})
    assert caught.value.variable == option


def test_an_unknown_option_is_an_error_that_lists_the_known_ones() -> None:
    """A misspelt option is not ignored."""
    makers: list[Callable[[], Settings]] = [
        lambda: Settings.from_url("redis://h", tttl=5),
        lambda: Settings.from_env({}, tttl=5),
    ]
    for make in makers:
        with pytest.raises(
            SettingsError, match=r"^tttl: unknown option; known: url, namespace, .*max_value_bytes"
        ):
            make()


def test_ttls_are_cut_and_never_raised() -> None:
    """No setting makes anything live longer than a day, or than the application's own limit."""
    assert Settings(ttl=1e6).ttl == 86400.0
    assert Settings(ttl=100, max_ttl=10).ttl == 10.0
    assert Settings(max_ttl=10).ttl == 10.0
    assert Settings(ttl=5, max_ttl=10).ttl == 5.0


def test_settings_are_frozen() -> None:
    """What one cache was made with does not change under another."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().ttl = 5  # type: ignore[misc]


@given(st.text())
def test_any_text_as_a_url_is_settings_or_a_settings_error(text: str) -> None:
    """Nothing but the one error comes out of a URL, and its masked form can be read again."""
    for url in (text, f"redis://{text}", f"unix://{text}", f"redis+sentinel://{text}"):
        try:
            settings = Settings.from_url(url)
        except SettingsError:
            continue
        assert Settings.from_url(str(settings.url)).nodes == settings.nodes


@given(user=st.text(min_size=1), password=st.text(min_size=1))
def test_any_user_and_password_pass_through_a_url(user: str, password: str) -> None:
    """Percent-encoded, every user name and password arrives as it is."""
    settings = Settings.from_url(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h:1/2")
    assert (settings.username, settings.password, settings.nodes, settings.db) == (
        user,
        password,
        (("h", 1),),
        2,
    )
