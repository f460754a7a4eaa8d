"""The rules and dashboards, read. Needs nothing but Python."""

import glob
import json
import os
import re

# What our rules use of YAML, read line by line: no package has to be installed, and
# promtool has read the files properly before.
ENTRY = re.compile(r"^      - (alert|record): (\S+)$")
KEY = re.compile(r"^( {8}| {10})(\w+):\s*(.*)$")


class Rule:
    """An alert or a recording rule."""

    def __init__(self, file, kind, name):
        self.file, self.kind, self.name = os.path.basename(file), kind, name
        self.expr, self.keys = "", {}


def rules(root):
    """All of them, in the order of their files."""
    found = []
    for file in sorted(glob.glob(os.path.join(root, "deploy/monitoring/rules/*.yml"))):
        in_expr = False
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                line = line.rstrip("\n")
                if line.lstrip().startswith("#"):
                    continue
                entry, key = ENTRY.match(line), KEY.match(line)
                if entry:
                    found.append(Rule(file, *entry.groups()))
                    in_expr = False
                elif in_expr and line.startswith(" " * 10):
                    found[-1].expr += line.strip() + " "
                elif key and found:
                    _, name, value = key.groups()
                    in_expr = name == "expr" and value in ("|", ">-")
                    if name == "expr":
                        found[-1].expr = "" if in_expr else value
                    else:
                        found[-1].keys[name] = value.strip('"')
    return found


class Query:
    """A query of a panel."""

    def __init__(self, dashboard, panel, expr):
        self.where, self.expr = f"{dashboard}: {panel}", expr


def queries(root):
    """Of all panels, annotations and variables of all dashboards."""
    found = []
    for file in sorted(glob.glob(os.path.join(root, "deploy/monitoring/dashboards/*.json"))):
        with open(file, encoding="utf-8") as text:
            dashboard = json.load(text)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                found.append(Query(dashboard["title"], panel["title"], target["expr"]))
    return found


def variables(root):
    """What the choices of each dashboard ask for, as they are written."""
    for file in sorted(glob.glob(os.path.join(root, "deploy/monitoring/dashboards/*.json"))):
        with open(file, encoding="utf-8") as text:
            dashboard = json.load(text)
        for annotation in dashboard["annotations"]["list"]:
            yield dashboard["title"], annotation["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield dashboard["title"], variable["query"]["query"]


# Without strings and label lists, what is left of PromQL is names and operators.
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
MATCHERS = re.compile(r"\{[^}]*\}")
NAME = re.compile(r"(?<![\w:])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")
WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}


def metrics(expr):
    """The names of the series that an expression asks for."""
    expr = re.sub(r"\$__?\w+", "1", STRING.sub("", expr))
    expr = MATCHERS.sub("", expr)
    expr = re.sub(r"\[[^\]]*\]", "", LABELS.sub("", expr))
    return {name for name in NAME.findall(expr) if name not in WORDS and not re.fullmatch(r"[smhd]|e", name)}
