"""Writes the Grafana dashboard of the chart: `python charts/dashboard.py [--check]`.

A panel is a title, a unit and its queries; Grafana's JSON says the same in fifty lines each. `$model` and `$namespace`
choose what is shown; the operator's row speaks of all.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "flashplane" / "files" / "dashboard.json"
WIDTH, HEIGHT, COLUMNS = 8, 7, 3
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = '{namespace=~"$namespace",model=~"$model"}'
GATEWAY = "flashplane_gateway"
TRACK_TTFT = f"{GATEWAY}_track_time_to_first_token_seconds"


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Legend and expression."""
    description: str = ""


def quantiles(metric: str, *percents: int) -> tuple[tuple[str, str], ...]:
    """Percentiles of a histogram, for each model."""
    rates = f"sum by (model, le) (rate({metric}_bucket{OF}[$__rate_interval]))"
    return tuple((f"{{{{model}}}} p{p}", f"histogram_quantile({p / 100:g}, {rates})") for p in percents)


def rate(metric: str, by: str = "model") -> str:
    """How much a second, for each of `by`."""
    return f"sum by ({by}) (rate({metric}{OF}[$__rate_interval]))"


def total(metric: str, by: str = "model") -> str:
    """The sum of a gauge, for each of `by`."""
    return f"sum by ({by}) ({metric}{OF})"


def objects(condition: str, status: str) -> str:
    """How many FlashDeployments have a condition."""
    return f'max(flashplane_objects_by_condition{{condition="{condition}",status="{status}"}})'


