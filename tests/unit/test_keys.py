"""API keys: what is kept, what is compared, what cannot be used."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.keys import KeyRing, KeysError, KeysHolder, Role, create_key, read_keys, require_keys, revoke_key
from service.metrics import Metrics
from service.settings import Settings

NOW = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_kept_as_its_hash_alone_and_readable_by_its_owner_alone(path: Path) -> None:
    token = create_key(path, "shop-web", Role.WIDGET, NOW)
    text = path.read_text()
    assert token not in text and token.rpartition(".")[2] not in text
    assert hashlib.sha256(token.encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_a_key_is_found_by_its_whole_text_alone(path: Path) -> None:
    token = create_key(path, "shop-web", Role.WIDGET, NOW).encode()
    other = create_key(path, "till", Role.SERVER, NOW).encode()
    ring = read_keys(path)
    found = ring.find(token)
    assert found is not None and (found.name, found.role) == ("shop-web", Role.WIDGET)
    secret, name = token.rpartition(b".")[2], other.split(b".")[1]
    forged = [
        b"",
        b"recsys",
        b"recsys.shop-web",
        b"recsys.shop-web.",
        token[:-1],
        token + b"x",
        token.upper(),
        b"recsys.%b.%b" % (name, secret),  # another's name
        b"recsys.nobody.%b" % secret,
        b"\xff.\xff.\xff",
        found.sha256.encode(),
    ]
    assert [ring.find(one) for one in forged] == [None] * len(forged)


def test_no_two_secrets_are_alike(path: Path) -> None:
    tokens = [create_key(path, f"key-{n}", Role.SERVER, NOW) for n in range(20)]
    secrets = {token.rpartition(".")[2] for token in tokens}
    assert len(secrets) == 20 and {len(secret) for secret in secrets} == {43}  # 256 bits, six a character


def test_a_role_covers_those_below_it() -> None:
    covers = {(one, other) for one in Role for other in Role if one.may(other)}
    assert covers == {
        (Role.WIDGET, Role.WIDGET),
        (Role.SERVER, Role.WIDGET),
        (Role.SERVER, Role.SERVER),
        *((Role.ADMIN, role) for role in Role),
    }


def test_no_hash_is_in_what_a_key_prints(path: Path) -> None:
    create_key(path, "till", Role.SERVER, NOW)
    (key,) = read_keys(path).keys
    assert key.sha256 not in repr(key)


def test_a_revoked_key_is_gone_and_a_file_without_keys_lets_nobody_in(path: Path) -> None:
    token = create_key(path, "till", Role.SERVER, NOW)
    revoke_key(path, "till")
    ring = read_keys(path)
    assert ring.keys == () and ring.find(token.encode()) is None
    with pytest.raises(KeysError, match="no key 'till'"):
        revoke_key(path, "till")


@pytest.mark.parametrize("name", ["", "Upper", "a.b", "-a", "a" * 65, "a b", "ü", "a\n"])
def test_a_name_that_cannot_be_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="name"):
        create_key(path, name, Role.ADMIN, NOW)
    assert not path.exists()


def test_a_name_is_given_once(path: Path) -> None:
    create_key(path, "till", Role.SERVER, NOW)
    with pytest.raises(KeysError, match="there is a key 'till'"):
        create_key(path, "till", Role.ADMIN, NOW)
    key = read_keys(path).keys[0]
    with pytest.raises(KeysError, match="same name"):
        KeyRing([key, key])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [], "more": 1}', '{"keys": [{"sha256": "SECRET"}]}']
)
def test_a_file_of_something_else_is_refused_without_a_word_of_it(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(KeysError, match=r"keys\.json") as refused:
        read_keys(path)
    assert "SECRET" not in str(refused.value)


def reloaded(holder: KeysHolder) -> None:
    for _ in range(2):  # it must be the same at two looks
        asyncio.run(holder.reload())


def test_a_service_closes_with_the_first_key_and_stays_closed(path: Path) -> None:
    registry = CollectorRegistry()
    holder = KeysHolder(path, Metrics("s", registry))
    assert holder.ring is None
    token = create_key(path, "boss", Role.ADMIN, NOW).encode()
    reloaded(holder)
    assert holder.ring is not None and holder.ring.find(token) is not None
    before = holder.ring
    path.unlink()
    reloaded(holder)
    assert holder.ring is before
    assert registry.get_sample_value("recsys_keys_stale", {"shop": "s"}) == 1
    path.write_text("{")
    reloaded(holder)
    assert holder.ring is before
    path.unlink()
    create_key(path, "other", Role.ADMIN, NOW)
    reloaded(holder)
    assert [key.name for key in holder.ring.keys] == ["other"]
    assert registry.get_sample_value("recsys_keys_stale", {"shop": "s"}) == 0


def test_keys_that_are_named_have_to_be_there(path: Path, tmp_path: Path) -> None:
    named = Settings(data_dir=tmp_path, keys=path)  # on this machine alone, where a proxy may stand
    with pytest.raises(KeysError, match=r"keys\.json cannot be read"):
        require_keys(named)
    create_key(path, "boss", Role.ADMIN, NOW)
    require_keys(named)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "shop.example"])
def test_without_keys_only_this_machine_is_listened_to(tmp_path: Path, host: str) -> None:
    with pytest.raises(KeysError, match="recsys keys create"):
        require_keys(Settings(data_dir=tmp_path, host=host))
    require_keys(Settings(data_dir=tmp_path, host=host, open_access=True))
    create_key(tmp_path / "keys.json", "boss", Role.ADMIN, NOW)
    require_keys(Settings(data_dir=tmp_path, host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_may_be_listened_to_without_keys(tmp_path: Path, host: str) -> None:
    require_keys(Settings(data_dir=tmp_path, host=host))


def test_the_storefront_is_given_no_key_but_a_widgets(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.json"
    tokens = {role: create_key(path, str(role), role, NOW) for role in Role}
    require_keys(Settings(data_dir=tmp_path, keys=path, storefront_key=tokens[Role.WIDGET]))
    for given in (tokens[Role.SERVER], tokens[Role.ADMIN], "recsys.widget.guess"):
        with pytest.raises(KeysError, match="role widget") as refused:
            require_keys(Settings(data_dir=tmp_path, keys=path, storefront_key=given))
        assert given not in str(refused.value)


def test_settings_print_no_secret() -> None:
    settings = Settings(
        redis_url="redis://:hush@redis/0", database_url="postgresql://u:hush@db/x", storefront_key="recsys.w.hush"
    )
    assert "hush" not in repr(settings) and "hush" not in str(settings)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(KeysError, match="cannot be read"):
        read_keys(path)


def test_of_many_who_change_the_keys_at_once_nobody_undoes_another(path: Path) -> None:
    create_key(path, "leaked", Role.ADMIN, NOW)
    names = {f"till-{n}" for n in range(8)}
    changes = [partial(create_key, path, name, Role.SERVER, NOW) for name in names]
    with ThreadPoolExecutor(9) as pool:
        done = [pool.submit(change) for change in [*changes, partial(revoke_key, path, "leaked")]]
    assert [one.exception() for one in done] == [None] * 9
    assert {key.name for key in read_keys(path).keys} == names
