"""deploy/kubernetes says what Kubernetes, kustomize, the hub and its neighbours there understand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hub.admission import ENDPOINTS
from hub.app import create_app
from hub.config import Settings
from hub.health import PATIENCE
from hub.metrics import METRICS
from hub.supervisor import GRACE, SETTING_VARIABLES
from tests.support.cluster import ROOT, compose
from tests.support.image import instruction
from tests.test_deploy import parse_serve

FOLDER = ROOT / "deploy/kubernetes"
SCHEMA: dict[str, Any] = json.loads((ROOT / "tests/data/kubernetes-1.34.json").read_text())

Manifest = dict[str, Any]


def load(name: str) -> Manifest:
    loaded: Manifest = yaml.safe_load((FOLDER / name).read_text())
    return loaded


MANIFESTS = {path.relative_to(FOLDER).as_posix(): load(str(path)) for path in sorted(FOLDER.glob("*/*.yaml"))}
# The others are kustomize's, an operator's, and values of charts.
KINDS = {key.rpartition(".")[2]: key for key in (each["$ref"].rpartition("/")[2] for each in SCHEMA["oneOf"])}
BUILT_IN = [name for name, manifest in MANIFESTS.items() if manifest.get("kind") in KINDS]
DEPLOYMENT = MANIFESTS["hub/deployment.yaml"]
POD: Manifest = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER: Manifest = POD["containers"][0]
VARIABLES = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
SETTINGS = Settings.load(**{name.removeprefix("HUB_").lower(): value for name, value in VARIABLES.items()})
LABELS = {"app.kubernetes.io/name": "hub"}


# Kubernetes and kustomize


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_manifests_are_valid(name: str) -> None:
    """Each satisfies the schema of its kind, in which nothing may be that it does not name."""
    manifest = MANIFESTS[name]
    schema = {"$ref": f"#/$defs/{KINDS[manifest['kind']]}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)


def test_the_schema_is_strict() -> None:
    """All manifests but the operator's are judged by it, and a misspelt key does not pass."""
    others = {"kustomization.yaml", "podmonitor.yaml", "ingress-nginx.yaml", "prometheus-adapter.yaml"}
    assert {Path(name).name for name in MANIFESTS} - {Path(name).name for name in BUILT_IN} == others
    wrong = json.loads(json.dumps(DEPLOYMENT))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize("folder", ["hub", "autoscaling"])