ROWS: dict[str, tuple[Panel, ...]] = {
    "What users feel": (
        Panel("Time to first token", "s", quantiles(f"{GATEWAY}_time_to_first_token_seconds", 50, 90, 99)),
        Panel("Time per output token", "s", quantiles(f"{GATEWAY}_time_per_output_token_seconds", 50, 90, 99)),
        Panel(
            "Requests by status",
            "reqps",
            (
                (
                    "{{code}}",
                    f'sum by (code) (rate({GATEWAY}_requests_total{{namespace=~"$namespace",route=~"/v1/.*"}}'
                    "[$__rate_interval]))",
                ),
            ),
        ),
        Panel("Requests in flight", "short", (("{{model}}", total(f"{GATEWAY}_inflight_requests")),)),
        Panel("Tokens generated", "tokens/s", (("{{model}}", rate(f"{GATEWAY}_completion_tokens_total")),)),
        Panel("Prompt tokens", "tokens/s", (("{{model}}", rate(f"{GATEWAY}_prompt_tokens_total")),)),
    ),
    "Engines": (
        Panel(
            "Requests in engines",
            "short",
            (
                ("{{model}} running", total("flash_engine_requests_running")),
                ("{{model}} waiting", total("flash_engine_requests_waiting")),
            ),
        ),
        Panel(
            "KV cache in use",
            "percentunit",
            (("{{pod}}", f"flash_engine_kv_blocks_used{OF} / flash_engine_kv_blocks{OF}"),),
        ),
        Panel(
            "Prompt tokens found in the cache",
            "percentunit",
            (
                (
                    "{{model}}",
                    f"{rate('flash_engine_cached_prompt_tokens_total')} / {rate('flash_engine_prompt_tokens_total')}",
                ),
            ),
        ),
        Panel("Steps", "ops", (("{{pod}}", rate("flash_engine_steps_total", "pod")),)),
        Panel(
            "Requests set back for lack of memory",
            "ops",
            (("{{model}}", rate("flash_engine_preemptions_total")),),
        ),
        Panel(
            "Skew of experts",
            "short",
            (("{{model}}", f"max by (model) (flash_engine_expert_skew{OF})"),),
            "Tokens of a layer's busiest expert over the mean of its experts, of the worst layer; 1 = even.",
        ),
    ),
    "Speculation and rollouts": (
        Panel(
            "Acceptance of proposals",
            "percentunit",
            (
                (
                    "{{model}}",
                    f"{rate('flash_engine_accepted_tokens_total')} / {rate('flash_engine_proposed_tokens_total')}",
                ),
            ),
        ),
        Panel(
            "Tokens per step of a request",
            "short",
            (
                (
                    "{{model}}",
                    f"{rate('flash_engine_generated_tokens_total')} / {rate('flash_engine_sequence_steps_total')}",
                ),
            ),
            "1 without speculation.",
        ),
        Panel(
            "Steps without proposals, by reason",
            "ops",
            (("{{model}} {{reason}}", rate("flash_engine_draft_fallbacks_total", "model, reason")),),
        ),
        Panel(
            "Streams by revision and result",
            "ops",
            (
                (
                    "{{model}} {{track}} {{result}}",
                    rate(f"{GATEWAY}_track_streams_total", "model, track, result"),
                ),
            ),
        ),
        Panel(
            "Time to first token by revision (p90)",
            "s",
            (
                (
                    "{{model}} {{track}}",
                    f"histogram_quantile(0.9, {rate(f'{TRACK_TTFT}_bucket', 'model, track, le')})",
                ),
            ),
        ),
        Panel(
            "Certificates end in",
            "s",
            (
                (
                    "{{model}}",
                    f"min by (model) ({GATEWAY}_certificate_expiry_timestamp_seconds{OF}) - time()",
                ),
            ),
        ),
    ),
    "Operator": (
        Panel(
            "FlashDeployments",
            "short",
            (
                ("all", "max(flashplane_objects)"),
                ("ready", objects("Ready", "True")),
                ("not ready", objects("Ready", "False")),
                ("stalled", objects("Stalled", "True")),
                ("outside their region", objects("ResidencyCompliant", "False")),
                ("passes fail", "max(flashplane_objects_failing)"),
            ),
        ),
        Panel(
            "Passes",
            "ops",
            (("{{result}}", "sum by (result) (rate(flashplane_reconcile_passes_total[$__rate_interval]))"),),
        ),
        Panel(
            "Duration of a pass, wait for it (p90)",
            "s",
            tuple(
                (
                    name,
                    f"histogram_quantile(0.9, sum by (le) (rate({metric}_seconds_bucket[$__rate_interval])))",
                )
                for name, metric in (
                    ("pass", "flashplane_reconcile"),
                    ("wait", "flashplane_queue"),
                    ("API call", "flashplane_api_call"),
                )
            ),
        ),
        Panel(
            "Requests to the Kubernetes API",
            "reqps",
            (
                (
                    "{{verb}} {{code}}",
                    "sum by (verb, code) (rate(flashplane_api_calls_total[$__rate_interval]))",
                ),
            ),
        ),
        Panel(
            "Writes and events",
            "ops",
            (
                ("{{verb}}", "sum by (verb) (rate(flashplane_api_writes_total[$__rate_interval]))"),
                ("events", "sum(rate(flashplane_events_total[$__rate_interval]))"),
            ),
            "Writes stand still while nothing changes.",
        ),
        Panel(
            "Leaders, waiting, stale watches",
            "short",
            (
                ("leaders", "sum(flashplane_leading)"),
                ("waiting for a pass", "sum(flashplane_queue_depth)"),
                ("stale watches", "sum(flashplane_watch_stale)"),
                ("watches begun anew", "sum(increase(flashplane_watch_restarts_total[$__rate_interval]))"),
                ("lists that failed", "sum(increase(flashplane_list_failures_total[$__rate_interval]))"),
            ),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})  # fmt: skip
        y += 1
        for index, panel in enumerate(row):
            place = {"h": HEIGHT, "w": WIDTH, "x": index % COLUMNS * WIDTH, "y": y + index // COLUMNS * HEIGHT}
            panels.append({"id": len(panels) + 1, **_graph(panel), "gridPos": place})
        y += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "flashplane",
        "title": "Flashplane",
        "tags": ["flashplane", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [_source(), _variable("namespace", ""), _variable("model", '{namespace=~"$namespace"}')]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def _graph(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
        for index, (legend, expression) in enumerate(panel.queries)
    ]
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(label: str, chosen: str) -> dict[str, Any]:
    query = f"label_values({GATEWAY}_inflight_requests{chosen}, {label})"
    everything = {"includeAll": True, "multi": True, "allValue": ".*"}
    return {"name": label, "label": label.capitalize(), "type": "query", "datasource": SOURCE, "query": query,
            "definition": query, "refresh": 2, "sort": 1, **everything}  # fmt: skip


def main() -> None:
    """Write it, or end with 1 when it is not up to date."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text)
    elif not FILE.is_file() or FILE.read_text() != text:
        sys.exit(f"{FILE} is not up to date: run python charts/dashboard.py")


if __name__ == "__main__":
    main()
