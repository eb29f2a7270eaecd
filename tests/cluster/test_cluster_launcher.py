"""``ray up``: what Ray itself checks before it makes a machine, and the commands that it runs on one."""

from __future__ import annotations

import subprocess

import jsonschema
import pytest
from manifests import LAUNCHERS, TOOLS, load

COMMANDS = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def check(config: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_the_file(name):
    prepared = check(load(name))
    assert prepared["available_node_types"]["gpu_worker"]["max_workers"] == prepared["max_workers"]


def mistyped(config: dict) -> None:
    config["max_wrokers"] = config.pop("max_workers")


def unknown_head(config: dict) -> None:
    config["head_node_type"] = "haed"


def number_as_text(config: dict) -> None:
    config["idle_timeout_minutes"] = "ten"


def more_than_the_limit(config: dict) -> None:
    config["available_node_types"]["gpu_worker"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("mistake", [mistyped, unknown_head, number_as_text, more_than_the_limit])
def test_ray_refuses_a_mistake(name, mistake):
    config = load(name)
    mistake(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(config)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_no_trial_lands_on_the_head_and_idle_workers_go(name):
    config = load(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert 0 < types["gpu_worker"]["min_workers"] < types["gpu_worker"]["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False


def test_workers_are_spot_machines_and_heads_are_not():
    aws, gcp = (load(name)["available_node_types"] for name in LAUNCHERS)
    assert aws["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert {"preemptible": True} in gcp["gpu_worker"]["node_config"]["scheduling"]
    assert "scheduling" not in gcp["head"]["node_config"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_only_the_source_tree_is_copied(name):
    config = load(name)
    assert list(config["file_mounts"].values()) == ["."]
    assert {".git", ".venv", "**/.env", "sweeps", "reports"} <= set(config["rsync_exclude"])


def lint(commands: list[str], folder) -> str:
    """What shellcheck says of commands, each a script of its own, as Ray runs them."""
    files = []
    for number, command in enumerate(commands):
        files.append(folder / f"{number}.sh")
        files[-1].write_text(f"{command}\n")
    # SC2016: what is written to .bashrc is to be expanded there, and not here.
    words = [TOOLS / "shellcheck", "--shell=bash", "--exclude=SC2016", *files]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_are_sound_shell(name, tmp_path):
    config = load(name)
    commands = [command for key in COMMANDS for command in config.get(key, [])]
    assert lint(commands, tmp_path) == ""
    assert "SC2086" in lint(["ray start --address=$RAY_HEAD_IP:6379"], tmp_path)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_start_asks_for_the_token_and_hides_the_dashboard(name):
    config = load(name)
    starts = [line for key in COMMANDS[2:] for line in config[key] if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        assert "RAY_AUTH_MODE=token" in line
        assert 'RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"' in line
    assert "--dashboard-host=127.0.0.1" in starts[0]
    fetched = next(line for line in config["setup_commands"] if "auth_token" in line and ">" in line)
    assert fetched.startswith("(umask 077 && ")


def test_aws_knows_every_key_of_a_machine():
    """Ray passes ``node_config`` on without a look; this is the check that AWS's own client makes of a request."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    shape = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for machine in load("ray-aws.yaml")["available_node_types"].values():
        request = {**machine["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        request["InstnaceType"] = request.pop("InstanceType")
        assert "InstnaceType" in ParamValidator().validate(request, shape).generate_report()