def test_the_kustomizations_name_what_there_is(folder: str) -> None:
    """All manifests of the folder, and nothing else; kustomize takes them, where it is."""
    kustomization = MANIFESTS[f"{folder}/kustomization.yaml"]
    beside = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in kustomization["resources"] if name.endswith(".yaml")} == beside
    if kubectl := shutil.which("kubectl"):
        done = subprocess.run([kubectl, "kustomize", str(FOLDER / folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        built = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest["kind"] == "Deployment"]
        assert [("replicas" in manifest["spec"]) for manifest in built] == [folder == "hub"]


def test_everything_is_about_the_same_pods() -> None:
    """Selectors and references meet."""
    assert DEPLOYMENT["spec"]["template"]["metadata"]["labels"] == LABELS
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == LABELS
    assert MANIFESTS["hub/service.yaml"]["spec"]["selector"] == LABELS
    assert MANIFESTS["hub/disruption.yaml"]["spec"]["selector"]["matchLabels"] == LABELS
    assert MANIFESTS["hub/network.yaml"]["spec"]["podSelector"]["matchLabels"] == LABELS
    assert MANIFESTS["autoscaling/podmonitor.yaml"]["spec"]["selector"]["matchLabels"] == LABELS
    (path,) = MANIFESTS["hub/ingress.yaml"]["spec"]["rules"][0]["http"]["paths"]
    service = MANIFESTS["hub/service.yaml"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]
    (monitored,) = MANIFESTS["autoscaling/podmonitor.yaml"]["spec"]["podMetricsEndpoints"]
    (allowed,) = MANIFESTS["hub/network.yaml"]["spec"]["ingress"][0]["ports"]
    assert {service["spec"]["ports"][0]["targetPort"], monitored["port"], allowed["port"]} == {"http"}


# The hub


def test_the_command_and_the_image() -> None:
    """`hub serve` takes the options; port and image are those of the Dockerfile and the Compose file."""
    port = parse_serve(CONTAINER["args"]).params["port"]
    assert [(each["name"], str(each["containerPort"])) for each in CONTAINER["ports"]] == [
        ("http", instruction("EXPOSE"))
    ]
    assert str(port) == instruction("EXPOSE")
    assert CONTAINER["image"] == compose()["services"]["hub1"]["image"]
    assert [image["name"] for image in MANIFESTS["hub/kustomization.yaml"]["images"]] == [CONTAINER["image"]]


def test_the_variables_are_settings() -> None:
    """And so are those that comments and annotations speak of."""
    assert set(VARIABLES) <= SETTING_VARIABLES
    for path in FOLDER.glob("*/*.yaml"):
        assert set(re.findall(r"HUB_[A-Z_]+", path.read_text())) <= SETTING_VARIABLES, path


def test_no_pod_has_service_links() -> None:
    """With them the Service named `hub` puts HUB_PORT=tcp://... beside the settings."""
    specs = [manifest.get("spec") or {} for manifest in MANIFESTS.values()]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    assert pods
    assert all(pod["enableServiceLinks"] is False for pod in pods)


def test_the_drain_fits_into_the_grace() -> None:
    """With five seconds to spare; and the notice is longer than readiness takes to be noticed."""
    grace = POD["terminationGracePeriodSeconds"]
    assert grace >= SETTINGS.drain_notice + SETTINGS.drain + GRACE + 5
    probe = CONTAINER["readinessProbe"]
    assert SETTINGS.drain_notice > probe["periodSeconds"] * probe["failureThreshold"]


def test_the_probes() -> None:
    """Paths exist; readiness leaves the workers their time to answer each other; only it depends on Redis."""
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    live, ready = (str(create_app().url_path_for(name)) for name in ("live", "ready"))
    assert paths == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}
    assert CONTAINER["readinessProbe"]["timeoutSeconds"] > PATIENCE
    assert {CONTAINER[name]["httpGet"]["port"] for name in paths} == {"http"}


def test_one_worker_may_do_nothing_special() -> None:
    """No root, no capabilities, nothing to write but /tmp, no token of the cluster."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    security = CONTAINER["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert [mount["mountPath"] for mount in CONTAINER["volumeMounts"]] == ["/tmp"]
    assert POD["automountServiceAccountToken"] is False


# The ingress controller


def test_the_ingress_keeps_idle_clients_and_logs_no_tokens() -> None:
    """As deploy/nginx.conf does."""
    prefix = "nginx.ingress.kubernetes.io/"
    annotations = MANIFESTS["hub/ingress.yaml"]["metadata"]["annotations"]
    values = {name.removeprefix(prefix): value for name, value in annotations.items()}
    assert all(name.startswith(prefix) and isinstance(value, str) for name, value in annotations.items())
    noticed = SETTINGS.ping_interval + SETTINGS.ping_timeout
    assert min(int(values["proxy-read-timeout"]), int(values["proxy-send-timeout"])) > 2 * noticed
    nginx = (ROOT / "deploy/nginx.conf").read_text()
    assert f"proxy_next_upstream {values['proxy-next-upstream']};" in nginx
    assert values["proxy-buffering"] == "off"
    assert values["enable-access-log"] == "false"
    config = load("values/ingress-nginx.yaml")["controller"]["config"]
    assert not re.search(r"\$(request\b|request_uri|args|query_string|http_referer)", config["log-format-upstream"])
    assert config["error-log-level"] == "crit"


# Autoscaling


def test_pods_are_counted_by_a_metric_that_there_is() -> None:
    """The adapter makes the name that is asked for of a gauge of the hub, summed over what a pod has of it."""
    spec = MANIFESTS["autoscaling/hpa.yaml"]["spec"]
    name = spec["metrics"][0]["pods"]["metric"]["name"]
    assert {metric.name: metric.kind for metric in METRICS}[name] == "gauge"
    (rule,) = load("values/prometheus-adapter.yaml")["rules"]["custom"]
    assert re.fullmatch(rule["name"]["matches"], name)
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert rule["metricsQuery"] == f"sum({name}{{<<.LabelMatchers>>}}) by (<<.GroupBy>>)"
    assert len(ENDPOINTS) > 1  # else there would be nothing to sum
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hub"}
    assert spec["minReplicas"] == DEPLOYMENT["spec"]["replicas"]


def test_a_pod_has_left_before_the_next_one_goes() -> None:
    """Scaling down is slower than a drain."""
    (policy,) = MANIFESTS["autoscaling/hpa.yaml"]["spec"]["behavior"]["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] > POD["terminationGracePeriodSeconds"]


def test_prometheus_asks_as_the_hub_wants() -> None:
    """As deploy/prometheus.yml does, and under the job that the alerts are about."""
    monitor = MANIFESTS["autoscaling/podmonitor.yaml"]["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    assert endpoint["authorization"]["type"] == job["authorization"]["type"] == "apikey"
    assert LABELS[monitor["jobLabel"]] == job["job_name"]
    assert endpoint["path"] == "/metrics"
    assert Path(str(create_app().url_path_for("metrics"))) == Path(endpoint["path"])
