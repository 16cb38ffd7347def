"""docs/metrics.md, deploy/alerts.yml, deploy/grafana.json and deploy/prometheus.yml fit the metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.admission import ENDPOINTS
from hub.config import Settings
from hub.errors import Disconnects, table
from hub.metrics import METRICS, UP, Metric
from tests.support.cluster import ROOT, compose, replicas_of

DEPLOY = ROOT / "deploy"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())

TABLE: dict[str, Metric] = {metric.name: metric for metric in (UP, *METRICS)}
# What Prometheus has of every target, and prometheus-client of every process.
OTHERS = {
    "up": {"job", "instance"},
    "process_cpu_seconds_total": {"worker"},
    "process_resident_memory_bytes": {"worker"},
    "process_open_fds": {"worker"},
    "process_max_fds": {"worker"},
    "process_start_time_seconds": {"worker"},
}
# Functions and words of PromQL that are used here.
FUNCTIONS = {"sum", "avg", "max", "rate", "increase", "changes", "absent", "histogram_quantile"}
WORDS = {"by", "and", "or", "offset"}
# What the label values of metrics may be, where that is known.
VALUES = {
    "endpoint": set(ENDPOINTS),
    "reason": {name.lower() for name, _ in table(Disconnects)} | {"no_file_left"},
    "connection": {"commands", "feed"},
}


def targets() -> Iterator[tuple[str, str]]:
    """The title and the query of everything on the dashboard."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


QUERIES = [*((rule["alert"], rule["expr"]) for rule in ALERTS), *targets()]


def metric_of(series: str) -> str:
    """A histogram has three kinds of series."""
    name = re.sub(r"_(bucket|sum|count)$", "", series)
    return name if name in TABLE and TABLE[name].kind == "histogram" else series


def words_of(query: str) -> tuple[list[str], dict[str, list[str]]]:
    """The names in a query outside of selectors and `by (...)`, and the labels that each series is selected by."""
    selectors = {
        name: re.findall(r"(\w+)\s*=~?\s*\"", inside) for name, inside in re.findall(r"(\w+)\s*\{(.*?)\}", query)
    }
    bare = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)|\b\d[\w.]*", " ", query)
    return re.findall(r"[A-Za-z_]\w*", bare), selectors


def labels_of(metric: str) -> set[str]:
    """The labels of its series."""
    own = set(TABLE[metric].labels) | {"worker"} if metric in TABLE else OTHERS[metric]
    return own | {"le", "job", "instance"}


def labels_left(query: str) -> set[str]:
    """Those of what a query results in."""
    summed = re.search(r"\bby \((.*?)\)", query)
    if summed is not None:
        return set(summed[1].split(", ")) - {"le"}
    first = next(word for word in words_of(query)[0] if word not in FUNCTIONS)
    return labels_of(metric_of(first)) - {"le"} if "sum(" not in query else set()


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_the_queries(title: str, query: str) -> None:
    """Each series that is asked for exists, with the labels by which it is selected and summed."""
    words, selectors = words_of(query)
    series = [word for word in words if word not in FUNCTIONS | WORDS]
    assert series
    for name in series:
        assert metric_of(name) in TABLE or name in OTHERS, f"{title}: there is no {name}"
        known = labels_of(metric_of(name))
        assert set(selectors.get(name, ())) <= known
        for labels in re.findall(r"\bby \((.*?)\)", query):
            assert set(labels.split(", ")) <= known, f"{title}: {name} has no labels {labels}"
    assert query.count("(") == query.count(")")


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_the_values_of_labels(title: str, query: str) -> None:
    """What is selected by name can be."""
    for label, value in re.findall(r"(\w+)\s*=~?\s*\"(.*?)\"", query):
        if label in VALUES:
            assert set(value.split("|")) <= VALUES[label], title


def test_counters_are_asked_for_their_growth() -> None:
    """And gauges for what they are."""
    for title, query in QUERIES:
        for function, name in re.findall(r"(\w*)\(?(hub_\w+)", query):
            kind = TABLE[metric_of(name)].kind
            assert (function in ("rate", "increase")) is (kind != "gauge"), f"{title}: {name}"


def test_every_metric_is_on_the_dashboard() -> None:
    """Except for the one that is no number."""
    shown = {metric_of(word) for _, query in targets() for word in words_of(query)[0]}
    assert set(TABLE) - shown == {"hub_info"}


def test_a_replica_that_is_down_is_seen() -> None:
    """It has no series of its own: without Prometheus' word on it all workers of the others were all workers."""
    [query] = [query for title, query in targets() if title == "Workers that answer"]
    assert query.startswith("avg(hub_up{")
    assert query.endswith(' or up{job="$job", instance=~"$instance"} == 0)')


def test_the_dashboard() -> None:
    """Its panels have their own ids and places, and the data source that the user chooses."""
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"].endswith(".")
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "job", "instance", "worker"]


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_the_alerts(rule: dict[str, Any]) -> None:
    """Each has a severity, says what is wrong and what to do, and names settings that exist."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("Hub")
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert set(rule["annotations"]) == {"summary", "description"}
    text = " ".join(rule["annotations"].values())
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 80
    for name in re.findall(r"\bHUB_([A-Z_]+)", text):
        assert name.lower() in Settings.model_fields, name
    for name in re.findall(r"\b(hub_[a-z_]+)", text):
        assert name in TABLE, name
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels_left(rule["expr"])


def test_someone_is_told_of_tokens_that_are_not_valid() -> None:
    """A protocol client is let in first and closed with 3500 then: it is in no count of refused connections."""
    expressions = [rule["expr"] for rule in ALERTS]
    assert any('hub_refused_tokens_total{cause="invalid"}' in expression for expression in expressions)


def test_the_alerts_have_names_of_their_own() -> None:
    """And those that they name in their advice exist."""
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert set(re.findall(r"\bHub[A-Z]\w+", rule["annotations"]["description"])) <= set(names)


def test_prometheus_finds_the_replicas() -> None:
    """Those of the Compose file, with a key as the hub takes it, and the alerts beside it."""
    [job] = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "hub"
    assert job["static_configs"] == [{"targets": [f"{name}:8000" for name in replicas_of(compose()["services"])]}]
    assert job["authorization"]["type"] == "apikey"
    assert [(DEPLOY / name).is_file() for name in PROMETHEUS["rule_files"]] == [True]


def test_the_page() -> None:
    """Every metric stands in its table, as `docs/generate.py --check` proves; here that the markers are there."""
    page = (ROOT / "docs/metrics.md").read_text()
    for name in TABLE:
        assert f"| `{name}` |" in page
    for name in OTHERS.keys() - {"up"}:
        assert f"`{name}`" in page


def test_prometheus_own_judgement(tmp_path: Path) -> None:
    """Where its `promtool` is installed, it takes the configuration, the alerts, and each query of the dashboard."""
    promtool = shutil.which("promtool")
    rules = [{"record": f"query:{number}", "expr": resolved(query)} for number, (_, query) in enumerate(targets())]
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    for name in ("alerts.yml", "prometheus.yml"):
        (tmp_path / name).write_text((DEPLOY / name).read_text())
    (tmp_path / "hub-api-key").write_text("key")
    for command in (["config", "prometheus.yml"], ["rules", "alerts.yml"], ["rules", "board.yml"]):
        if promtool is not None:
            done = subprocess.run([promtool, "check", *command], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def resolved(query: str) -> str:
    """With values in place of Grafana's variables."""
    return query.replace("$__rate_interval", "1m").replace("$job", "hub")
