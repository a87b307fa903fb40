"""Dashboard, alert rules and the page about metrics name what there is."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from promql import check, selectors

from scraped import BY_NAME
from tailrace.telemetry.metrics_catalogue import CATALOGUE
from tailrace.telemetry.metrics_counts import Counts
from tailrace.telemetry.metrics_exposition import Exposition

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yml"
RULES_TEST: Final = ROOT / "deploy" / "prometheus" / "rules_test.yml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "tailrace.json"
PAGE: Final = ROOT / "docs" / "metrics.md"
DURATION: Final = re.compile(r"\d+(s|m|h)")

promtool: Final = shutil.which("promtool")
with_promtool = pytest.mark.skipif(promtool is None, reason="no promtool here (Debian: the package prometheus)")

alerts: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
dashboard: Final[dict[str, Any]] = json.loads(DASHBOARD.read_text())
panels: Final[list[dict[str, Any]]] = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
queries: Final[list[str]] = [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("query", [*(alert["expr"] for alert in alerts), *queries])
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: str) -> None:
    check(query)


@pytest.mark.parametrize(
    "wrong",
    [
        "max(tailrace_queue_depth)",
        "sum by (model) (rate(tailrace_jobs_ended_total[5m]))",
        'rate(tailrace_jobs_ended_total{state="failed"}[5m])',
        'rate(tailrace_jobs_ended_total{status="faild"}[5m])',
        "sum(tailrace_jobs_ended_total)",
        "rate(tailrace_jobs_running[5m])",
        "max((tailrace_redis_up)",
        "histogram_quantile(0.9, rate(tailrace_append_seconds[5m]))",
        "sum(rate(tailrace_rewinds_total[5]))",
        "summe(tailrace_redis_up)",
    ],
)
def test_a_wrong_query_is_found(wrong: str) -> None:
    with pytest.raises(ValueError):
        check(wrong)


@pytest.mark.parametrize("alert", alerts, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Tailrace([A-Z][a-z]+)+", alert["alert"])
    assert DURATION.fullmatch(alert["for"])
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "runbook"}
    assert len(alert["annotations"]["runbook"]) > 60
    used = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    grouped = set(re.findall(r"by \((?:le, )?(\w+)\)", alert["expr"]))
    assert used <= grouped
    text = alert["annotations"]["summary"] + alert["annotations"]["runbook"]
    for name in re.findall(r"tailrace_\w+", text):
        assert name in BY_NAME, name
    for page in re.findall(r"docs/[a-z-]+\.md", text):
        assert (ROOT / page).exists(), page


def test_alerts_have_names_of_their_own() -> None:
    names = [alert["alert"] for alert in alerts]
    assert len(names) == len(set(names))


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert {"uid", "title", "schemaVersion", "templating", "panels", "time"} <= set(dashboard)
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert selectors(variables["instance"]["definition"])[0].name in BY_NAME
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used <= {*variables, "__rate_interval"}


@pytest.mark.parametrize("panel", panels, ids=lambda panel: panel["title"])
def test_a_panel_is_well_formed(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["type"] in ("stat", "timeseries", "heatmap")
    assert panel["datasource"] == source
    assert set(panel["gridPos"]) == {"h", "w", "x", "y"}
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert [target["datasource"] for target in panel["targets"]] == [source] * len(panel["targets"])
    ids = [target["refId"] for target in panel["targets"]]
    assert len(ids) == len(set(ids)) > 0
    for target in panel["targets"]:
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), (label, target["expr"])


def test_panels_do_not_lie_on_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_shows_every_metric() -> None:
    shown = {re.sub(r"_(bucket|count|sum)$", "", selector.name) for query in queries for selector in selectors(query)}
    left_out = {"tailrace_redis_clients_limit", "tailrace_handoff_entries", "tailrace_workers_job_slots"} | {
        "tailrace_jobs_claimed_total", "tailrace_log_characters_total", "tailrace_sweep_jobs_checked_total",
    }  # fmt: skip
    assert set(BY_NAME) - shown == left_out


def test_the_page_has_every_metric_as_it_is() -> None:
    rows = re.findall(r"^\| `(tailrace_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    expected = [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help.replace("|", "\\|"))
        for metrics in CATALOGUE.values()
        for metric in metrics
    ]
    assert rows == expected


def test_the_page_names_every_alert() -> None:
    assert set(re.findall(r"`(Tailrace\w+)`", PAGE.read_text())) == {alert["alert"] for alert in alerts}


@with_promtool
def test_promtool_accepts_the_rules_and_their_tests(tmp_path: Path) -> None:
    assert promtool is not None
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES_TEST)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    shown = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": shown}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(tmp_path / "panels.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
async def test_promtool_accepts_the_names_of_all_metrics() -> None:
    assert promtool is not None
    counts = Counts([metric for metrics in CATALOGUE.values() for metric in metrics])
    for metric in BY_NAME.values():
        labels = ["x"] * len(metric.labels)
        if metric.kind == "histogram":
            counts.distribution(metric, *labels).observe(1)
        else:
            counts.add(metric, *labels)
    body, _ = await Exposition([counts], fleet=None, role="test", namespace="n").scrape()
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=body, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
