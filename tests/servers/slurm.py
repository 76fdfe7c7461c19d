"""A real Slurm on this machine for the tests: `python tests/servers/slurm.py up`, or `down`.

Two nodes of 64 (declared) cores and one pretended GPU each (partition work), accounting, and
enforced memory. A third node does not see the folder SHARED; its jobs (partition bare) are
preempted by those of another partition (urgent). All of it listens on the loopback alone. It needs
root and Debian's packages, which it installs where they are missing, and no systemd.

The plugin of Snakemake drops SLURM_CONF, so the configuration must lie in /etc/slurm: as links,
which `down` takes away. A Slurm that this machine has of its own is left alone.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BASE = Path("/var/lib/swath-slurm")
CONFIGURED = Path("/etc/slurm")
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server")
SHARED = BASE / "shared"
NODES = {"n1": 6821, "n2": 6822, "n3": 6823}
LIMIT_S = 120.0

FILES = {
    "slurm.conf": """
ClusterName=swath
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
# What is queued again starts when the old credential is over.
AuthInfo=socket={base}/munge.socket,cred_expire=10
StateSaveLocation={base}/ctld
SlurmdSpoolDir={base}/%n
SlurmctldPidFile={base}/ctld/pid
SlurmdPidFile={base}/%n/pid
# There are no cgroups to confine a job with: memory is watched, and whoever has more is killed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=6819
AccountingStoragePass={base}/munge.socket
AccountingStorageEnforce=associations,limits
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
# Nobody waits for a scheduler that has only this machine to look after.
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
MinJobAge=600
ReturnToService=2
KillWait=20
# What is preempted is queued again by Slurm: Snakemake's plugin waits for that.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=64 RealMemory=256000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=64 RealMemory=256000 Gres=gpu:1
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={n3} CPUs=64 RealMemory=256000
PartitionName=work Nodes=n[1-2] Default=YES MaxTime=24:00:00 PriorityTier=1
PartitionName=bare Nodes=n3 MaxTime=24:00:00 PriorityTier=1
PartitionName=urgent Nodes=n3 MaxTime=24:00:00 PriorityTier=2
""",
    "slurmdbd.conf": """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=6819
