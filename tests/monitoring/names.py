"""Every name that rules and panels use exists, and every alert is explained.

    names.py ROOT BINARY
"""

import glob
import json
import os
import re
import subprocess
import sys

import sources

# Told by Prometheus itself.
OF_PROMETHEUS = {"up", "ALERTS"}
SEVERITIES = {"warning", "critical"}
URL = "https://github.com/annals-db/annals/blob/main/docs/runbooks/"


def declared(binary):
    """The names of all series that a node may tell."""
    listed = subprocess.run([binary, "metrics", "list", "-o", "json"], check=True, capture_output=True, text=True)
    names = set()
    for metric in map(json.loads, listed.stdout.splitlines()):
        names.add(metric["name"])
        if metric["type"] == "histogram":
            names |= {metric["name"] + suffix for suffix in ("_bucket", "_sum", "_count")}
    return names


def tested(root):
    """Which alerts of which severity the tests have seen to fire, and not to fire."""
    fires, silent = set(), set()
    for file in glob.glob(os.path.join(root, "tests/monitoring/rules/*.test.yml")):
        with open(file, encoding="utf-8") as text:
            text = text.read()
        pattern = r'expr: ALERTS\{alertname="(\w+)",severity="(\w+)",alertstate="firing"\}\s+eval_time: \S+\s+exp_samples:([^\n]*)'
        for name, severity, samples in re.findall(pattern, text):
            (silent if samples.strip() == "[]" else fires).add((name, severity))
    return fires, silent


def main(root, binary):
    problems = []
    known = declared(binary) | OF_PROMETHEUS
    rules = sources.rules(root)
    records = [rule.name for rule in rules if rule.kind == "record"]
    alerts = [rule for rule in rules if rule.kind == "alert"]
    problems += [f"{name} is recorded twice" for name in set(records) if records.count(name) > 1]
    known |= set(records)

    asked = [(rule.name, rule.expr) for rule in rules]
    asked += [(query.where, query.expr) for query in sources.queries(root)]
    used = set()
    for where, expr in asked:
        names = sources.metrics(expr)
        if not names:
            problems.append(f"{where} asks for nothing: {expr}")
        problems += [f"{where} asks for {name}, which nobody tells" for name in sorted(names - known)]
        used |= names
    for where, expr in sources.variables(root):
        names = set(re.findall(r"\bannals_\w+", expr))
        problems += [f"{where} asks for {name}, which nobody tells" for name in sorted(names - known)]
    fires, silent = tested(root)
    pages = {os.path.basename(file)[:-3] for file in glob.glob(os.path.join(root, "docs/runbooks/*.md"))}
    for alert in alerts:
        name, keys = alert.name, alert.keys
        severity = keys.get("severity")
        for key in ("for", "severity", "summary", "description", "runbook_url"):
            if not keys.get(key):
                problems.append(f"{name} has no {key}")
        if severity not in SEVERITIES:
            problems.append(f"{name} has the severity {severity}")
        if keys.get("runbook_url") != f"{URL}{name}.md":
            problems.append(f"{name} leads to {keys.get('runbook_url')}")
        if name not in pages:
            problems.append(f"{name} has no page in docs/runbooks")
        if (name, severity) not in fires:
            problems.append(f"no test sees {name} ({severity}) fire")
        if (name, severity) not in silent:
            problems.append(f"no test sees {name} ({severity}) not fire")
    names = {alert.name for alert in alerts}
    with open(os.path.join(root, "docs/runbooks/README.md"), encoding="utf-8") as text:
        listed = set(re.findall(r"^\| \[(\w+)\]", text.read(), re.M))
    problems += [f"docs/runbooks/README.md lists {name} wrongly or not" for name in sorted(names ^ listed)]
    for page in sorted(pages - names - {"README"}):
        problems.append(f"docs/runbooks/{page}.md explains no alert")
    for page in sorted(pages & names):
        with open(os.path.join(root, f"docs/runbooks/{page}.md"), encoding="utf-8") as text:
            text = text.read()
        if not text.startswith(f"# {page}\n"):
            problems.append(f"docs/runbooks/{page}.md begins with another name")
        for heading in ("What it means", "What users notice", "What to look at", "What to do"):
            if f"\n## {heading}\n" not in text:
                problems.append(f"docs/runbooks/{page}.md does not say: {heading}")
        for link in re.findall(r"\]\((\w+\.md)\)", text):
            if link[:-3] not in pages:
                problems.append(f"docs/runbooks/{page}.md leads to {link}, which is not there")
        for block in re.findall(r"```promql\n(.*?)```", text, re.S):
            for line in block.splitlines():
                missing = sources.metrics(line) - known
                problems += [f"docs/runbooks/{page}.md asks for {name}, which nobody tells" for name in sorted(missing)]
                used |= sources.metrics(line)
    problems += [f"{name} is recorded and never used" for name in records if name not in used]

    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(alerts)} alerts, {len(records)} recorded series, {len(sources.queries(root))} queries of panels, "
          f"{len(used)} different series")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
