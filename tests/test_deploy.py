"""The files in deploy/ and docker-compose.yml say what the programs understand."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import jsonschema

from hub.app import create_app
from hub.cli import cli
from hub.config import Settings
from tests.support import needs
from tests.support.cluster import ROOT, compose, nginx_configuration, replicas_of
from tests.support.image import health_check, instruction, instructions

VARIABLES = {"REDIS_URL", *(f"HUB_{name.upper()}" for name in Settings.model_fields)}
UNIT = (ROOT / "deploy/hub.service").read_text()


def parse_serve(command: list[str]) -> click.Context:
    """What click makes of `hub serve ...`. Raises for an option or a value that it does not take."""
    program, name, *options = command
    assert (program, name) == ("hub", "serve")
    return cli.commands["serve"].make_context("serve", options)


def unit(name: str) -> str:
    """The last value of a key of the systemd unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)[-1]


# Compose


def test_the_compose_file_is_valid() -> None:
    """It satisfies the schema of the Compose Specification, and has what is promised."""
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    validator(schema).validate(compose())
    assert set(compose()["services"]) == {"redis", "hub1", "hub2", "hub3", "nginx"}


def test_the_replicas_command_and_variables_exist() -> None:
    """The Compose file uses options and variables that `hub serve` has, with values that it takes."""
    for service in replicas_of(compose()["services"]).values():
        parse_serve(service["command"])
        assert set(service["environment"]) <= VARIABLES
        given = {name.removeprefix("HUB_").lower(): value for name, value in service["environment"].items()}
        assert Settings.load(**given).forwarded_allow_ips == "*"


def test_the_replicas_are_equal() -> None:
    """nginx may send anybody anywhere, and the cluster test stands for all of them."""
    first, *others = replicas_of(compose()["services"]).values()
    assert others == [first, first]


def test_the_files_that_are_mounted_exist() -> None:
    """The build's files and nginx's configuration."""
    services = compose()["services"]
    build = services["hub1"]["build"]
    mounted = [volume.split(":")[0] for volume in services["nginx"]["volumes"]]
    assert [ROOT / name for name in mounted] == [ROOT / "deploy/nginx.conf"]
    assert (ROOT / build["context"] / build["dockerfile"]).samefile(ROOT / "deploy/Dockerfile")


def test_nginx_serves_the_port_that_is_published() -> None:
    """The upstreams are the replicas on their port, and the published port is the one that nginx listens on."""
    text, services = (ROOT / "deploy/nginx.conf").read_text(), compose()["services"]
    ports = {name: parse_serve(s["command"]).params["port"] for name, s in replicas_of(services).items()}
    assert re.findall(r"server (\w+):(\d+)", text) == [(name, str(port)) for name, port in ports.items()]
    assert services["nginx"]["ports"][0].split(":")[1] == re.findall(r"listen (\d+);", text)[0]


def test_the_drain_fits_into_the_grace() -> None:
    """Compose and systemd wait longer than the hub drains, or they would kill it."""
    service = compose()["services"]["hub1"]
    drain = float(service["environment"]["HUB_DRAIN"])
    assert float(service["stop_grace_period"].removesuffix("s")) > drain + 4
    assert float(unit("TimeoutStopSec")) > Settings.model_fields["drain"].default + 4


# nginx


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    """`nginx -t`, with the addresses replaced."""
    text = nginx_configuration(tmp_path, 8080, {name: 8001 for name in replicas_of(compose()["services"])})
    assert text.count("server 127.0.0.1:8001") == 3
    assert "/dev/" not in text
    (tmp_path / "nginx.conf").write_text(text)
    command = [needs.nginx(), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# systemd


def test_the_unit_runs_the_hub_and_lets_it_drain() -> None:
    """Its command exists, and a stop is the SIGTERM that the supervisor alone gets."""
    program, *arguments = shlex.split(unit("ExecStart"))
    parse_serve([Path(program).name, *arguments])
    assert (unit("KillSignal"), unit("KillMode")) == ("SIGTERM", "mixed")
    assert unit("ExecReload").endswith("kill -HUP $MAINPID")
    assert unit("EnvironmentFile") == "-/etc/hub.env"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """It is well-formed, and where systemd is, it knows every key and value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(UNIT)
    assert parser.sections() == ["Unit", "Service", "Install"]
    if analyze := shutil.which("systemd-analyze"):
        copy = tmp_path / "hub.service"
        copy.write_text(UNIT.replace("/opt/hub/bin/hub", sys.executable))
        done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
        # It also complains about units of the machine.
        assert not [line for line in done.stderr.splitlines() if copy.name in line]


# The image


def test_the_image_is_made_of_what_is_there() -> None:
    """Each file that the Dockerfile copies exists and is not kept out by .dockerignore, and nothing is missing."""
    copied = {
        word for key, value in instructions() if key == "COPY" and "--from" not in value for word in value.split()[:-1]
    }
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert all((ROOT / name).exists() for name in copied)
    assert copied == allowed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    wanted = {project["project"]["readme"], *project["project"]["license-files"], *packages}
    assert copied == wanted | {"pyproject.toml", "hatch_build.py", "constraints.txt"}


def test_the_image_installs_the_pinned_versions() -> None:
    """pip is held to constraints.txt, which has a version for each requirement of the hub."""
    assert "pip install --no-cache-dir --constraint constraints.txt ." in next(
        v for k, v in instructions() if k == "RUN"
    )
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    assert required <= pinned


def test_the_image_runs_the_hub_as_nobody_special() -> None:
    """CMD is in exec form, so that SIGTERM reaches the supervisor; the user is the one that the image makes."""
    command = json.loads(instruction("CMD"))
    assert "hub" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert str(parse_serve(command).params["port"]) == instruction("EXPOSE")
    user = instruction("USER")
    assert any(key == "RUN" and value.endswith(f" {user}") and "useradd" in value for key, value in instructions())
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))


def test_the_health_check_asks_for_readiness() -> None:
    """It is in exec form, and its path and port are the hub's; the cluster test runs it."""
    path = create_app().url_path_for("ready")
    assert f"http://127.0.0.1:{instruction('EXPOSE')}{path}" in health_check()[2]
