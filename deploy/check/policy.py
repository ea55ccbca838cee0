"""What a reviewer looks for in Kubernetes objects, beyond their schema: one function, one list of remarks."""

from collections.abc import Iterator, Sequence
from typing import Any

Object = dict[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
WRITES_ITS_ROOT = ("chatbot-ui", "open-webui")  # other people's images, which do
RUNS_AS_ROOT = ("chatbot-ui", "open-webui")
DRAIN_SECONDS = 60  # the default of server.drain


def remarks(objects: Sequence[Object]) -> list[str]:
    """One line for each rule that an object breaks; empty if there is nothing to say."""
    found = []
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        found += [f"{name}: {remark}" for remark in _of_object(each, objects)]
    return found


def _of_object(each: Object, objects: Sequence[Object]) -> Iterator[str]:
    if each["kind"] in WORKLOADS:
        yield from _of_pod(each["spec"]["template"]["spec"])
        yield from _of_replicas(each, objects)
    if each["kind"] == "PodDisruptionBudget" and "minAvailable" in each["spec"]:
        yield "minAvailable blocks the drain of a node where there is one replica: use maxUnavailable"
    if each["kind"] == "Secret":
        yield "secrets are not in these files"
    if each["kind"] == "ConfigMap" and any("KEY" in key or "PASSWORD" in key for key in each.get("data", {})):
        yield "a secret in a ConfigMap"
    if each["kind"] == "Service":
        labels = [item["spec"]["template"]["metadata"]["labels"] for item in objects if item["kind"] in WORKLOADS]
        if not any(each["spec"]["selector"].items() <= label.items() for label in labels):
            yield "selects no pod"


def _of_pod(pod: Object) -> Iterator[str]:
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: false is missing: a Service `gateway` sets GATEWAY_PORT"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: false is missing"
    if pod.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile RuntimeDefault is missing"
    for container in pod["containers"]:
        yield from _of_container(container, pod)


def _of_container(container: Object, pod: Object) -> Iterator[str]:
    name, security = container["name"], container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: privileges are not dropped"
    if name not in RUNS_AS_ROOT and pod["securityContext"].get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot is missing"
    if name not in WRITES_ITS_ROOT and security.get("readOnlyRootFilesystem") is not True:
        yield f"{name}: readOnlyRootFilesystem is missing"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
        yield f"{name}: requests for CPU and memory, or the memory's limit, are missing"
    if "cpu" in resources.get("limits", {}):
        yield f"{name}: a limit of CPU throttles answers"
    if missing := {"startupProbe", "readinessProbe", "livenessProbe"} - container.keys():
        yield f"{name}: {', '.join(sorted(missing))} missing"
    elif container["readinessProbe"].get("httpGet") == container["livenessProbe"].get("httpGet"):
        yield f"{name}: readiness and liveness ask the same"
    if ":" not in container["image"] or container["image"].endswith(":latest"):
        yield f"{name}: its image has no tag that stays"
    if name == "gateway":
        if pod.get("terminationGracePeriodSeconds", 30) <= DRAIN_SECONDS:
            yield "gateway: is killed before its answers are finished"
        if "preStop" not in container.get("lifecycle", {}):
            yield "gateway: requests still come when it stops: preStop is missing"
        if not any("secretRef" in source for source in container.get("envFrom", [])):
            yield "gateway: its keys do not come from a Secret"


def _of_replicas(each: Object, objects: Sequence[Object]) -> Iterator[str]:
    spec = each["spec"]
    volumes = spec["template"]["spec"].get("volumes", [])
    has_claim = any("persistentVolumeClaim" in volume for volume in volumes)
    is_scaled = any(
        item["kind"] == "HorizontalPodAutoscaler" and item["spec"]["scaleTargetRef"]["name"] == each["metadata"]["name"]
        for item in objects
    )
    if has_claim and (is_scaled or spec.get("replicas", 1) > 1):
        yield "several replicas share one volume"
    if has_claim and spec["strategy"]["type"] != "Recreate":
        yield "a rolling update waits for the volume of the pod that it replaces: Recreate"
    if is_scaled and "replicas" in spec:
        yield "replicas is set, and undoes what the autoscaler did"
    if is_scaled and not any(item["kind"] == "PodDisruptionBudget" for item in objects):
        yield "there is no PodDisruptionBudget"
