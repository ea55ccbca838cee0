"""Every kustomization: it renders, its objects have the schema of Kubernetes, and a reviewer has nothing to say."""

import copy
import shutil
from pathlib import Path

import pytest
from policy import remarks
from tools import ROOT, kustomize, output_of

VERSIONS = ("1.31", "1.34")
COMPONENTS = ("postgres", "cpu-worker", "gpu-worker", "chatbot-ui", "open-webui")
FOLDERS = ("deploy/k8s", "deploy/k8s/examples/ingress", "deploy/k8s/examples/team")


@pytest.fixture(params=[*FOLDERS, *COMPONENTS])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A kustomization: one of ours, or the base with one component."""
    if request.param in FOLDERS:
        return str(request.param)
    shutil.copytree(ROOT / "deploy" / "k8s", tmp_path / "k8s")
    text = f"resources: [../k8s/base]\ncomponents: [../k8s/components/{request.param}]\n"
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "kustomization.yaml").write_text(text)
    return str(tmp_path / "with")


def test_objects_are_valid(folder: str, tmp_path: Path) -> None:
    """By the oldest and the newest version in use, unknown fields included."""
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(output_of("kubectl", "kustomize", folder))

    for version in VERSIONS:
        output_of("kubernetes-validate", "--strict", "-k", version, rendered)


def test_reviewer_has_nothing_to_say(folder: str) -> None:
    assert remarks(kustomize(folder)) == []


def test_base_is_one_gateway_with_a_volume() -> None:
    """SQLite belongs to one process."""
    (deployment,) = [each for each in kustomize("deploy/k8s") if each["kind"] == "Deployment"]

    assert deployment["spec"]["replicas"] == 1
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "gateway-data"}} in deployment["spec"]["template"][
        "spec"
    ]["volumes"]


def test_postgres_makes_it_several() -> None:
    """With an autoscaler, a budget for disruptions, and no volume left over."""
    objects = kustomize("deploy/k8s/examples/team")
    kinds = [each["kind"] for each in objects if each["metadata"]["name"] == "gateway"]

    assert {"HorizontalPodAutoscaler", "PodDisruptionBudget"} <= set(kinds)
    assert not [each for each in objects if each["metadata"]["name"] == "gateway-data"]


def test_change_of_the_configuration_restarts_the_pods() -> None:
    """Its name has a hash of its content, and the pod refers to that."""
    objects = kustomize("deploy/k8s/examples/team")
    names = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    (gateway,) = [each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == "gateway"]
    pod = gateway["spec"]["template"]["spec"]

    assert pod["containers"][0]["envFrom"][0]["configMapRef"]["name"] in names
    assert all(name.rpartition("-")[2] not in ("gateway", "file") for name in names)


@pytest.mark.parametrize(
    ("path", "value", "remark"),
    [
        ("spec.template.spec.enableServiceLinks", None, "enableServiceLinks"),
        ("spec.template.spec.automountServiceAccountToken", True, "automountServiceAccountToken"),
        ("spec.template.spec.terminationGracePeriodSeconds", 30, "killed before"),
        ("spec.template.spec.containers.0.image", "gateway:latest", "no tag that stays"),
        ("spec.template.spec.containers.0.resources.limits", {"cpu": 1}, "throttles"),
        ("spec.template.spec.containers.0.securityContext", {}, "privileges"),
        ("spec.template.spec.containers.0.lifecycle", {}, "preStop"),
        ("spec.replicas", 2, "share one volume"),
        ("spec.strategy.type", "RollingUpdate", "Recreate"),
    ],
)
def test_reviewer_sees(path: str, value: object, remark: str) -> None:
    """Each of these mistakes in the base."""
    objects = copy.deepcopy(kustomize("deploy/k8s"))
    (place,) = [each for each in objects if each["kind"] == "Deployment"]
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key)] if key.isdecimal() else place[key]
    place[last] = value

    assert any(remark in each for each in remarks(objects))
