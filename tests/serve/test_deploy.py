"""What stands in deploy/ is well-formed, and says what the server understands."""

from __future__ import annotations

import configparser
import functools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from poprt_cli.main import cli

yaml = pytest.importorskip("yaml", reason="pyyaml comes with poprt[serve]")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MODEL = re.compile(r"\w+=/.*\.popef")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@functools.cache
def deployment() -> Any:
    (item,) = (item for item in documents("kubernetes.yaml") if item["kind"] == "Deployment")
    return item["spec"]["template"]["spec"]


def container() -> Any:
    (item,) = deployment()["containers"]
    return item


def compose() -> Any:
    return documents("compose.yaml")[0]["services"]["poprt"]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in lines]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "poprt.service")
    return parser


def command_lines() -> dict[str, list[str]]:
    """The words behind `poprt serve` in each file."""
    entry = json.loads(dict(instructions())["ENTRYPOINT"])
    assert entry[:2] == ["poprt", "serve"]
    exec_start = shlex.split(unit()["Service"]["ExecStart"])
    assert exec_start[0].endswith("/bin/poprt")
    assert exec_start[1] == "serve"
    return {
        "Dockerfile": entry[2:],
        "compose.yaml": compose()["command"],
        "kubernetes.yaml": container()["args"],
        "poprt.service": exec_start[2:],
    }


def option(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "kubernetes.yaml", "poprt.service"])
def test_the_server_understands_each_flag(name: str) -> None:
    if "serve" not in cli.commands:  # type: ignore[attr-defined]
        pytest.skip("this version has no command `poprt serve`")
    shown = CliRunner().invoke(cli, ["serve", "--help"], prog_name="poprt").stdout
    understood = {flag.replace("_", "-") for flag in re.findall(r"--[\w-]+", shown)}
    assert [word for word in command_lines()[name] if word.startswith("--") and word not in understood] == []


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml", "poprt.service"])
def test_each_names_one_model_by_a_whole_path(name: str) -> None:
    words = command_lines()[name]
    assert MODEL.fullmatch(words[0])
    assert all(isinstance(word, str) for word in words)


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml", "poprt.service"])
def test_no_key_stands_on_a_command_line(name: str) -> None:
    assert "--api-key" not in command_lines()[name]


def test_the_image_runs_as_a_user_and_holds_no_model() -> None:
    parts = instructions()
    after = parts[max(index for index, (name, _) in enumerate(parts) if name == "FROM") :]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dict(after)["USER"])
    assert "'.[serve,grpc]'" in dict(parts[: -len(after)])["RUN"]
    sources = [text for name, text in parts if name in ("COPY", "ADD")]
    assert sources == [". .", "--from=build /opt/poprt /opt/poprt"]
    words = json.loads(dict(parts)["ENTRYPOINT"])
    assert option(words, "--host") == "0.0.0.0"


def test_the_health_check_is_python_that_compiles_and_asks_the_port_that_is_exposed() -> None:
    parts = dict(instructions())
    command = json.loads(parts["HEALTHCHECK"].partition("CMD")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert f"http://127.0.0.1:{parts['EXPOSE']}/health" in command[2]


def test_the_context_holds_the_packages_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert kept == {*packages, "pyproject.toml", project["project"]["readme"], "LICENSE"}


def test_the_service_finds_the_pods_and_their_port() -> None:
    (service,) = (item for item in documents("kubernetes.yaml") if item["kind"] == "Service")
    (deployed,) = (item for item in documents("kubernetes.yaml") if item["kind"] == "Deployment")
    labels = deployed["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployed["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == list(names)
    assert names["http"] == int(dict(instructions())["EXPOSE"])


def test_probes_ask_whether_the_server_lives_and_whether_it_is_ready() -> None:
    paths = {name: container()[name]["httpGet"]["path"] for name in container() if name.endswith("Probe")}
    assert paths == {
        "startupProbe": "/v2/health/ready",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert {container()[name]["httpGet"]["port"] for name in paths} == {"http"}


def test_cpus_match_lanes() -> None:
    resources = container()["resources"]
    lanes = option(container()["args"], "--lanes")
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == lanes
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert str(compose()["cpus"]) == option(compose()["command"], "--lanes")


def test_a_server_has_time_to_drain() -> None:
    drain = 30  # the default
    pre_stop = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert int(option(container()["args"], "--drain-timeout")) == drain
    assert deployment()["terminationGracePeriodSeconds"] > pre_stop + drain
    assert int(compose()["stop_grace_period"].removesuffix("s")) > drain
    service = unit()["Service"]
    assert int(service["TimeoutStopSec"]) > int(option(command_lines()["poprt.service"], "--drain-timeout")) == drain
    assert service["KillMode"] == "mixed"


def test_nothing_may_become_more_than_it_is() -> None:
    assert deployment()["securityContext"]["runAsNonRoot"] is True
    assert deployment()["automountServiceAccountToken"] is False
    own = container()["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = dict(instructions())["USER"]
    assert user == f"{deployment()['securityContext']['runAsUser']}:{deployment()['securityContext']['runAsGroup']}"
    assert compose()["read_only"] is True
    assert compose()["cap_drop"] == ["ALL"]
    service = unit()["Service"]
    assert (service["DynamicUser"], service["ProtectSystem"]) == ("yes", "strict")


def test_mounts_and_volumes_match() -> None:
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in deployment()["volumes"]}
    model = container()["args"][0].partition("=")[2]
    assert model.startswith(mounts["models"]["mountPath"] + "/")
    key = option(container()["args"], "--api-key-file")
    assert key.startswith(mounts["api-key"]["mountPath"] + "/")
    for name in ("models", "api-key"):
        assert mounts[name]["readOnly"] is True


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    text = (DEPLOY / "poprt.service").read_text(encoding="utf-8")
    program = tmp_path / "poprt"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "poprt.service"
    path.write_text(text.replace("/opt/poprt/bin/poprt", str(program)))
    ended = subprocess.run([tool, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    complaints = [line for line in ended.stderr.splitlines() if "poprt.service" in line]
    assert complaints == []


def test_docker_takes_the_file() -> None:
    tool = shutil.which("docker")
    if tool is None or any(map(fails, ([tool, "buildx", "version"], [tool, "info"]))):
        pytest.skip("there is no docker with buildx and a daemon")
    command = [tool, "build", "--check", "-f", str(DEPLOY / "Dockerfile"), str(ROOT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def fails(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0
