"""`tailrace keys new`: a key for people and scripts, and a line that the gateway takes."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailrace import Settings
from tailrace.cli.keys import keys
from tailrace.gateway.access import hash_key
from tailrace.gateway.access.keys import Tenants


def test_the_line_that_is_printed_lets_the_key_in(tmp_path: Path) -> None:
    ran = CliRunner().invoke(keys, ["new", "acme"])
    key = ran.stdout.strip()
    assert ran.exit_code == 0
    assert key.startswith("tr-")
    # The key alone on standard output: KEY=$(tailrace keys new acme)
    assert key not in ran.stderr
    told = ran.stderr[ran.stderr.index("[gateway") :]
    assert tomllib.loads(told)["gateway"]["tenants"]["acme"]["key_hashes"] == [hash_key(key)]
    file = tmp_path / "tailrace.toml"
    file.write_text(told)
    tenants = Tenants(Settings.load(config=file))
    tenants.load()
    found = tenants.with_key(key)
    assert found is not None
    assert found.principal.tenant == "acme"


def test_scripts_get_one_object() -> None:
    ran = CliRunner().invoke(keys, ["new", "acme", "--json"])
    made = json.loads(ran.stdout)
    assert made == {"tenant": "acme", "key": made["key"], "key_hash": hash_key(made["key"])}


@pytest.mark.parametrize("tenant", ["", "a b", "a.b", "é", "x" * 65])
def test_what_cannot_be_a_tenant_gets_no_key(tenant: str) -> None:
    ran = CliRunner().invoke(keys, ["new", tenant])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "is no tenant" in ran.stderr
