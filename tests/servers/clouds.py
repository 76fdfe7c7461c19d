"""Loopback servers that speak the APIs of Kubernetes, AWS Batch and Google Batch, for the tests.

They take jobs as the real clients send them and run each as local processes, in a folder of its
own, with no more of the environment than its specification has and an image would bring. What an
API refuses they refuse, as far as a job of swath could meet it. They prove no image, no scheduler,
no rights, no volume.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import watching

SOURCES = Path(__file__).resolve().parents[2] / "src"

# As in the image, where pip is no more (Containerfile). Names below localhost are this machine, as
# systemd-resolved has it; glibc alone does not.
_PIP = "import sys\nprint('pip, as in the image: nothing to do for', *sys.argv[1:])\n"
_NAMES = """import socket
_ask = socket.getaddrinfo
def ask(host, *more, **named):
    here = isinstance(host, str) and host.endswith(".localhost")
    return _ask("127.0.0.1" if here else host, *more, **named)
socket.getaddrinfo = ask
"""


@dataclass
class Ran:
    """One command that a machine has run, or is running."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    took: float = 0.0
    ended_by: str = ""
    """Why it was killed, if it was."""

    def wait(self, limit_s: float | None = None) -> int:
        """Its exit code; it is killed after so many seconds."""
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill("over its time")
        self.took = time.monotonic() - self.started
        return self.process.returncode

    def kill(self, why: str) -> None:
        """End it and all that it started."""
        if self.process.poll() is None:
            self.ended_by = why
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "output").read_text(errors="replace")


