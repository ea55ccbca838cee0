"""The Tiltfile, run with functions that take notes: what would be built, deployed and forwarded."""

import base64
from typing import Any

import pytest
import starlark_go
from tilt import Calls, TiltFailedError, execute
from tools import ROOT

CHATBOT_UI = ("../chatbot-ui",)
BUILT_INS = {
    *("config", "os", "docker_build", "sync", "run", "k8s_yaml", "k8s_resource", "port_forward", "kustomize"),
    *("decode_yaml_stream", "encode_yaml_stream", "read_yaml", "listdir", "secret_settings", "warn"),
}
IMAGES_FROM_ELSEWHERE = ("ghcr.io/open-webui/",)


def found(calls: Calls, kind: str, name: str) -> dict[str, Any]:
    (one,) = [each for each in calls.objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return one


def forwards(calls: Calls) -> dict[str, list[list[int]]]:
    return {
        args[0]: [each["args"] for each in named.get("port_forwards", [])] for args, named in calls.of("k8s_resource")
    }


def test_tilts_own_interpreter_reads_it() -> None:
    """Its dialect has no f-strings and no `while`; what it does not know are Tilt's built-ins, and nothing else."""
    starlark_go.configure_starlark(allow_global_reassign=True)
    with pytest.raises(starlark_go.ResolveError) as caught:
        starlark_go.Starlark().exec((ROOT / "Tiltfile").read_text())

    assert {error.msg.removeprefix("undefined: ") for error in caught.value.errors} == BUILT_INS


def test_bare_tilt_up_is_the_original_picture() -> None:
    """Chat page at 3000, gateway at 8000 and 5000, a worker with the demo model, in the original's namespace."""
    calls = execute({}, {}, CHATBOT_UI)

    assert forwards(calls) == {"gateway": [[8000, 8000], [5000, 8000]], "worker": [], "chatbot-ui": [[3000, 3000]]}
    assert {each["metadata"].get("namespace") for each in calls.objects if each["kind"] != "Namespace"} == {
        "llm-example"
    }
    assert found(calls, "Namespace", "llm-example")


def test_every_image_is_built_and_used() -> None:
    """Tilt ignores an image that no object names, and cannot pull one that is not built."""
    calls = execute({}, {"ui": "open-webui"})
    built = {args[0] for args, _ in calls.of("docker_build")}
    used = {
        container["image"].rpartition(":")[0]
        for each in calls.objects
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }

    assert built - used == {"llm-example/gateway-base"}  # the other one is built FROM it
    assert all(image in built or image.startswith(IMAGES_FROM_ELSEWHERE) for image in used)


def test_paths_exist() -> None:
    """Dockerfiles, contexts, and what is copied into the running container."""
    for args, named in execute({}, {}).of("docker_build"):
        assert (ROOT / args[1]).is_dir()
        assert (ROOT / named.get("dockerfile", "Dockerfile")).is_file()
        for path in named.get("only", []):
            assert (ROOT / path).exists()
        for step in named.get("live_update", []):
            assert step["step"] != "sync" or (ROOT / step["args"][0]).is_dir()


def test_original_key_goes_into_the_secret_as_it_is() -> None:
    """OPENAI_KEY_BASE64 is base64 already."""
    encoded = base64.b64encode(b"sk-original").decode()
    secret = found(execute({"OPENAI_KEY_BASE64": encoded}, {}), "Secret", "gateway")

    assert secret["data"] == {"OPENAI_API_KEY": encoded}
    assert "OPENAI_API_KEY" not in secret["stringData"]


def test_plain_keys_cannot_become_yaml() -> None:
    key = 'sk-"x"\n  injected: yes #'
    secret = found(execute({"OPENAI_API_KEY": key}, {}), "Secret", "gateway")

    assert secret["stringData"]["OPENAI_API_KEY"] == key


def test_runpod_needs_no_worker() -> None:
    """With an endpoint the cluster runs the gateway alone; the flag is as good as the variable."""
    for calls in (
        execute({"RUNPOD_API_KEY": "rp", "RUNPOD_ENDPOINT_ID": "abc"}, {}),
        execute({"RUNPOD_API_KEY": "rp"}, {"endpoint": "abc"}),
    ):
        assert not [each for each in calls.objects if each["metadata"]["name"] == "worker"]
        assert found(calls, "Secret", "gateway")["stringData"]["RUNPOD_ENDPOINT_ID"] == "abc"


def test_model_file_is_mounted_read_only() -> None:
    worker = found(execute({"LLAMA_MODEL_FILE": "/models/llama.gguf"}, {}), "Deployment", "worker")
    pod = worker["spec"]["template"]["spec"]

    assert {"name": "model", "hostPath": {"path": "/models", "type": "Directory"}} in pod["volumes"]
    assert {"name": "model", "mountPath": "/etc/models/llama", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert {"name": "MODEL", "value": "/etc/models/llama/llama.gguf"} in pod["containers"][0]["env"]


def test_absent_chat_page_is_a_warning() -> None:
    calls = execute({}, {})

    assert "git clone https://github.com/sgerogia/chatbot-ui" in calls.of("warn")[0][0][0]
    assert "chatbot-ui" not in forwards(calls)


def test_gpu_worker_asks_for_a_gpu() -> None:
    worker = found(execute({}, {"worker": "gpu"}), "Deployment", "worker")

    assert worker["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"RUNPOD_API_KEY": "rp"}, {}, "Set both"),
        ({}, {"worker": "tpu"}, "--worker must be"),
        ({}, {"ui": "gradio"}, "--ui must be"),
    ],
)
def test_mistakes_are_said(environ: dict[str, str], flags: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        execute(environ, flags)
    assert TiltFailedError.__name__ in str(caught.value) or isinstance(caught.value, TiltFailedError)
