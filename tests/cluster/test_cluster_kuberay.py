"""Kubernetes: every object against its schema, and what the pods may do."""

from __future__ import annotations

import json
import shlex

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from manifests import CLUSTER, CORE_OBJECTS, KUBERAY, cluster_spec, load, pod_templates

OLDEST, NEWEST = "1.30", "1.37"


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads((CLUSTER / "schemas/kuberay.schema.json").read_text())


def mistakes(document: dict, schema: dict) -> list[str]:
    """What a RayCluster or RayJob has that KubeRay does not know, or knows as another type."""
    known = next(part for part in schema["oneOf"] if part["properties"]["kind"]["const"] == document["kind"])
    found = Draft202012Validator({**known, "$defs": schema["$defs"]}).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def check_pod(template: dict, version: str = NEWEST) -> None:
    """A pod template, in the one object of Kubernetes that consists of it."""
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    kubernetes_validate.validate(wrapped, version, strict=True)


def test_the_schema_is_one(schema):
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_knows_every_field(name, schema):
    assert mistakes(load(name), schema) == []


def test_kuberay_mistakes_are_found(schema):
    job = load("kuberay/rayjob.yaml")
    job["spec"]["entrypiont"] = job["spec"].pop("entrypoint")
    assert any("entrypiont" in text for text in mistakes(job, schema))
    cluster = load("kuberay/raycluster.yaml")
    cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] = "1"
    cluster["spec"]["authOptions"]["mode"] = "tokne"
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    found = " ".join(mistakes(cluster, schema))
    assert "minReplicas" in found
    assert "tokne" in found
    assert "num-cpus" in found
    del cluster["spec"]["headGroupSpec"]
    assert any("headGroupSpec" in text for text in mistakes(cluster, schema))


@pytest.mark.parametrize("name", KUBERAY)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_pods_are_what_kubernetes_takes(name, version):
    for template in pod_templates(load(name)).values():
        check_pod(template, version)


def test_pod_mistakes_are_found():
    template = pod_templates(load("kuberay/rayjob.yaml"))["head"]
    template["spec"]["containers"][0]["prots"] = template["spec"]["containers"][0].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        check_pod(template)


@pytest.mark.parametrize("name", CORE_OBJECTS)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_core_objects_are_what_kubernetes_takes(name, version):
    kubernetes_validate.validate(load(name), version, strict=True)


@pytest.mark.parametrize("name", CORE_OBJECTS)
def test_core_mistakes_are_found(name):
    document = load(name)
    document["metadata"]["labels_"] = document["metadata"].pop("labels")
    with pytest.raises(kubernetes_validate.ValidationError, match="labels_"):
        kubernetes_validate.validate(document, NEWEST, strict=True)


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_pass_the_restricted_pod_security_standard(name):
    enforced = load("kuberay/namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    document = load(name)
    for template in pod_templates(document).values():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod.get("volumes", []))
        contexts = [container["securityContext"] for container in pod["containers"]]
        if "autoscalerOptions" in cluster_spec(document):
            contexts.append(cluster_spec(document)["autoscalerOptions"]["securityContext"])
        for context in contexts:
            assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("name", KUBERAY)
def test_clusters_ask_for_a_token_and_stay_inside(name):
    spec = cluster_spec(load(name))
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "enableIngress" not in spec["headGroupSpec"]


@pytest.mark.parametrize("name", KUBERAY)
def test_only_the_autoscaler_gets_a_service_account(name):
    document = load(name)
    for place, template in pod_templates(document).items():
        needed = place == "head" and cluster_spec(document).get("enableInTreeAutoscaling", False)
        assert template["spec"].get("automountServiceAccountToken", True) is needed


@pytest.mark.parametrize("name", KUBERAY)
def test_the_policy_selects_every_pod_and_lets_it_ask_for_names(name):
    policy = load("kuberay/networkpolicy.yaml")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    chosen = policy["podSelector"]["matchLabels"].items()
    for template in pod_templates(load(name)).values():
        assert chosen <= template["metadata"]["labels"].items()
    dns = [rule for rule in policy["egress"] if {"protocol": "UDP", "port": 53} in rule.get("ports", [])]
    assert [peer["podSelector"]["matchLabels"] for rule in dns for peer in rule["to"]] == [{"k8s-app": "kube-dns"}]
    assert all("from" in rule for rule in policy["ingress"])


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_sees_the_shared_folder_and_has_shared_memory(name):
    claim = load("kuberay/pvc.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for place, template in pod_templates(load(name)).items():
        if place == "submitter":
            continue
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        assert volumes[mounts["/sweeps"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", KUBERAY)
def test_only_the_head_gets_the_passwords_of_services(name):
    for place, template in pod_templates(load(name)).items():
        (container,) = template["spec"]["containers"]
        secrets = [source["secretRef"]["name"] for source in container.get("envFrom", [])]
        assert secrets == (["vsae-services"] if place == "head" else [])
        assert "env" not in container


def test_a_job_reads_the_mounted_space_and_cleans_up():
    job = load("kuberay/rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    mounts = pod_templates(job)["head"]["spec"]["containers"][0]["volumeMounts"]
    paths = [mount["mountPath"] for mount in mounts]
    assert words[words.index("sweep") + 1].rpartition("/")[0] in paths
    assert words[words.index("--root") + 1] in paths
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["preRunningDeadlineSeconds"] < job["spec"]["activeDeadlineSeconds"]


def test_the_kustomization_names_files_that_are_there_and_one_namespace():
    document = load("kuberay/kustomization.yaml")
    assert document.keys() == {"apiVersion", "kind", "namespace", "resources", "images"}
    for name in document["resources"]:
        kind = load(f"kuberay/{name}")
        assert kind["metadata"].get("namespace", document["namespace"]) == document["namespace"]
    assert load("kuberay/namespace.yaml")["metadata"]["name"] == document["namespace"]
    assert load("kuberay/rayjob.yaml")["metadata"]["namespace"] == document["namespace"]