CommunicationParameters=NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
PidFile={base}/dbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
""",
    "gres.conf": "NodeName=n[1-2] Name=gpu File=/dev/null\n",
    # It is loaded, and not used.
    "cgroup.conf": "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n",
}


def fail(line: str) -> None:
    """End with one line."""
    sys.exit(f"slurm: {line}")


def run(*command: str, check: bool = True, **more: object) -> subprocess.CompletedProcess[str]:
    """A command to its end, with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if check and done.returncode:
        fail(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done


def until(what: str, true: Callable[[], bool], *, ending: bool = False) -> None:
    """Wait for a condition; in vain where a daemon has ended, unless they are to end."""
    limit = time.monotonic() + LIMIT_S
    while not true():
        for name in () if ending else DAEMONS:
            if (BASE / f"{name}.run").exists() and not running(name):
                fail(f"{name} has ended; see {BASE}/{name}.log")
        if time.monotonic() > limit:
            fail(f"{what} did not come within {LIMIT_S:.0f} s; see the logs in {BASE}")
        time.sleep(0.1)


def says(*command: str) -> str:
    """What a command says; nothing where it fails."""
    with suppress(OSError):
        return run(*command, check=False).stdout
    return ""


def install() -> None:
    """Debian's packages, where they are missing; none of their services is started."""
    if all(map(shutil.which, ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd"))):
        return
    told = Path("/usr/sbin/policy-rc.d")
    denies_already = told.exists()
    if not denies_already:
        told.write_text("#!/bin/sh\nexit 101\n")
        told.chmod(0o755)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", "-qq", env=environ)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES, env=environ)
    finally:
        if not denies_already:
            told.unlink()


DAEMONS = {
    "munged": "munged --foreground --force --num-threads=10 --key-file={base}/munge.key "
    "--socket={base}/munge.socket --seed-file={base}/munge.seed --pid-file={base}/munge.pid "
    "--log-file={base}/munge.log",
    "mariadbd": "mariadbd --no-defaults --user=mysql --datadir={base}/mariadb --skip-networking "
    "--socket={base}/mariadb/socket --innodb-buffer-pool-size=64M "
    "--innodb-lock-wait-timeout=900",
    "slurmdbd": "slurmdbd -D",
    "slurmctld": "slurmctld -D",
    **{f"slurmd-{node}": f"slurmd -D -N {node}" for node in NODES},
    "slurmd-n3": "unshare --mount sh -c 'mount -t tmpfs none {shared} && exec slurmd -D -N n3'",
}
"""In the order of their start, each in the foreground."""


def running(name: str) -> int:
    """The process of a daemon that `up` has started, where it still runs; else 0."""
    with suppress(OSError, ValueError):
        pid, began = (BASE / f"{name}.run").read_text().split()
        if began_at(int(pid)) == began:
            return int(pid)
    return 0


def began_at(pid: int) -> str:
    """When a process was started, so that no other is taken for it; nothing where it has ended."""
    state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state == "Z" else facts[18]


def start(name: str) -> None:
    """Start a daemon, unless it runs."""
    if running(name):
        return
    process = subprocess.Popen(
        shlex.split(DAEMONS[name].format(base=BASE, shared=SHARED)),
        stdin=subprocess.DEVNULL, stdout=(BASE / f"{name}.log").open("a"),
        stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "MYSQL_UNIX_PORT": str(BASE / "mariadb/socket")},
    )  # fmt: skip
    (BASE / f"{name}.run").write_text(f"{process.pid} {began_at(process.pid)}")


def up() -> None:
    """Start what does not run yet."""
    if os.geteuid():
        fail("it needs root: it writes links into /etc/slurm and starts jobs as their users")
    for name in FILES:
        link = CONFIGURED / name
        if link.exists() and link.resolve() != BASE / name:
            fail(f"{link} is of a Slurm that this machine has of its own, which is left alone")
    install()
    for folder in (SHARED, BASE / "ctld", *(BASE / node for node in NODES)):
        folder.mkdir(parents=True, exist_ok=True)
    CONFIGURED.mkdir(exist_ok=True)
    for name, text in FILES.items():
        given = text.lstrip().format(base=BASE, host=socket.gethostname().split(".")[0], **NODES)
        (BASE / name).touch(mode=0o600)
        (BASE / name).write_text(given)
        (BASE / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
        (CONFIGURED / name).unlink(missing_ok=True)
        (CONFIGURED / name).symlink_to(BASE / name)
    if not (key := BASE / "munge.key").exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
    if not (BASE / "mariadb").exists():
        run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={BASE}/mariadb",
            "--skip-test-db", "--auth-root-authentication-method=socket")  # fmt: skip
    start("munged")
    start("mariadbd")
    until("MariaDB", (BASE / "mariadb/socket").exists)
    start("slurmdbd")
    until(
        "accounting", lambda: not run("sacctmgr", "-n", "list", "cluster", check=False).returncode
    )
    if "swath" not in says("sacctmgr", "-nP", "list", "cluster", "format=cluster"):
        run("sacctmgr", "-i", "add", "cluster", "swath")
        run("sacctmgr", "-i", "add", "account", "tests", "cluster=swath")
        run("sacctmgr", "-i", "add", "user", "root", "account=tests", "defaultaccount=tests")
    for name in DAEMONS:
        start(name)
    ready = ["idle"] * len(NODES)
    until("the nodes", lambda: says("sinfo", "-hN", "-p", "work,bare", "-o", "%T").split() == ready)


def down() -> None:
    """End the jobs and the daemons that `up` has started, and take its files away."""
    if running("slurmctld"):
        run("scancel", *says("squeue", "-h", "-o", "%A").split(), check=False)
        until("the end of the jobs", lambda: not says("squeue", "-h"), ending=True)
    for name in reversed(DAEMONS):
        if pid := running(name):
            os.kill(pid, signal.SIGTERM)
            until(f"the end of {name}", lambda name=name: not running(name), ending=True)
        (BASE / f"{name}.run").unlink(missing_ok=True)
    for name in FILES:
        link = CONFIGURED / name
        if link.is_symlink() and link.readlink() == BASE / name:
            link.unlink()
    shutil.rmtree(BASE, ignore_errors=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up"]:
            up()
        case ["down"]:
            down()
        case _:
            fail("give up or down")