class Machines:
    """Runs commands as an image's containers would, a few at a time."""

    def __init__(self, root: Path, at_once: int = 2) -> None:
        self.root = root
        self.ran: list[Ran] = []
        self.room = threading.Semaphore(at_once)
        self.image = root / "image"
        (self.image / "bin").mkdir(parents=True)
        (self.image / "pip.py").write_text(_PIP)
        (self.image / "sitecustomize.py").write_text(_NAMES)
        (self.image / "bin" / "pip").write_text(f"#!{sys.executable}\n{_PIP}")
        (self.image / "bin" / "pip").chmod(0o755)

    def folder(self, name: str) -> Path:
        """A fresh folder for a job."""
        made = self.root / "jobs" / name
        made.mkdir(parents=True)
        return made

    def start(self, name: str, folder: Path, command: Sequence[str], env: Mapping[str, str]) -> Ran:
        """Start a command in a folder, with an image's environment and what is declared."""
        of_image = {
            "PATH": f"{self.image}/bin:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{self.image}:{SOURCES}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        with (folder / "output").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=of_image | dict(env), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        ran = Ran(name, folder, process)
        self.ran.append(ran)
        return ran

    def close(self) -> None:
        """End all that still runs."""
        for ran in self.ran:
            ran.kill("closed")


@dataclass
class Reply(Exception):
    """What a server answers with."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Api:
    """An HTTP server on the loopback; `routes` says who answers what."""

    def __init__(self, root: Path) -> None:
        self.machines = Machines(root)
        self.bodies: list[Any] = []
        """All that was sent, in order."""
        self.routes: list[tuple[str, str, Callable[..., Any]]] = []
        """Method, pattern of the path -> function of the path's groups, the query and the body."""
        self.allowed: Callable[[Mapping[str, str]], None] = lambda headers: None
        """Raises a Reply to a request that it refuses."""

        class Handler(BaseHTTPRequestHandler):
            def answer(self, api: Api = self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(length)
                body = json.loads(text) if text else None
                if body is not None:
                    api.bodies.append(body)
                path, _, query = self.path.partition("?")
                try:
                    api.allowed(self.headers)
                    reply = api.reply(self.command, path, dict(urllib.parse.parse_qsl(query)), body)
                except Reply as refused:
                    reply = refused
                plain = isinstance(reply.body, str)
                told = reply.body.encode() if plain else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Type", "text/plain" if plain else "application/json")
                self.send_header("Content-Length", str(len(told)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.address = f"http://127.0.0.1:{self.port}"

    def reply(self, method: str, path: str, query: dict[str, str], body: Any) -> Reply:
        """The answer to a request."""
        for asked, pattern, function in self.routes:
            if asked == method and (found := re.fullmatch(pattern, path)):
                return Reply(200, function(*found.groups(), query=query, body=body))
        return Reply(404, {"message": f"no such path: {method} {path}"})

    @contextmanager
    def running(self) -> Iterator[Api]:
        """Serve until the block ends; then every job is ended, too."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            self.machines.close()


# ---- Kubernetes --------------------------------------------------------------------------------


class Kubernetes(Api):
    """Secrets, batch/v1 Jobs, their pods and logs, of one namespace."""

    def __init__(
        self, root: Path, namespace: str = "lab", token: str = "token-of-a-test", runs: bool = True
    ) -> None:
        super().__init__(root)
        self.namespace, self.token, self.runs = namespace, token, runs
        self.secrets: dict[str, dict[str, str]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        """Name -> what was sent."""
        self.codes: dict[str, int | None] = {}
        """Name -> exit code of its container."""
        core, batch = "/api/v1/namespaces/([^/]+)", "/apis/batch/v1/namespaces/([^/]+)"
        self.routes = [
            ("POST", f"{core}/secrets", self._add_secret),
            ("DELETE", f"{core}/secrets/([^/]+)", self._drop_secret),
            ("POST", f"{batch}/jobs", self._add_job),
            ("GET", f"{batch}/jobs/([^/]+)/status", self._job),
            ("DELETE", f"{batch}/jobs/([^/]+)", self._drop_job),
            ("GET", f"{core}/pods", self._pods),
            ("DELETE", f"{core}/pods/([^/]+)", self._drop_pod),
            ("GET", f"{core}/pods/([^/]+)/log", self._log),
        ]
        self.allowed = self._allowed

    def kubeconfig(self, token: str | None = None) -> dict[str, Any]:
        """What `kubectl config view` would show of it."""
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": self.address}}],
            "users": [{"name": "me", "user": {"token": token or self.token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }  # fmt: skip

    @staticmethod
    def _refuse(status: int, reason: str, message: str) -> Reply:
        told = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        return Reply(status, told | {"reason": reason, "message": message, "code": status})

    def _allowed(self, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization") != f"Bearer {self.token}":
            raise self._refuse(401, "Unauthorized", "Unauthorized")

    def _in(self, namespace: str) -> None:
        if namespace != self.namespace:
            told = f'namespaces "{namespace}" not found'
            raise self._refuse(404, "NotFound", told)

    def _add_secret(self, namespace: str, *, body: Any, **_: Any) -> Any:
        self._in(namespace)
        self.secrets[body["metadata"]["name"]] = {
            key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()
        }
        return body

    def _drop_secret(self, namespace: str, name: str, **_: Any) -> Any:
        self._in(namespace)
        del self.secrets[name]
        return {"kind": "Status", "status": "Success"}

    def _add_job(self, namespace: str, *, body: Any, **_: Any) -> Any:
        self._in(namespace)
        name = body["metadata"]["name"]
        (container,) = body["spec"]["template"]["spec"]["containers"]
        asked = container["resources"]
        for kind, count in asked["requests"].items():
            # Of what cannot be shared the API demands a limit, of the same number.
            if "/" in kind and asked.get("limits", {}).get(kind) != count:
                told = f'Job "{name}" is invalid: {kind}: Limit must be set for non overcommitable'
                raise self._refuse(422, "Invalid", told)
        self.jobs[name], self.codes[name] = body, None
        threading.Thread(target=self._run, args=(name, container), daemon=True).start()
        return body

    def _run(self, name: str, container: dict[str, Any]) -> None:
        if not self.runs:
            return
        env = {}
        for each in container.get("env") or ():
            found = each["valueFrom"]["secretKeyRef"] if "valueFrom" in each else None
            env[each["name"]] = (
                self.secrets[found["name"]][found["key"]] if found else each["value"]
            )
        with self.machines.room:
            folder = self.machines.folder(name)
            ran = self.machines.start(name, folder, container["command"] + container["args"], env)
            self.codes[name] = ran.wait()

    def _job(self, namespace: str, name: str, **_: Any) -> Any:
        self._in(namespace)
        if name not in self.jobs:
            raise self._refuse(404, "NotFound", f'jobs.batch "{name}" not found')
        code = self.codes[name]
        status = {} if code is None else {"failed": 1} if code else {"succeeded": 1}
        return {**self.jobs[name], "status": status}

    def _drop_job(self, namespace: str, name: str, **_: Any) -> Any:
        self._job(namespace, name)
        del self.jobs[name]
        for ran in self.machines.ran:
            if ran.name == name:
                ran.kill("deleted")
        return {"kind": "Status", "status": "Success"}

    def _pods(self, namespace: str, *, query: dict[str, str], **_: Any) -> Any:
        self._in(namespace)
        name = query["labelSelector"].removeprefix("job-name=")
        pods = []
        if name in self.jobs:
            code = self.codes[name]
            state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
            about = {"name": "snakemake", "image": "i", "imageID": "", "ready": True}
            container = about | {"restartCount": 0, "state": state, "lastState": {}}
            pods = [
                {"metadata": {"name": f"{name}-pod"}, "status": {"containerStatuses": [container]}}
            ]
        return {"kind": "PodList", "apiVersion": "v1", "items": pods}

    def _drop_pod(self, namespace: str, name: str, **_: Any) -> Any:
        self._in(namespace)
        return {"metadata": {"name": name}}

    def _log(self, namespace: str, name: str, *, query: dict[str, str], **_: Any) -> Any:
        self._in(namespace)
        if query.get("previous", "false").lower() == "true":
            # As the kubelet has it: the container was never started again.
            told = f'previous terminated container "snakemake" in pod "{name}" not found'
            raise self._refuse(400, "BadRequest", told)
        job = name.removesuffix("-pod")
        return "".join(ran.log for ran in self.machines.ran if ran.name == job)


# ---- AWS Batch ---------------------------------------------------------------------------------


class AwsBatch(Api):
    """Job definitions and jobs of one queue, and the keys of their role as ECS gives them."""

    def __init__(
        self, root: Path, queue: str = "gpu", key: str = "AKIAOFATEST", runs: bool = True,
        of_role: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root)
        self.queue, self.key, self.runs = queue, key, runs
        self.of_role = of_role or {"AccessKeyId": "ASIAOFTHEROLE", "SecretAccessKey": "secret"}
        self.definitions: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.routes = [
            ("POST", "/v1/registerjobdefinition", self._register),
            ("POST", "/v1/deregisterjobdefinition", self._deregister),
            ("POST", "/v1/submitjob", self._submit),
            ("POST", "/v1/describejobs", self._describe),
            ("POST", "/v1/terminatejob", self._terminate),
            ("GET", "/role", self._role),
        ]
        self.allowed = self._allowed

    @staticmethod
    def _refuse(status: int, kind: str, message: str) -> Reply:
        return Reply(status, {"message": message}, {"x-amzn-errortype": kind})

    def _allowed(self, headers: Mapping[str, str]) -> None:
        signed = headers.get("Authorization", "")
        if signed and f"Credential={self.key}/" not in signed:
            kind, told = (
                ("ExpiredTokenException", "The security token included in the request is expired")
                if "Credential=EXPIRED" in signed
                else (
                    "UnrecognizedClientException",
                    "The security token included in the request is invalid.",
                )
            )
            raise self._refuse(403, kind, told)

    def _role(self, **_: Any) -> Any:
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=6)
        return {**self.of_role, "Token": "", "Expiration": later.isoformat()}

    def _register(self, *, body: Any, **_: Any) -> Any:
        name = body["jobDefinitionName"]
        arn = f"arn:aws:batch:eu-central-1:123456789012:job-definition/{name}:1"
        self.definitions[f"{name}:1"] = body
        return {"jobDefinitionName": name, "jobDefinitionArn": arn, "revision": 1}

    def _deregister(self, *, body: Any, **_: Any) -> Any:
        del self.definitions[body["jobDefinition"].rpartition("/")[2]]
        return {}

    def _submit(self, *, body: Any, **_: Any) -> Any:
        if body["jobQueue"].rpartition("/")[2] != self.queue:
            raise self._refuse(400, "ClientException", f"JobQueue {body['jobQueue']} not found")
        number = str(uuid.uuid4())
        definition = self.definitions[body["jobDefinition"]]
        self.jobs[number] = {
            "jobId": number, "jobName": body["jobName"], "jobQueue": body["jobQueue"],
            "jobDefinition": f"arn:aws:batch:x:1:job-definition/{body['jobDefinition']}",
            "status": "RUNNABLE", "container": {}, "startedAt": 0,
        }  # fmt: skip
        threading.Thread(target=self._run, args=(number, definition), daemon=True).start()
        return {"jobId": number, "jobName": body["jobName"]}

    def _run(self, number: str, definition: dict[str, Any]) -> None:
        job, container = self.jobs[number], definition["containerProperties"]
        if not self.runs:
            return
        env = {each["name"]: each["value"] for each in container["environment"]}
        env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{self.address}/role"
        with self.machines.room:
            job["status"] = "RUNNING"
            folder = self.machines.folder(number)
            ran = self.machines.start(number, folder, container["command"], env)
            code = ran.wait(definition["timeout"]["attemptDurationSeconds"])
        reason = {
            "": "Essential container in task exited",
            "over its time": "Job attempt duration exceeded timeout",
        }.get(ran.ended_by, ran.ended_by)
        job.update(container={"exitCode": code}, statusReason=reason)
        job["status"] = "FAILED" if code else "SUCCEEDED"

    def _describe(self, *, body: Any, **_: Any) -> Any:
        return {"jobs": [self.jobs[number] for number in body["jobs"] if number in self.jobs]}

    def _terminate(self, *, body: Any, **_: Any) -> Any:
        for ran in self.machines.ran:
            if ran.name == body["jobId"]:
                ran.kill(body["reason"])
        return {}


# ---- Google Batch ------------------------------------------------------------------------------


class GoogleBatch:
    """The gRPC services of Batch, its operations and Cloud Logging, over TLS, and a Secret Manager.

    The real clients come here by their universe: GOOGLE_CLOUD_UNIVERSE_DOMAIN names the domain
    below which Google's services are, here localhost and a port.
    """

    def __init__(
        self, root: Path, project: str = "lab", region: str = "europe-west3", runs: bool = True,
        secrets: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        import grpc
        from google.cloud import batch_v1

        self.machines, self.runs, self.root = Machines(root), runs, root
        self.parent = f"projects/{project}/locations/{region}"
        self.jobs: dict[str, Any] = {}
        self.bodies: list[Any] = []
        self.logs: dict[str, str] = {}
        key, certificate = _certificate()
        (root / "ca.pem").write_bytes(certificate)
        (root / "key.pem").write_bytes(key)
        self.batch = batch_v1
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((_services(self),))
        self.port = self.server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)])
        )
        # The Secret Manager speaks HTTPS, at a port of its own: the universe of the jobs.
        self.manager = Api(root / "manager")
        self.manager.routes = [
            ("GET", f"/v1/{name}/versions/latest:access", _payload(text))
            for name, text in (secrets or {}).items()
        ]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(root / "ca.pem", root / "key.pem")
        self.manager.server.socket = context.wrap_socket(
            self.manager.server.socket, server_side=True
        )
        for account, port in (("user", self.port), ("job", self.manager.port)):
            (root / f"{account}.json").write_text(
                json.dumps(
                    {
                        "type": "service_account", "project_id": project, "private_key_id": "1",
                        "private_key": key.decode(), "client_email": f"{account}@example.org",
                        "token_uri": "http://127.0.0.1:9/token",
                        "universe_domain": f"localhost:{port}",
                    }
                )
            )  # fmt: skip

    @property
    def user(self) -> dict[str, str]:
        """The environment of a user of this cloud."""
        return {
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": f"localhost:{self.port}",
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.root / "user.json"),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.root / "ca.pem"),
        }

    @contextmanager
    def running(self) -> Iterator[GoogleBatch]:
        """Serve until the block ends; then every job is ended, too."""
        self.server.start()
        with self.manager.running():
            try:
                yield self
            finally:
                self.server.stop(0)
                self.machines.close()

    def create(self, asked: Any) -> Any:
        """Take a job and start it."""
        name = f"{asked.parent}/jobs/{asked.job_id}"
        job = self.batch.Job(asked.job)
        job.name, job.uid = name, str(uuid.uuid4())
        job.status.state = self.batch.JobStatus.State.RUNNING
        self.jobs[name] = job
        self.bodies.append(asked)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return job

    def _run(self, job: Any) -> None:
        states = self.batch.JobStatus.State
        if not self.runs:
            return
        task = job.task_groups[0].task_spec
        number = job.name.rpartition("/")[2]
        with self.machines.room:
            folder = self.machines.folder(number)
            code, till = 0, time.monotonic() + task.max_run_duration.total_seconds()
            for each in task.runnables:
                # Of its own on every machine; here there is one for all.
                here = str(folder)
                if each.script.text:
                    command = ["/bin/bash", "-c", each.script.text.replace("/tmp/workdir", here)]
                elif each.container.image_uri:
                    words = [each.container.entrypoint, *each.container.commands]
                    command = [word.replace("/tmp/workdir", here) for word in words]
                else:
                    continue
                account = {
                    "GOOGLE_APPLICATION_CREDENTIALS": str(self.root / "job.json"),
                    "REQUESTS_CA_BUNDLE": str(self.root / "ca.pem"),
                }
                env = account | dict(each.environment.variables)
                ran = self.machines.start(number, folder, command, env)
                code = ran.wait(max(0.1, till - time.monotonic()))
                self.logs[job.uid] = ran.log
                if code:
                    break
        job.status.state = states.FAILED if code else states.SUCCEEDED

    def delete(self, name: str) -> None:
        """End a job."""
        for ran in self.machines.ran:
            if ran.name == name.rpartition("/")[2]:
                ran.kill("deleted")


def _payload(text: str) -> Callable[..., Any]:
    data = base64.b64encode(text.encode()).decode()
    return lambda **_: {"payload": {"data": data}}


def _services(cloud: GoogleBatch) -> Any:
    """What the clients call, of three services."""
    import grpc
    from google.cloud import logging_v2
    from google.longrunning import operations_pb2
    from google.protobuf import any_pb2, empty_pb2

    types = logging_v2.types

    def create(asked: Any, context: Any) -> Any:
        if asked.parent != cloud.parent:
            what = (
                f"Permission 'batch.jobs.create' denied on '{asked.parent}' (or it may not exist)."
            )
            context.abort(grpc.StatusCode.PERMISSION_DENIED, what)
        return cloud.create(asked)

    def get(asked: Any, context: Any) -> Any:
        return cloud.jobs[asked.name]

    def delete(asked: Any, context: Any) -> Any:
        cloud.delete(asked.name)
        response = any_pb2.Any()
        response.Pack(empty_pb2.Empty())
        return operations_pb2.Operation(name="operations/1", done=True, response=response)

    def entries(asked: Any, context: Any) -> Any:
        uid = asked.filter.partition("labels.job_uid=")[2].split()[0]
        lines = cloud.logs.get(uid, "").splitlines()
        return types.ListLogEntriesResponse(
            entries=[types.LogEntry(log_name="l", text_payload=line) for line in lines]
        )

    batch = cloud.batch
    methods = {
        "/google.cloud.batch.v1.BatchService/CreateJob": (
            create, batch.CreateJobRequest.deserialize, batch.Job.serialize
        ),
        "/google.cloud.batch.v1.BatchService/GetJob": (
            get, batch.GetJobRequest.deserialize, batch.Job.serialize
        ),
        "/google.cloud.batch.v1.BatchService/DeleteJob": (
            delete, batch.DeleteJobRequest.deserialize, operations_pb2.Operation.SerializeToString
        ),
        "/google.logging.v2.LoggingServiceV2/ListLogEntries": (
            entries, types.ListLogEntriesRequest.deserialize, types.ListLogEntriesResponse.serialize
        ),
    }  # fmt: skip

    class Services(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            if call.method not in methods:
                return None
            function, read, write = methods[call.method]
            told = dict(call.invocation_metadata).get("authorization", "")

            def answer(asked: Any, context: Any) -> Any:
                if not told.startswith("Bearer "):
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "no credentials")
                return function(asked, context)

            return grpc.unary_unary_rpc_method_handler(answer, read, write)

    return Services()


def _certificate() -> tuple[bytes, bytes]:
    """A key and a certificate of the names below localhost, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cloud of a test")])
    names = [x509.DNSName(f"{each}.localhost") for each in ("batch", "logging", "secretmanager")]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, form, plain), made.public_bytes(pem)


# ---- a site: an executor, a bucket, and a folder to start workflows in -------------------------

PROFILES = SOURCES.parent / "workflow/profiles"
PLUGINS = {"kubernetes": "kubernetes", "aws-batch": "aws_batch", "google-batch": "googlebatch"}
"""Profile -> what its plugin's package is called."""
KEY, SECRET = "AKIAOFTHESTORE", "secret-of-the-store-0123456789"
KNOWN = {
    "SWATH_IMAGE": "registry.example.org/swath:1",
    "SWATH_BUCKET": "s3://lab/swath",
    "SWATH_NAMESPACE": "lab",
    "SWATH_AWS_REGION": "eu-central-1",
    "SWATH_AWS_QUEUE": "gpu",
    "SWATH_AWS_ROLE": "arn:aws:iam::123456789012:role/swath",
    "SWATH_GOOGLE_PROJECT": "lab",
    "SWATH_GOOGLE_REGION": "europe-west3",
    "SWATH_GOOGLE_KEYS": "projects/lab/secrets/swath",
    "SWATH_SERVICE_ACCOUNT": "jobs",
}
"""What only this site knows."""


@dataclass
class Site:
    """A cloud on the loopback, and a folder from which workflows are sent to it."""

    profile: str
    api: Any
    folder: Path
    bucket: Any
    env: dict[str, str]
    seen: set[str] = field(default_factory=set)
    """The command lines of all processes of this machine while a workflow ran."""

    def snakemake(
        self, *words: str, program: Sequence[str] = ("-m", "snakemake"), **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with this executor's profile, as a person does."""
        ours = ("AWS_", "SWATH_", "GOOGLE_", "WANDB_", "SNAKEMAKE_", "KUBECONFIG")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        command = [
            sys.executable, *program, "--profile", str(PROFILES / self.profile),
            "--seconds-between-status-checks", "1", *words,
        ]  # fmt: skip
        with watching.commands(self.seen, every_s=0.1):
            return subprocess.run(
                command, cwd=self.folder, env=plain | KNOWN | self.env | env,
                capture_output=True, text=True, timeout=1200,
            )  # fmt: skip

    def shown(self, secret: str) -> list[str]:
        """Where a secret can be read: jobs as they were sent, what they said, and command lines."""
        said = [*self.folder.rglob("*.log"), *self.api.machines.root.rglob("output")]
        found = [str(path) for path in said if secret in path.read_text(errors="replace")]
        # Kubernetes' own Secret is for that, and is in base64.
        sent = [str(body) for body in self.api.bodies if secret in str(body)]
        return found + sent + [command for command in self.seen if secret in command]


@contextmanager
def site(profile: str, root: Path, *, runs: bool = True) -> Iterator[Site]:
    """A cloud of this profile on the loopback, with an S3 server (moto) for its bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(port=0, verbose=False)
    store.start()
    env = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store._server.port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }
    bucket = boto3.resource(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        aws_access_key_id=KEY, aws_secret_access_key=SECRET,
    ).create_bucket(Bucket="lab")  # fmt: skip
    bucket.objects.all().delete()  # moto keeps what it has for the servers after this one
    for name in ("cloud", "project"):
        (root / name).mkdir()
    api: Any
    if profile == "kubernetes":
        api = Kubernetes(root / "cloud", runs=runs)
        (root / "kubeconfig").write_text(json.dumps(api.kubeconfig()))
        env["KUBECONFIG"] = str(root / "kubeconfig")
    elif profile == "aws-batch":
        keys = {"AccessKeyId": KEY, "SecretAccessKey": SECRET}
        api = AwsBatch(root / "cloud", key=KEY, of_role=keys, runs=runs)
        env["AWS_ENDPOINT_URL_BATCH"] = api.address
    else:
        keys = json.dumps({"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET})
        secrets = {KNOWN["SWATH_GOOGLE_KEYS"]: keys}
        api = GoogleBatch(root / "cloud", secrets=secrets, runs=runs)
        env |= api.user
    try:
        with api.running():
            yield Site(profile, api, root / "project", bucket, env)
    finally:
        store.stop()
