"""The files that deploy Rowvault: what their own checkers say of them, and that they keep what they promise."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml

from daemon.settings.load import describe_settings
from tests.programs import ROOT
from tests.servers import program

COMPOSE = ROOT / "docker-compose.yml"
SETTING = re.compile(r"\bROWVAULT_[A-Z0-9_]+")
PRESENT_SETTINGS = {setting.name for setting in describe_settings()}


def complaints(*command: str | Path) -> str:
    """What a checker says, run at the top of the project; empty if it is content."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def installed(name: str) -> Path:
    """A checker that came with the development requirements."""
    return Path(sys.executable).parent / name


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def test_the_dockerfile_satisfies_its_linter() -> None:
    assert not complaints(installed("hadolint"), "Dockerfile")


def test_the_compose_file_matches_the_compose_schema() -> None:
    assert not complaints(installed("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_every_yaml_file_satisfies_its_linter() -> None:
    files = [*ROOT.glob("*.y*ml"), *ROOT.glob(".*.y*ml"), *ROOT.glob("deploy/**/*.y*ml")]
    assert COMPOSE in files
    assert not complaints(installed("yamllint"), "--strict", *files)


def test_prometheus_accepts_its_configuration() -> None:
    assert not complaints(program("promtool", "prometheus"), "check", "config", "deploy/prometheus.yml")


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml", "deploy/example.env", "deploy/run"])
def test_every_setting_that_is_named_exists(file: str) -> None:
    named = {name.removesuffix("_FILE") for name in SETTING.findall((ROOT / file).read_text())}
    assert named - {"ROWVAULT_PROGRAM"} <= PRESENT_SETTINGS


def test_the_example_settings_show_nothing_that_is_not_a_setting_or_a_comment() -> None:
    lines = (ROOT / "deploy/example.env").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_rowvault_runs_confined(services: dict[str, Any]) -> None:
    rowvault = services["rowvault"]
    assert rowvault["read_only"] is True
    assert rowvault["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in rowvault["security_opt"]
    assert rowvault["tmpfs"] == ["/tmp"]


def test_no_secret_is_in_the_compose_file(services: dict[str, Any]) -> None:
    secret = re.compile(r"PASSWORD|SECRET|KEY|DATABASE_URL")
    given = {name for service in services.values() for name in service.get("environment", {}) if secret.search(name)}
    assert {name for name in given if not name.endswith("_FILE")} == set()


def test_everything_is_published_on_loopback_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_bucket_policy_allows_what_the_code_asks_of_a_store_and_nothing_else() -> None:
    statements = json.loads((ROOT / "deploy/bucket-policy.json").read_text())["Statement"]
    allowed = [action for statement in statements for action in statement["Action"]]
    assert all(statement["Effect"] == "Allow" for statement in statements)
    assert sorted(allowed) == sorted({action for name in operations() for action in NEEDED[name]})


NEEDED = {
    "abort_multipart_upload": ["s3:AbortMultipartUpload"],
    "complete_multipart_upload": ["s3:PutObject"],
    "copy_object": ["s3:GetObject", "s3:PutObject"],
    "create_multipart_upload": ["s3:PutObject", "s3:PutObjectRetention"],
    "delete_object": ["s3:DeleteObject"],
    "delete_objects": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
    "get_object": ["s3:GetObject"],
    "head_bucket": ["s3:ListBucket"],
    "head_object": ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"],
    "list_multipart_uploads": ["s3:ListBucketMultipartUploads"],
    "list_object_versions": ["s3:ListBucketVersions"],
    "list_objects_v2": ["s3:ListBucket"],
    "put_object": ["s3:PutObject", "s3:PutObjectRetention"],
    "put_object_retention": ["s3:PutObjectRetention"],
    "upload_part": ["s3:PutObject"],
    "upload_part_copy": ["s3:GetObject", "s3:PutObject"],
}
"""The rights that each operation takes, as it is used here:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
"""


def operations() -> set[str]:
    """Every S3 operation that the code names."""
    known = set(botocore.session.Session().create_client("s3", "us-east-1").meta.method_to_api_mapping)
    found = set()
    for path in (ROOT / "storage" / "backends").glob("s3*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in known:
                found.add(str(node.value))
    return found
