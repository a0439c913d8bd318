# SPDX-License-Identifier: Apache-2.0
"""deploy/: every file against the schema of its tool, every command line run as it stands.

There are no containers here: harness/deploy.py says what takes their place.
"""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
import yaml

from harness import cache
from harness.broker import program
from harness.deploy import (
    DEPLOY,
    GRPC_PORT,
    Network,
    Service,
    clean_environment,
    compose,
    env_file,
    image_command,
    load,
    map_text,
    seconds,
    start_compose,
    start_unit,
    unit,
)
from harness.kafka import Kafka
from harness.process import wait_for
from harness.rpc import activation

COMPOSE_FILES = ["compose.yml", "compose.pool.yml", "compose.ingest.yml", "compose.scheduler.yml"]
SHUTDOWN_S = 9  # default of shutdown_timeout_ms
PARTITIONS = 12
TASKS = 120


def run(argv, **options):
    done = subprocess.run([str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=100, **options)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def checker(name):
    return cache.venv("deploy").parent / name


# --- the files


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_schema(name):
    run([checker("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose" / name])


def test_a_wrong_compose_file_is_found(tmp_path):
    wrong = tmp_path / "compose.yml"
    wrong.write_text("services: {a: {image: x, healthchek: {}}}\n")
    with pytest.raises(AssertionError, match="healthchek"):
        run([checker("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong])


def test_compose_services():
    services = compose(*COMPOSE_FILES, KAFKA_BOOTSTRAP="k:1")
    for name in ("taskbroker-beta", "taskbroker-charlie"):
        assert services[name]["environment"] == {
            "TASKBROKER_KAFKA_CLUSTER": "k:1", "TASKBROKER_KAFKA_DEADLETTER_CLUSTER": "k:1",
            "TASKBROKER_DB_PATH": f"/opt/sqlite/{name}.sqlite"}
        assert "command" not in services[name]  # no file either: the image's CMD
    assert services["taskbroker-ingest"]["environment"]["TASKBROKER_KAFKA_TOPIC"] == "taskworker-ingest"
    assert services["taskworker"]["deploy"]["replicas"] == 5
    brokers = [name for name in services if name.startswith("taskbroker")]
    stores = [text.split(":")[0] for name in brokers for text in services[name]["volumes"] if "sqlite" in text]
    assert len(set(stores)) == len(brokers) == 4  # one database for each
    for name in brokers:
        assert seconds(services[name]["stop_grace_period"]) > SHUTDOWN_S
        assert image_command()[0] == (services[name].get("command") or image_command())[0] == "/opt/taskbroker"
    hosts = next(a for a in services["taskworker"]["command"] if a.startswith("--rpc-host-list="))
    assert hosts.split("=")[1].split(",") == [f"{name}:{GRPC_PORT}" for name in brokers if "ingest" not in name]


def test_the_image_has_one_version():
    version = re.search(r"version: '([\d.]+)'", (cache.ROOT / "meson.build").read_text()).group(1)
    tags = {service["image"].split(":")[1] for service in compose(*COMPOSE_FILES).values()}
    [image] = load(DEPLOY / "k8s" / "kustomization.yaml")["images"]
    named = re.findall(r"taskmill:(\d[\d.]*\d)", (DEPLOY / "README.md").read_text())
    named += re.findall(r"taskmill:(\d[\d.]*\d)", (DEPLOY / "Dockerfile").read_text())
    assert {*tags, image["newTag"], *named} == {version}


def kubernetes():
    """{kind: document} of the resources that kustomization.yaml names."""
    listed = load(DEPLOY / "k8s" / "kustomization.yaml")["resources"]
    documents = [load(DEPLOY / "k8s" / name) for name in listed]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_kubernetes_schema(version):
    """1.27 is the first that keeps the volumes as persistentVolumeClaimRetentionPolicy says."""
    listed = load(DEPLOY / "k8s" / "kustomization.yaml")["resources"]
    run([checker("kubernetes-validate"), "--strict", "-k", f"{version}.0",
         *[DEPLOY / "k8s" / name for name in listed]])


def test_kubernetes_parts_fit_together():
    folder = DEPLOY / "k8s"
    kustomization = load(folder / "kustomization.yaml")
    generated = {g["name"]: g["files"] for g in kustomization["configMapGenerator"]}
    named = {*kustomization["resources"], *sum(generated.values(), []), "kustomization.yaml"}
    assert named == {path.name for path in folder.iterdir()}
    for name in ("tasks.yml", "hello.sh"):
        assert (folder / name).read_bytes() == (DEPLOY / "compose" / "tasks" / name).read_bytes()

    all_of = kubernetes()
    brokers, service, worker = all_of["StatefulSet"], all_of["Service"], all_of["Deployment"]
    pod = brokers["spec"]["template"]["spec"]
    labels = brokers["spec"]["template"]["metadata"]["labels"]
    for selector in (brokers["spec"]["selector"]["matchLabels"], service["spec"]["selector"],
                     all_of["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector == labels
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == brokers["spec"]["serviceName"]
    assert pod["terminationGracePeriodSeconds"] > SHUTDOWN_S
    assert pod["enableServiceLinks"] is False
    [container] = pod["containers"]
    assert "volumeClaimTemplates" in brokers["spec"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsUser"] == 1000 and pod["securityContext"]["runAsNonRoot"] is True
    maps = [v["configMap"]["name"] for d in (brokers, worker) for v in d["spec"]["template"]["spec"]["volumes"]
            if "configMap" in v]
    assert maps == list(generated)

    command = worker["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--num-brokers={brokers['spec']['replicas']}" in command
    # Our worker numbers the first label: a pod of a StatefulSet is called NAME-N.SERVICE.
    name = f"{brokers['metadata']['name']}.{service['metadata']['name']}"
    assert f"--rpc-host={name}:{GRPC_PORT}" in command
    assert PARTITIONS % brokers["spec"]["replicas"] == 0


@pytest.mark.parametrize("name", ["compose", "k8s"])
def test_broker_files(name):
    out = run([program(), "config", "check", DEPLOY / name / "broker.yml"])
    assert "warning" not in out.lower()
    assert load(DEPLOY / name / "broker.yml")["default_topic_partitions"] == PARTITIONS


def families():
    """{name: kind} of the metrics that a broker declares."""
    source = (cache.ROOT / "src/broker/meters.h").read_text().replace("\\\n", " ")
    return dict(re.findall(r'"([a-z_.]+)",\s*METRIC_(COUNTER|GAUGE|HISTOGRAM)', source))


def alarm_table():
    page = (cache.ROOT / "docs/operations.md").read_text()
    table = re.search(r"^\| watch \| call when .*?\n\n", page, re.MULTILINE | re.DOTALL).group(0)
    return "".join(line.split("|")[1] for line in table.splitlines()[2:] if line)


def test_alarms_of_the_guide():
    """They name metrics that there are, and values of `kind` that there are."""
    watched = alarm_table()
    metrics = {name for name in re.findall(r"`([a-z_.]+)`", watched) if "." in name}
    assert len(metrics) > 8 and metrics <= set(families())
    kinds = set(re.findall(r"`kind=(\w+)`", watched))
    values = (cache.ROOT / "src/broker/meters.c").read_text()
    assert len(kinds) == 3 and all(f'"{kind}"' in values for kind in kinds)


def test_alarms_of_prometheus():
    """The same as a file of rules: every metric of the guide, and none that no broker has."""
    [group] = load(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    rules = group["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"]
    expressions = " ".join(rule["expr"] for rule in rules)
    known = {"taskmill_" + name.replace(".", "_") + ("_total" if kind == "COUNTER" else ""): name
             for name, kind in families().items()}
    used = set(re.findall(r"taskmill_\w+", expressions))
    assert used <= set(known)
    watched = alarm_table()
    assert {known[name] for name in used} == {
        name for name in re.findall(r"`([a-z_.]+)`", watched) if "." in name}
    assert set(re.findall(r'kind="(\w+)"', expressions)) == set(re.findall(r"`kind=(\w+)`", watched))


def test_alarms_of_workers():
    """The rules and the table of the guide name the same metrics, and those are ones that a worker has."""
    source = (cache.ROOT / "src/worker/meters.h").read_text().replace("\\\n", " ")
    known = {"taskmill_" + name.replace(".", "_") + ("_total" if kind == "C" else ""): name
             for kind, name in re.findall(r'\b([CGDT])\(WM_\w+,\s*"([a-z_.0-9]+)"', source)}
    known |= {name: name for name in re.findall(r'X\(WM_PROMETHEUS_\w+,\s*"([a-z_]+)"', source)}
    assert len(known) > 40
    [group] = load(DEPLOY / "prometheus" / "alerts-worker.yml")["groups"]
    rules = group["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"]
    used = {name for rule in rules for name in re.findall(r"task(?:mill|worker)_\w+", rule["expr"])}
    assert used <= set(known)
    page = (cache.ROOT / "docs/operations.md").read_text()
    table = re.search(r"^\| worker: watch \|.*?\n\n", page, re.MULTILINE | re.DOTALL).group(0)
    watched = {name for row in table.splitlines()[2:] if row
               for name in re.findall(r"`(taskworker[a-z_.]+)`", row.split("|")[1])}
    assert {known[name] for name in used} == watched


# --- systemd


UNITS = ["taskmill-broker@.service", "taskmill-worker@.service", "taskmill-scheduler@.service"]


def verify(folder, name):
    """systemd-analyze on an instance, in a root that has only our files and a program to start."""
    for sub in ("bin", "usr/bin", "etc/systemd/system", "usr/lib/systemd/system"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for stub in ("usr/bin/taskmill", "bin/kill"):
        shutil.copy("/bin/true", folder / stub)
    for each in UNITS:
        if not (folder / "etc/systemd/system" / each).exists():
            shutil.copy(DEPLOY / "systemd" / each, folder / "etc/systemd/system" / each)
    return run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={folder}",
                name.replace("@", "@main")])


@pytest.mark.parametrize("name", UNITS)
def test_units(tmp_path, name):
    assert verify(tmp_path, name) == ""
    definition = unit(name)
    assert definition["Service.Restart"] == ["on-failure"]  # a failure is exit 1
    assert int(definition["Service.TimeoutStopSec"][0]) > SHUTDOWN_S
    security = run(["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20",
                    DEPLOY / "systemd" / name])
    assert "NoNewPrivileges" in security


def test_a_wrong_unit_is_found(tmp_path):
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    text = (DEPLOY / "systemd" / UNITS[0]).read_text()
    (folder / UNITS[0]).write_text(text.replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    with pytest.raises(AssertionError, match="Unknown key"):
        verify(tmp_path, UNITS[0])


def test_unit_user(tmp_path):
    (tmp_path / "etc").mkdir()
    out = run(["systemd-sysusers", "--dry-run", f"--root={tmp_path}",
               DEPLOY / "systemd" / "taskmill.sysusers.conf"])
    assert "taskmill" in out
    assert {unit(name)["Service.User"][0] for name in UNITS} == {"taskmill"}


# --- Dockerfile


def dockerfile():
    """[(instruction, arguments)], continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = text.replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def stages():
    """One list of instructions for each FROM."""
    found = []
    for step in dockerfile():
        if step[0] == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def apt_packages(stage):
    text = " ".join(arguments for name, arguments in stage if name == "RUN")
    return re.search(r"--no-install-recommends (.*?) &&", text).group(1).split()


def test_dockerfile_lint():
    run([checker("hadolint"), "--failure-threshold", "style", DEPLOY / "Dockerfile"])


def test_dockerfile_facts():
    build, final = stages()
    assert build[0][1].startswith("debian:12-slim") and final[0][1] == "debian:12-slim"
    facts = dict(final)
    assert facts["USER"] == "1000:1000" and facts["STOPSIGNAL"] == "SIGTERM"
    assert facts["EXPOSE"].split() == ["50051", "9464"]
    assert facts["WORKDIR"] == "/opt" and "HEALTHCHECK" in facts
    [made] = [arguments for name, arguments in final if name == "RUN"]
    for part in ("ln -s /usr/bin/taskmill /opt/taskbroker", "/opt/sqlite", "--uid 1000", "--gid 1000"):
        assert part in made
    assert not any(name in ("ARG", "ADD") for name, _ in build + final)  # nothing secret can be handed in


def debian_knows(package):
    """It is installed here, or this Debian's index has it."""
    state = subprocess.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}", package], capture_output=True, text=True)
    if state.stdout.startswith("ii"):
        return True
    policy = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True).stdout
    return "Candidate: (none)" not in policy and "Candidate:" in policy


def test_dockerfile_packages():
    build, final = map(apt_packages, stages())
    assert [p for p in build + final if not debian_knows(p)] == []
    setup = (cache.ROOT / "scripts" / "setup.sh").read_text()
    wanted = re.search(r"build_packages=\((.*?)\)", setup, re.DOTALL).group(1).split()
    not_for_it = {"python3", "git", "libcmocka-dev"}  # meson brings Python; there are no tests in the image
    assert {p for p in wanted if p not in not_for_it} == set(build)

    # Whatever the program is linked with, directly, comes with a package of the final image.
    needed = run(["objdump", "-p", program()])
    libraries = set(re.findall(r"NEEDED\s+(lib\S+)", needed)) - {"libc.so.6", "libm.so.6"}
    linked = run(["ldd", program()])
    owners = set()
    for library in libraries:
        if library.startswith(("libasan", "libubsan", "libtsan", "libclang")):
            continue
        path = os.path.realpath(re.search(rf"{re.escape(library)} => (\S+)", linked).group(1))
        owner = run(["dpkg-query", "-S", f"*/{os.path.basename(path)}"]).split(":")[0]
        owners.add(owner)
    assert owners <= set(final), f"the image lacks {owners - set(final)}"


def test_dockerfile_sources(tmp_path):
    """What it copies is there, is let through by .dockerignore, and is all that the build reads."""
    build, _ = stages()
    allowed = {line[1:] for line in (cache.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for name, arguments in build if name == "COPY" for word in arguments.split()[:-1]]
    assert set(copied) == allowed
    for name in copied:
        source = cache.ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path / name)
    commands = next(arguments for name, arguments in build if name == "RUN" and "meson setup" in arguments)
    setup, compile_, install = [part.strip() for part in commands.split("&&")]
    run(setup.split(), cwd=tmp_path)
    # The compiler itself has been over these sources: only whether every input is there is asked.
    out = run([*compile_.split(), "-n"], cwd=tmp_path)
    assert "Linking target src/cli/taskmill" in out
    assert install == "DESTDIR=/image meson install -C build --no-rebuild"


# --- the command lines


@pytest.fixture(scope="module")
def deploy_kafka(tmp_path_factory):
    """Its own, because the topics have the names that the files give them."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.kill9()


@pytest.fixture
def clean(monkeypatch, deploy_kafka):
    clean_environment(monkeypatch)
    yield
    for topic in ("taskworker", "taskworker-dlq", "taskworker-ingest"):
        if deploy_kafka.has_topic(topic):
            deploy_kafka.delete_topic(topic)


@pytest.fixture
def services():
    """Services that are killed at the end of the test if it has not stopped them."""
    started = []
    yield started
    for service in started:
        service.process.kill9()


def send_tasks(kafka, topic, namespace="example", taskname="example.hello"):
    for partition in range(PARTITIONS):
        kafka.produce(topic, [activation(taskname, namespace=namespace, application="example",
                                         args=[f"task-{partition}-{n}"]).SerializeToString()
                              for n in range(TASKS // PARTITIONS)], partition=partition)


def ran(workers, count=TASKS):
    """The tasks that the workers' logs tell of."""
    said = re.findall(r"task-\d+-\d+", "".join(worker.log() for worker in workers))
    return len(said) >= count and said


def wait_shared(brokers, timeout_s=60):
    """Until the partitions are spread evenly."""
    share = PARTITIONS // len(brokers)
    wait_for(lambda: [b.partitions() for b in brokers] == [share] * len(brokers),
             lambda: f"{share} partitions each: {[b.partitions() for b in brokers]}", timeout_s)


def work_off(kafka, brokers, workers, topic="taskworker"):
    """Tasks on every partition run once, from every broker."""
    wait_shared(brokers)
    send_tasks(kafka, topic)
    said = wait_for(lambda: ran(workers), lambda: f"{TASKS} tasks:\n{workers[0].log()[-3000:]}", 60)
    assert len(said) == len(set(said)) == TASKS
    kafka.wait_committed("taskworker", topic, {p: TASKS // PARTITIONS for p in range(PARTITIONS)})


def stop_all(services):
    for service in services:
        service.stop()


def test_compose_pool_runs(deploy_kafka, clean, services, tmp_path):
    """compose.yml and compose.pool.yml: the first broker from its file, the others from three variables alone,
    two of the five workers."""
    network = Network(tmp_path)
    files = compose("compose.yml", "compose.pool.yml", KAFKA_BOOTSTRAP=deploy_kafka.bootstrap)
    names = ["taskbroker", "taskbroker-beta", "taskbroker-charlie"]
    brokers = []
    for name in names:  # the second and third after the first is healthy, as depends_on says
        brokers.append(start_compose(tmp_path, network, files, name))
        services.append(brokers[-1])
        brokers[0].wait_healthy()
    for broker in brokers:
        broker.wait_healthy()
    workers = []
    for replica in ("1", "2"):
        workers.append(start_compose(tmp_path / replica, network, files, "taskworker"))
        services.append(workers[-1])
    work_off(deploy_kafka, brokers, workers)
    for worker in workers:
        wait_for(lambda w=worker: w.check() == 0, "the health file")  # deletes it
        wait_for(lambda w=worker: w.check() == 0, "the health file again")
    stop_all(workers + brokers)
    stored = sorted(path.name for path in tmp_path.rglob("*.sqlite"))
    assert stored == ["taskbroker-activations.sqlite", "taskbroker-beta.sqlite", "taskbroker-charlie.sqlite"]


def test_compose_single_runs(deploy_kafka, clean, services, tmp_path):
    network = Network(tmp_path)
    files = compose("compose.yml", KAFKA_BOOTSTRAP=deploy_kafka.bootstrap)
    broker = start_compose(tmp_path, network, files, "taskbroker")
    services.append(broker)
    broker.wait_healthy()
    worker = start_compose(tmp_path, network, files, "taskworker")
    services.append(worker)
    work_off(deploy_kafka, [broker], [worker])
    stop_all([worker, broker])
    assert broker.check() == 1  # and the check tells


def test_a_broker_is_backed_up_and_taken_away(deploy_kafka, clean, services, tmp_path):
    """The two procedures of docs/operations.md: a copy of the live file, and a last start that takes in nothing."""
    network = Network(tmp_path)
    files = compose("compose.yml", KAFKA_BOOTSTRAP=deploy_kafka.bootstrap)
    broker = start_compose(tmp_path, network, files, "taskbroker")
    services.append(broker)
    broker.wait_healthy()
    wait_shared([broker])
    send_tasks(deploy_kafka, "taskworker")
    deploy_kafka.wait_committed("taskworker", "taskworker", {p: TASKS // PARTITIONS for p in range(PARTITIONS)})
    [live] = tmp_path.rglob("*.sqlite")
    page = (cache.ROOT / "docs/operations.md").read_text()

    backup = tmp_path / "backup.sqlite"
    statement = re.search(r"sqlite3 -readonly tasks.sqlite \"(VACUUM INTO '(.*)')\"", page)
    run(["sqlite3", "-readonly", live, statement.group(1).replace(statement.group(2), str(backup))])
    assert f"{TASKS} Pending" in run([program(), "store", "check", backup])

    broker.stop()
    variable, value = re.search(r"^ +(TASKBROKER_KAFKA_TOPICS__\w+)=(\w+) taskmill broker", page, re.MULTILINE).groups()
    files["taskbroker"]["environment"][variable] = value
    last = start_compose(tmp_path, network, files, "taskbroker")
    services.append(last)
    last.wait_healthy()
    send_tasks(deploy_kafka, "taskworker")  # for whoever else is in the group
    worker = start_compose(tmp_path, network, files, "taskworker")
    services.append(worker)
    queries = re.findall(r"^ +sqlite3 -readonly tasks.sqlite \"(SELECT count.*)\"$", page, re.MULTILINE)
    assert len(set(queries)) == 2
    for query in queries:
        wait_for(lambda q=query: run(["sqlite3", "-readonly", live, q]) == "0\n", query, 60)
    said = wait_for(lambda: ran([worker]), lambda: f"{TASKS} tasks:\n{worker.log()[-3000:]}")
    assert len(said) == len(set(said)) == TASKS
    stop_all([worker, last])


def test_compose_ingest_runs(deploy_kafka, clean, services, tmp_path):
    """The pool is started by its variables alone, and reached by the route of ingest-routes.yml."""
    kafka = deploy_kafka
    for topic in ("taskworker", "taskworker-ingest", "taskworker-dlq"):
        kafka.ensure_topic(topic, PARTITIONS)
    network = Network(tmp_path)
    files = compose("compose.yml", "compose.ingest.yml", KAFKA_BOOTSTRAP=kafka.bootstrap)
    broker = start_compose(tmp_path, network, files, "taskbroker-ingest")
    services.append(broker)
    broker.wait_healthy()
    wait_shared([broker])
    worker = start_compose(tmp_path, network, files, "taskworker-ingest")
    services.append(worker)

    routes = load(DEPLOY / "compose" / "ingest-routes.yml")["taskworker.route.overrides"]
    assert routes == {"ingest.errors": "taskworker-ingest"}
    env = {**os.environ, "TASKWORKER_ROUTES": json.dumps(routes), "TASKMILL_APPLICATION": "example",
           "TASKMILL_KAFKA": kafka.bootstrap}
    for n in range(3):
        run([program(), "send", "ingest.errors:ingest.errors.store", f"task-0-{n}"], env=env)
        run([program(), "send", "example:example.hello", f"other-{n}"], env=env)
    said = wait_for(lambda: ran([worker], 3), lambda: f"3 tasks:\n{worker.log()[-3000:]}")
    assert sorted(said) == ["task-0-0", "task-0-1", "task-0-2"]
    assert sum(kafka.end_offsets("taskworker").values()) == 3  # the others went where they go without a route
    assert "other" not in worker.log()
    stop_all([worker, broker])


def ask(broker, container, path, port_name, timeout_s=5):
    """(status, body) of a page of the pod's admin port."""
    [port] = [p["containerPort"] for p in container["ports"] if p["name"] == port_name]
    url = f"http://{broker.address}:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def probe(broker, container, kind):
    """Whether a probe of the StatefulSet succeeds, asked as the kubelet asks it."""
    definition = container[kind]
    get = definition["httpGet"]
    status, _ = ask(broker, container, get["path"], get["port"], definition["timeoutSeconds"])
    return 200 <= status < 400


def test_kubernetes_runs(deploy_kafka, clean, services, tmp_path):
    """Three pods of the StatefulSet and one of the Deployment, which finds them by --num-brokers."""
    all_of = kubernetes()
    pod = all_of["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    network = Network(tmp_path)
    env = {e["name"]: e["value"] for e in container["env"]}
    assert env.pop("TASKBROKER_KAFKA_CLUSTERS__DEFAULT__ADDRESS") == "kafka:9092" and not env
    env = {"TASKBROKER_KAFKA_CLUSTERS__DEFAULT__ADDRESS": deploy_kafka.bootstrap}
    brokers = []
    for index in range(all_of["StatefulSet"]["spec"]["replicas"]):
        name = f"taskbroker-{index}"
        config = tmp_path / name / "broker.yml"
        config.parent.mkdir()
        places = {mount["mountPath"]: tmp_path / name / mount["name"] for mount in container["volumeMounts"]}
        places["/etc/taskmill"] = config.parent
        config.write_text(map_text((DEPLOY / "k8s" / "broker.yml").read_text(), places))
        address = network.add(f"{name}.{all_of['Service']['metadata']['name']}")
        brokers.append(Service(tmp_path / name, container["command"], env, places, network, address,
                               grace_s=pod["terminationGracePeriodSeconds"]))
        services.append(brokers[-1])
        # The first makes the topics; on a cluster those that start beside it are restarted until they are there.
        wait_for(lambda b=brokers[-1]: probe(b, container, "startupProbe"),
                 lambda b=brokers[-1]: f"{b.folder.name}:\n{b.log()[-3000:]}")
    for broker in brokers:
        for kind in ("readinessProbe", "livenessProbe"):
            wait_for(lambda b=broker, k=kind: probe(b, container, k), kind)

    worker_pod = all_of["Deployment"]["spec"]["template"]["spec"]
    [container_of_worker] = worker_pod["containers"]
    worker = Service(tmp_path / "worker", container_of_worker["command"], {},
                     {"/etc/taskmill": DEPLOY / "k8s", "/tmp": tmp_path / "tmpfs"}, network,
                     check=container_of_worker["livenessProbe"]["exec"]["command"],
                     grace_s=worker_pod["terminationGracePeriodSeconds"])
    services.append(worker)
    work_off(deploy_kafka, brokers, [worker])
    assert worker.check() == 0
    scraped = all_of["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    assert [p["name"] for p in container["ports"] if str(p["containerPort"]) == scraped] == ["admin"]
    pages = [ask(broker, container, "/metrics", "admin")[1] for broker in brokers]
    assert all("\n# TYPE taskmill_" in page for page in pages)
    stored = sum(json.loads(ask(broker, container, "/status.json", "admin")[1])["totals"]["taken_in"]
                 for broker in brokers)
    assert stored == TASKS
    stop_all([worker, *brokers])
    assert not probe(brokers[0], container, "readinessProbe")

def test_compose_scheduler_runs(deploy_kafka, clean, services, redis, tmp_path):
    """compose.scheduler.yml with the schedules beside it, under the original's command line and keys."""
    deploy_kafka.ensure_topic("taskworker", PARTITIONS)
    files = compose("compose.yml", "compose.scheduler.yml", KAFKA_BOOTSTRAP=deploy_kafka.bootstrap,
                    REDIS_HOST="127.0.0.1", REDIS_PORT=str(redis.port))
    scheduler = start_compose(tmp_path, Network(tmp_path), files, "taskscheduler")
    services.append(scheduler)
    key = "tw:scheduler:hello-every-minute:example:example.hello:60"
    wait_for(lambda: redis.cli("GET", key), lambda: f"{key} in Redis:\n{scheduler.process.log()}")
    wait_for(lambda: "sent a run" in scheduler.process.log(), lambda: scheduler.process.log())
    stop_all([scheduler])


def test_units_run(deploy_kafka, clean, services, tmp_path):
    """ExecStart of both units, with the environment files beside them and the signatures that these propose."""
    kafka = deploy_kafka
    for topic in ("taskworker", "taskworker-dlq"):
        kafka.ensure_topic(topic, PARTITIONS)
    network = Network(tmp_path)
    address = network.add("broker")
    own = {"127.0.0.1:9092": kafka.bootstrap, "127.0.0.1:50051": f"{address}:50051",
           "/etc/taskmill/tasks": DEPLOY / "compose" / "tasks"}

    def variables(name, secret):
        found = env_file(DEPLOY / "systemd" / name, [secret])
        assert secret in found
        return {key: map_text(value, own) for key, value in found.items()}

    broker = start_unit(tmp_path, network, "taskmill-broker", "main",
                        variables("broker-main.env", "TASKBROKER_GRPC_SHARED_SECRET"), address)
    services.append(broker)
    wait_shared([broker])
    with broker.client() as client:
        assert client.health() == "SERVING"
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            client.get_task()
    worker = start_unit(tmp_path, network, "taskmill-worker", "main",
                        variables("worker-main.env", "TASKMILL_RPC_SECRET"))
    services.append(worker)
    work_off(kafka, [broker], [worker])
    reload = unit("taskmill-broker@.service")["Service.ExecReload"][0]
    run(reload.replace("$MAINPID", str(broker.process.pid)).split())
    with broker.client() as client:
        assert client.health() == "SERVING"  # and it ends below by SIGTERM, with 0
    assert (tmp_path / "run/taskmill-worker-main/health").exists()
    assert (tmp_path / "state/taskmill/main/tasks.sqlite").exists()
    stop_all([worker, broker])


def test_environment_file_of_a_unit_may_name_a_configuration(tmp_path):
    """The commented line of broker-main.env, taken in."""
    text = (DEPLOY / "systemd" / "broker-main.env").read_text()
    options = re.search(r"^#BROKER_OPTIONS=(.*)$", text, re.MULTILINE).group(1).split()
    assert options[0] == "-c" and options[1].startswith("/etc/taskmill/")
    config = tmp_path / "broker-main.yml"
    config.write_text(yaml.safe_dump({"embedded": True}))
    run([program(), "config", "check", config])
