"""The files in deploy/ and docker-compose.yml say what the programs understand."""

from __future__ import annotations

import configparser
import json
import subprocess
from pathlib import Path

import click
import jsonschema

from hub.cli import cli
from hub.config import Settings
from tests.support import needs
from tests.support.cluster import ROOT, compose, nginx_configuration

VARIABLES = {"REDIS_URL", *(f"HUB_{name.upper()}" for name in Settings.model_fields)}


def serve_options() -> set[str]:
    """Every option of `hub serve`."""
    command = cli.commands["serve"]
    return {name for option in command.params if isinstance(option, click.Option) for name in option.opts}


def test_the_compose_file_is_valid() -> None:
    """It satisfies the schema of the Compose Specification, and has what is promised."""
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(compose())
    assert set(compose()["services"]) == {"redis", "hub1", "hub2", "hub3", "nginx"}


def test_the_replicas_command_and_variables_exist() -> None:
    """The Compose file uses options and variables that `hub serve` has, with values that it takes."""
    for name, service in compose()["services"].items():
        if name.startswith("hub"):
            program, command, *options = service["command"]
            assert (program, command) == ("hub", "serve")
            assert {option for option in options if option.startswith("--")} <= serve_options()
            assert set(service["environment"]) <= VARIABLES
    environment = compose()["services"]["hub1"]["environment"]
    Settings.load(**{k.removeprefix("HUB_").lower(): v for k, v in environment.items() if k.startswith("HUB_") and v})


def test_the_drain_fits_into_the_grace() -> None:
    """Compose and systemd wait longer than the hub drains, or they would kill it."""
    hub = compose()["services"]["hub1"]
    drain = float(hub["environment"]["HUB_DRAIN"])
    assert float(hub["stop_grace_period"].removesuffix("s")) > drain + 4
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy/hub.service")
    assert float(unit["Service"]["TimeoutStopSec"]) > Settings.model_fields["drain"].default + 4
    assert unit["Service"]["ExecStart"].endswith("/hub serve")


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    """`nginx -t`, and the upstreams are the replicas of the Compose file."""
    nginx = needs.nginx()
    upstreams = {name: 8001 for name in compose()["services"] if name.startswith("hub")}
    text = nginx_configuration(tmp_path, 8080, upstreams)
    assert text.count("server 127.0.0.1:8001") == 3
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run([nginx, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_image_is_made_of_what_is_there() -> None:
    """Each file that the Dockerfile copies exists and is not kept out by .dockerignore."""
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert name.removeprefix("./") in allowed, name
    assert any(line.startswith("USER hub") for line in lines)
