"""Three nodes under load, scraped by a Prometheus: what it has of them is complete.

    live.py ROOT BINARY PYTHON

PYTHON is one that has the official client. Nothing is left running or on the disk,
unless something fails: then the directory with all logs is named.
"""

import contextlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import sources

READY_TIMEOUT = 60  # seconds for nodes and Prometheus to be ready, on a busy machine
FILLED_TIMEOUT = 45  # seconds for every series to have come about
CALM_TIMEOUT = 30  # seconds for a pending alert to be over
RATE_INTERVAL = "10s"  # of scrapes every second

# Panels that rightly show nothing in a healthy run without TLS. The reason is part of
# the list; each of their metrics is declared all the same.
EMPTY = {
    "Annals / Overview: Certificates end in": "the nodes speak clear text",
    "Annals / Raft & storage: Flush of the state (p99)": "a young node with little data has not flushed",
    "Annals / Raft & storage: Block cache hits": "what is read is still in memory",
}

# Alerts that judge the machine, which may be small and busy, and not the cluster.
OF_THE_MACHINE = {"AnnalsDiskFilling", "AnnalsFsyncSlow", "AnnalsAppendSlow", "AnnalsWriteStall", "AnnalsFileDescriptors"}


class Failed(Exception):
    pass


def free_ports(count):
    """Below the range from which the system takes ports of outgoing connections."""
    held = []
    try:
        for port in range(10_000 + os.getpid() % 10_000, 30_000):
            with contextlib.suppress(OSError):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
                yield port
                count -= 1
                if count == 0:
                    return
    finally:
        for each in held:
            each.close()


def get(url, **parameters):
    if parameters:
        url += "?" + urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def wait(what, timeout, done):
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if done():
                return
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {timeout} s")
        time.sleep(0.2)


class Run:
    def __init__(self, root, binary, python):
        self.root, self.binary, self.python = root, binary, python
        self.work = tempfile.mkdtemp(prefix="annals-monitoring.")
        self.processes = []
        *ports, self.prometheus_port = list(free_ports(4))
        self.nodes = [f"127.0.0.1:{port}" for port in ports]
        self.url = f"kurrentdb://{','.join(self.nodes)}?tls=false"
        # Options of a node in the environment of whoever runs the tests are not meant.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ANNALS_")}

    def spawn(self, name, *command):
        with open(os.path.join(self.work, f"{name}.log"), "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment)
        process.annals_name = name
        self.processes.append(process)
        return process

    def command(self, *arguments):
        done = subprocess.run(
            [self.binary, *arguments, "--server", self.url],
            capture_output=True, text=True, env=self.environment, timeout=60)
        if done.returncode != 0:
            raise Failed(f"annals {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def start(self):
        for number, node in enumerate(self.nodes, 1):
            self.spawn(f"node-{number}", self.binary, "serve", "--insecure", "--listen", node, "--data",
                       os.path.join(self.work, f"data-{number}"), "--bootstrap", ",".join(self.nodes))
        rules = os.path.join(self.work, "rules")
        shutil.copytree(os.path.join(self.root, "deploy/monitoring/rules"), rules)
        for name in os.listdir(rules):
            with open(os.path.join(rules, name), "r+", encoding="utf-8") as file:
                text = re.sub(r"(?m)^    interval: \w+$", "    interval: 1s", file.read())
                file.seek(0)
                file.truncate()
                file.write(text)
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{rules}/*.yml"],
            "scrape_configs": [{
                "job_name": "annals",
                "static_configs": [{"targets": self.nodes, "labels": {"cluster": "test"}}],
            }],
        }
        file = os.path.join(self.work, "prometheus.json")
        with open(file, "w", encoding="utf-8") as text:
            json.dump(configuration, text)  # which is YAML
        self.spawn("prometheus", "prometheus", f"--config.file={file}", f"--storage.tsdb.path={self.work}/tsdb",
                   f"--web.listen-address=127.0.0.1:{self.prometheus_port}", "--log.level=warn")
        for node in self.nodes:
            wait(f"{node} is ready", READY_TIMEOUT, lambda node=node: get(f"http://{node}/readyz"))
        wait("Prometheus is ready", READY_TIMEOUT, lambda: get(f"{self.prometheus}/-/ready"))

    def load(self):
        """Everything a cluster is used for, at a pace that leaves the machine room."""
        self.spawn("load", self.binary, "bench", "mixed", "--appenders", "4", "--append-rate", "200", "--readers", "2",
                   "--read-rate", "50", "--subscriptions", "3", "--seconds", "120", "--warm-up", "0", "--spread",
                   "--server", self.url)
        self.spawn("consumer", self.python, os.path.join(self.root, "tests/monitoring/consumer.py"), self.url,
                   "orders", "mailer")
        self.command("scavenge", "start")

    @property
    def prometheus(self):
        return f"http://127.0.0.1:{self.prometheus_port}"

    def query(self, expr):
        """The numbers that there are."""
        try:
            answer = json.loads(get(f"{self.prometheus}/api/v1/query", query=expr))
        except urllib.error.HTTPError as error:
            raise Failed(f"{expr}: {error.read().decode()}") from error
        samples = answer["data"]["result"]
        values = [sample["value"][1] for sample in samples] if answer["data"]["resultType"] == "vector" else [samples[1]]
        return [value for value in map(float, values) if not math.isnan(value)]

    def check_running(self):
        for process in self.processes:
            if process.poll() is not None:
                raise Failed(f"{process.annals_name} ended with {process.returncode}")

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def as_grafana_asks(expr):
    expr = expr.replace("$__rate_interval", RATE_INTERVAL).replace("$__interval", RATE_INTERVAL)
    expr = expr.replace("$cluster", ".*").replace("$node", ".*")
    if "$" in STRINGS.sub("", expr):
        raise Failed(f"a variable that is not known: {expr}")
    return expr


STRINGS = re.compile(r'"[^"]*"')


def check(run, root):
    rules = sources.rules(root)
    asked = {f"recorded {rule.name}": rule.name for rule in rules if rule.kind == "record"}
    for query in sources.queries(root):
        if query.where not in EMPTY:
            asked[f"{query.where}: {query.expr}"] = as_grafana_asks(query.expr)
    known = {query.where for query in sources.queries(root)}
    for where in EMPTY:
        if where not in known:
            raise Failed(f"{where} may be empty, but there is no such panel")
    left = dict(asked)

    def filled():
        run.check_running()
        for where, expr in list(left.items()):
            if run.query(expr):
                del left[where]
        return not left

    try:
        wait("data for every panel and recorded series", FILLED_TIMEOUT, filled)
    except Failed as failed:
        nothing = "\n  ".join(f"{where}\n      {expr}" for where, expr in left.items())
        raise Failed(f"{failed}; nothing for\n  {nothing}") from None
    # What may be empty must still be something that Prometheus understands.
    for query in sources.queries(root):
        if query.where in EMPTY:
            run.query(as_grafana_asks(query.expr))
    return len(asked)


def check_alerts(run):
    answer = json.loads(get(f"{run.prometheus}/api/v1/rules"))
    groups = answer["data"]["groups"]
    broken = [f"{rule['name']}: {rule['lastError']}" for group in groups for rule in group["rules"] if rule.get("lastError")]
    if broken:
        raise Failed("rules that cannot be evaluated: " + "; ".join(broken))
    wrong = []

    # A pending one may come from a scrape that was late. None may stay, and none may fire.
    def calm():
        active = json.loads(get(f"{run.prometheus}/api/v1/alerts"))["data"]["alerts"]
        wrong[:] = [alert for alert in active if alert["labels"]["alertname"] not in OF_THE_MACHINE]
        return not wrong or any(alert["state"] == "firing" for alert in wrong)

    with contextlib.suppress(Failed):
        wait("no alert is near", CALM_TIMEOUT, calm)
    if wrong:
        raise Failed("alerts about a healthy cluster: " + json.dumps(wrong, indent=1))


def check_exposition(run):
    for node in run.nodes:
        text = get(f"http://{node}/metrics")
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        if done.returncode != 0 or done.stderr.strip():
            raise Failed(f"promtool about the metrics of {node}: {done.stdout}{done.stderr}")


def main(root, binary, python):
    run = Run(root, binary, python)
    begun = time.monotonic()
    try:
        run.start()
        run.load()
        # An election is part of a cluster's life, and what it leaves must be harmless.
        time.sleep(3)
        run.command("cluster", "transfer-leader")
        asked = check(run, root)
        check_alerts(run)
        check_exposition(run)
    except Failed as failed:
        print(f"{failed}\nlogs are in {run.work}", file=sys.stderr)
        return 1
    finally:
        run.stop()
    shutil.rmtree(run.work, ignore_errors=True)
    print(f"{asked} queries answered, {len(EMPTY)} panels excused, in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
