# What is known before anything runs: the experiments, composed once and written as section files.

import fcntl
import functools
import gc
import inspect
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from pathlib import Path

from snakemake.common import overwrite_function_params
from snakemake.exceptions import ResourceValidationError, WorkflowError
from snakemake.logging import logger
from snakemake.resources import Resource

from swath import clouds, devices, executors, plan, slurm, store
from swath.data.card import FETCHED_BY
from swath.errors import SwathError
from swath.files import write_text
from swath.study import rungs

# Of this file, not of the workflow's first: that may be another repository's, which has swath as a module.
ROOT = Path(str(workflow.current_basedir)).parent.parent
PINS = ROOT / "constraints.txt"
STARTED = time.time()

# How often a training that was stopped or killed is started again, each time from where it was. A
# number of the command line's or a profile's would repeat every rule's mistakes, too. Only the main
# process counts: a job on a cluster that tried again would do so within the time that is over.
GOES_ON = 3 if workflow.is_main_process else 0

# Modules, rules and the graph stay until the end. By default Python looks through all of them for
# garbage again and again while they are made: a tenth of the time that planning takes.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# Unless --cores or --jobs is given, all cores of this machine. Not in the default profile, which would
# bind the jobs of a cluster to the cores of the login node.
if workflow.resource_settings.cores is None and workflow.resource_settings.nodes is None:
    workflow.resource_settings.cores = len(os.sched_getaffinity(0))
    workflow.global_resources["_cores"] = workflow.resource_settings.cores

# Before the plugin is used; which executor will be is not known yet.
if workflow.is_main_process and "snakemake_executor_plugin_kubernetes" in sys.modules:
    clouds.mend_kubernetes(WorkflowError)


def outlive_reader(handler):
    """Go on where nobody reads what is told any more: all of it is in the log below .snakemake.

    Snakemake (9.27) raises the broken pipe in whichever thread has found it: in that of a job which
    has failed the scheduler does not learn of it, and waits forever.
    """
    tell = handler.emit

    def tell_if_read(record):
        try:
            tell(record)
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:
                for each in (1, 2):
                    if os.path.sameopenfile(each, handler.stream.fileno()):
                        os.dup2(nowhere.fileno(), each)

    handler.emit = tell_if_read


for each in logger.handlers:
    outlive_reader(each)


def inspected(function):
    """An input function whose parameters Snakemake (9.27) need not find out again for each job."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


inspected(Resource.evaluate)  # calls those of resources, a third of what planning took

# The verbs of the environment that runs this workflow, wherever it was started from.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


def stop(line):
    """End with one line: Snakemake would wrap an exception in its own."""
    print(f"swath: {line}", file=sys.stderr, flush=True)
    sys.exit(2)


def lock():
    """This folder's lock, or, where another workflow runs here, that one's process number.

    The kernel frees the lock with its process, so whoever gets it runs alone, and a lock that
    Snakemake left in the folder is that of a killed one: it is taken away.
    """
    Path("state").mkdir(exist_ok=True)
    held = open("state/workflow.lock", "a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.seek(0)
        return held.read().strip()
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    for dead in Path(".snakemake/locks").glob("*.lock"):
        dead.unlink()
    return held


def use_store():
    """Tell the jobs, and this process, of the object store that Snakemake has as default storage.

    Raises:
        StoreError: it cannot be used.
    """
    for name in (store.ADDRESS, store.COPY):
        os.environ.pop(name, None)
    provider = workflow.storage_registry.default_storage_provider
    if provider is None:
        return
    if workflow.storage_settings.default_storage_provider != "s3":
        stop("--default-storage-provider: swath keeps its files in s3, or on the disk")
    address = workflow.storage_settings.default_storage_prefix or ""
    if not re.fullmatch(r"s3://[^/]+(/.*)?", address):
        stop(f"--default-storage-prefix={address}: name a bucket, and a folder in it: s3://bucket/me")
    for name in store.SETTINGS:
        if value := getattr(provider.settings, name):
            os.environ[f"SNAKEMAKE_STORAGE_S3_{name.upper()}"] = str(value)
    os.environ[store.ADDRESS] = address
    copy = provider.object(f"{address.rstrip('/')}/data").local_path().parent
    os.environ[store.COPY] = str(copy.absolute())
    if workflow.is_main_process:
        workflow.configfiles = Sources(workflow.configfiles)
    store.check()


class Sources(list):
    """Configuration files, and what else a job needs to read the workflow, which go with each job."""

    def __init__(self, configfiles):
        folders = [folder for folder in (ROOT / "conf", OWN) if folder]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        super().__init__([*configfiles, *map(str, [*found, PINS])])
        self.told = [*configfiles, *(f"{folder}/" for folder in folders)]

    def __repr__(self):
        """As Snakemake prints them when it starts."""
        return repr(self.told)


# Unlike a lock, a queue of this kind may be put to by a signal that comes in the middle of anything.
SIGTERMS = queue.SimpleQueue()


def end_gracefully():
    """Have the scheduler end when the jobs that run have ended, once a SIGTERM has come.

    Its own handler of SIGTERM (Snakemake 9.27) takes locks that the thread which it interrupts may
    hold, and then waits forever. A thread of its own waits until they are free.
    """
    SIGTERMS.get()
    workflow.scheduler.exit_gracefully()


# Which executor it is, is known from here on.
onstart:
    threading.Thread(target=end_gracefully, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: SIGTERMS.put(True))
    settings = workflow.executor_plugin.common_settings
    if settings.non_local_exec:
        try:
            clouds.guard(
                workflow.executor_plugin.name,
                workflow.spawned_job_args_factory.envvars(),
                by_command=settings.pass_envvar_declarations_to_cmd,
            )
        except SwathError as wrong:
            stop(wrong)
    else:
        # The cores are the limit here. One of jobs a second has Snakemake (9.27) weigh all that are
        # ready once a second more for each job that has ended.
        workflow.scheduler.job_rate_limiter = None


def write_sections(experiments):
    """Write the section files, unless a workflow that is running here reads others.

    A run keeps the lock to its end. A dry run gives it back, and may look on beside a run as long as
    it asks for the same.
    """
    held = lock()
    folders = {name: Path("results") / name / "config" for name in experiments}
    if isinstance(held, str):
        changed = any(plan.unwritten(experiments[n], folders[n]) for n in experiments)
        if changed or not workflow.output_settings.dryrun:
            stop(
                f"{Path.cwd()}: a workflow is running here already (process {held}); "
                "wait for it, end it, or start in another folder with --directory"
            )
        return None
    for name, experiment in experiments.items():
        plan.write_sections(experiment, folders[name])
        if store.is_used():
            texts = {str(path): path.read_text() for path in folders[name].glob("*.yaml")}
            store.write_texts(texts)
    if workflow.output_settings.dryrun:
        held.close()
    return held


def asks_for(*targets):
    """Whether the command line names one of these; Snakemake parses it, and tells after this file."""
    return workflow.is_main_process and not {*targets}.isdisjoint(sys.argv[1:])


def tell(key, value):
    """A value of --config for the jobs, as if it had been given."""
    given = [each for each in workflow.config_settings.config_args if not each.startswith(f"{key}=")]
    workflow.config_settings.config_args = [*given, f"{key}={value}"]


def unserved(experiment):
    """Why the data of an experiment cannot be had, where a mirror alone has them and none does."""
    card, mirror = experiment.sections["data"], os.environ.get("SWATH_MIRROR") or ""
    if store.is_used() or "://" in mirror or Path(f"data/{card['name']}/manifest.json").is_file():
        return ""
    folder = Path(mirror) / (card["mirror"] or card["name"])
    needed = [each["name"] for each in card["files"] if not (each["address"] or each["package"])]
    lacking = [name for name in needed if not (mirror and (folder / name).is_file())]
    if not lacking:
        return ""
    return f"{card['title']} comes from a mirror alone: set SWATH_MIRROR to one that has {folder.name}/{lacking[0]}"


def unfinished():
    """The lessons of the ladder that are not there when it has failed, and why."""
    todo = {job.wildcards.get("experiment") for job in workflow.dag.needrun_jobs()}
    return {name: why_not(name) for name in LESSONS if name in todo}


def show_lessons():
    """Write the page of the lessons that there are, with what the others lack; gives the page."""
    lessons, page = ladder_told(MISSING | unfinished()), "results/ladder/report.html"
    shell("swath ladder --out {page:q} {lessons:q}")
    return page


def ladder_told(lacking):
    """The lessons that there are, and what the others lack, as the verb takes them."""
    return told(
        lesson=[f"{name}=results/{name}/lesson.json" for name in LESSONS if name not in lacking],
        missing=[f"{name}={why}" for name, why in lacking.items()],
    )


def why_not(name):
    """The error that a stage of an experiment has told since the start, if one has."""
    logs = [Path(f"state/log/fetch-{EXPERIMENTS[name].dataset}.log")]
    logs += sorted(Path(f"results/{name}/log").glob("*.log"))
    for path in logs:
        if path.is_file() and path.stat().st_mtime >= STARTED - 1:
            for line in path.read_text().splitlines():
                if " error: " in line:
                    return line.partition(" error: ")[2]
    return ""


def pages_of(name):
    """The pages of an experiment: its report, its lesson, or both."""
    takes = EXPERIMENTS[name].lesson_takes
    lesson = [f"results/{name}/lesson.html"] if EXPERIMENTS[name].sections["lesson"] else []
    return [*([f"results/{name}/report.html"] if not lesson or "given" in takes else []), *lesson]


def last_page_of(name):
    """The page of an experiment that its reader is told of."""
    return pages_of(name)[-1]


def plain(resources):
    """Numbers and names among resources of the command line or a profile; no expressions."""
    given = {name: getattr(each, "raw", each) for name, each in (resources or {}).items()}
    return {name: each for name, each in given.items() if isinstance(each, (int, str))}


def ask_slurm():
    """Whether it can run what is asked for, and to be done with the jobs of an earlier start."""
    site = plain(workflow.resource_settings.default_resources)
    if "slurm_partition" not in site or workflow.output_settings.dryrun:
        return  # which executor is to be used, Snakemake says later alone
    site |= {"gpu": site.get("site_gpu", 0), "gpu_model": site.get("site_gpu_model", "")}
    slurm.check(site, "workflow/profiles/slurm")
    for rulename, given in workflow.resource_settings.overwrite_resources.items():
        slurm.check(site | plain(given), f"--set-resources {rulename}")
    slurm.wait_for_jobs(Path.cwd(), lambda line: print(f"swath: {line}", flush=True))


# `--config experiment=a set="b=c"`; several names are divided by spaces or commas. `conf` names a
# folder with configuration of one's own, beside swath's.
NAMES = re.split(r"[\s,]+", str(config.get("experiment", "embedded")).strip())
# The lessons of the ladder, where it is asked for. Jobs are told of them as of what a person gives.
IS_LADDER = asks_for("ladder", "results/ladder/report.html", "results/ladder/playground.html")
try:
    for key in config:
        if key not in ("experiment", "set", "conf"):
            stop(f"--config {key}=…: no such key; there is experiment, set and conf")
    OWN = Path(str(config["conf"])) if config.get("conf") else None
    use_store()
    TREE = plan.tree(ROOT / "conf", OWN)
    LESSONS = [each for each in TREE.choices("experiment") if each.startswith("ladder/")]
    LESSONS = LESSONS if IS_LADDER else []
    NAMES = [*(NAMES if "experiment" in config or not LESSONS else []), *LESSONS]
    EXPERIMENTS = {name: plan.compose(TREE, name, str(config.get("set", ""))) for name in NAMES}
    # The ladder goes without lessons whose data nobody has here; one that is asked for by its name
    # says what is missing.
    MISSING = {name: why for name in LESSONS if (why := unserved(EXPERIMENTS[name]))}
    LESSONS = [name for name in LESSONS if name not in MISSING]
    if IS_LADDER:
        EXPERIMENTS = {name: each for name, each in EXPERIMENTS.items() if name not in MISSING}
        NAMES = list(EXPERIMENTS)
        tell("experiment", ",".join(NAMES))
    DATASETS = plan.datasets(EXPERIMENTS.values())
    for name, each in EXPERIMENTS.items():
        if store.is_used() and each.has_study and each.sections["sweep"]["mode"] == "async":
            stop(
                f"sweep.mode=async of {name}: its workers share a journal on one file system, and an "
                "object store is none; set sweep.mode=static"
            )
    LOCK_HELD = write_sections(EXPERIMENTS) if workflow.is_main_process else None
    if workflow.is_main_process:
        ask_slurm()
except SwathError as wrong:
    stop(wrong)


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    split=r"[A-Za-z0-9_]+",
    fold=r"\d+",
    seed=r"\d+",
    generation=r"\d+",
    rung=r"\d+",
    round=r"[01]",
    part=r"\d{5}",
    shard=r"[0-9a-f]+",


def sections(stage):
    """The section files that a stage reads."""
    return [f"results/{{experiment}}/config/{name}.yaml" for name in plan.STAGES[stage].sections]


@functools.cache
def code_of(stage, name):
    """The fingerprint of a stage's code; thousands of jobs may ask for it."""
    return plan.stage_code(stage, EXPERIMENTS[name], PINS)


def code(stage):
    """An input function of `params:`: the fingerprint of a stage's code."""
    return inspected(lambda wildcards: code_of(stage, wildcards.experiment))


def asks(mem_mb, runtime, **how):
    """The resources of a rule (`executors.Asked`), as input functions, since they grow."""
    asked = executors.Asked(mem_mb, runtime, **how)

    def of(name):
        def resource(wildcards, attempt, rulename, threads):
            experiment = wildcards.get("experiment")
            try:
                return job_of(asked, rulename, attempt, threads, experiment).get(name)
            except SwathError as wrong:
                # Of this kind Snakemake prints the message alone.
                raise ResourceValidationError(f"swath: {wrong}") from None

        return inspected(resource)

    return {name: of(name) for name in executors.names_of(asked)}


@functools.cache
def job_of(asked, rulename, attempt, threads, name):
    """The resources of a job, as the executor in use spells them."""
    return executors.spelled(
        asked,
        executor=workflow.executor_plugin.name,
        site=gpus() | plain(workflow.resource_settings.default_resources),
        given=plain(workflow.resource_settings.overwrite_resources.get(rulename)),
        attempt=attempt,
        threads=threads,
        device=EXPERIMENTS[name].sections["trainer"]["device"] if name else "auto",
    )


@functools.cache
def gpus():
    """On this machine as many jobs at a time as it has GPUs, one for each (`swath --gpus`)."""
    here = workflow.executor_plugin.common_settings.local_exec and workflow.is_main_process
    found = len(devices.gpus_here()) if here else 0
    if found and "gpu" not in workflow.global_resources:
        workflow.global_resources["gpu"] = found
    return {"site_gpu": 1} if found else {}


def of_runs(pattern, name):
    """The pattern filled in for every run of an experiment: {experiment}, {run}, {split}, {fold}."""
    runs = EXPERIMENTS[name].runs
    return [
        pattern.format(experiment=name, run=run.name, split=run.split, fold=run.fold)
        for run in runs
    ]


def maps(wildcards):
    """Maps of every run, where the data set has whole scenes."""
    name = wildcards.experiment
    pattern = "results/{experiment}/maps/{run}/maps.json"
    return of_runs(pattern, name) if EXPERIMENTS[name].has_scenes else []


def text_of(path):
    """The text of a result, wherever results are; None where there is none."""
    if store.is_used():
        return store.read_text(path)
    return Path(path).read_text() if Path(path).is_file() else None


# ---- the shards of a patch set, known when the scenes' headers have been read ----


def dealt_by(wildcards):
    """The settings that change which scenes there are and how they are dealt."""
    given = EXPERIMENTS[wildcards.experiment].sections
    dealt = given["patches"]["shard_mb"], given["quality"]["broken"]
    return plan.hash_of(plan.without(given["data"], *FETCHED_BY), *dealt)


def cut_by(wildcards):
    """The settings that change what is cut out of a scene; where it came from does not."""
    given = EXPERIMENTS[wildcards.experiment].sections
    return plan.hash_of(
        plan.without(given["data"], *FETCHED_BY),
        plan.without(given["patches"], "shard_mb"),
        plan.without(given["quality"], "broken"),
    )


def own_scenes(wildcards):
    """Names, sizes and times of scenes of one's own, so that a new one is noticed."""
    card = DATASETS[wildcards.dataset].sections["data"]
    if card["files"] or card["drawing"] or card["stac"]:
        return ""
    folder = Path(card["folder"] or f"data/{wildcards.dataset}").expanduser()
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return plan.hash_of(
        sorted((str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in found)
    )


def scenes_of(wildcards):
    """Names of the shards and rounds; Snakemake comes back here when its checkpoint has run."""
    found = checkpoints.scenes.get(experiment=wildcards.experiment).output[0]
    if store.is_used():
        # Snakemake has taken it away when it has run.
        return shards_in(f"results/{wildcards.experiment}/scenes.json", 0)
    return shards_in(found, Path(found).stat().st_mtime_ns)


@functools.cache
def shards_in(found, changed):
    """What a list of scenes says to the graph: every job of a shard asks, and it may be long."""
    listed = json.loads(text_of(found))
    return [shard["name"] for shard in listed["shards"]], listed["rounds"]


def of_shards(pattern):
    """An input function: the pattern filled in for every shard."""
    return lambda w: [pattern.format(**{**w, "shard": name}) for name in scenes_of(w)[0]]


def sums_of_round(number):
    """An input function: the sums of a round; there is a second for floats alone."""
    sums = f"results/{{experiment}}/splits/{{split}}/sums/round{number}/{{shard}}.npz"
    return lambda w: of_shards(sums)(w) if number < scenes_of(w)[1] else []


def totals_below(wildcards):
    """What the second round builds on; nothing for the first."""
    totals = f"results/{wildcards.experiment}/splits/{wildcards.split}/sums/totals.npz"
    return [totals] if wildcards.round == "1" else []


def folder_of(paths):
    """The folder in which files of all shards lie."""
    return Path(paths[0]).parent


# ---- the shape of a study, known before it runs ----


def told(**files):
    """Options of a verb, each repeated for its files."""
    return [f"--{option}={path}" for option, paths in files.items() for path in paths]


def study(wildcards):
    """The collected study, and its final, where the experiment has them."""
    name, sweep = wildcards.experiment, sweep_of(wildcards)
    if not EXPERIMENTS[name].has_study:
        return []
    files = ["trials.json", "tracking.json", *(["final.json"] if sweep["final"]["best"] else [])]
    return [f"results/{name}/study/{file}" for file in files]


def sweep_of(wildcards):
    """The sweep section of the experiment."""
    return EXPERIMENTS[wildcards.experiment].sections["sweep"]


def threads_of_study(wildcards):
    """Cores of a job of a study."""
    return sweep_of(wildcards)["threads"]


def epoch_s(name):
    """What an epoch of a trial took when the study was collected before; None is not known.

    Decided once for each form of a study, and kept beside its sections: the trials are dealt by it,
    here, in the process of each job, and whenever the workflow is started again.
    """
    kept = f"results/{name}/config/dealt.json"
    asked = plan.hash_of(EXPERIMENTS[name].sections["sweep"])
    try:
        dealt = json.loads(text_of(kept) or "{}")
        if dealt.get("sweep") == asked or not workflow.is_main_process:
            return dealt.get("epoch_s")
        found = text_of(f"results/{name}/study/trials.json")
        took = rungs.seconds_an_epoch(json.loads(found)) if found else None
    except (ValueError, KeyError, TypeError, AttributeError):
        took = None  # a broken file of results is told of by whoever reads it
    if not workflow.output_settings.dryrun:
        text = json.dumps({"sweep": asked, "epoch_s": took})
        store.write_texts({kept: text}) if store.is_used() else write_text(Path(kept), text)
    return took


EPOCH_S = {name: epoch_s(name) for name, each in EXPERIMENTS.items() if each.has_study}


def dealt_to(wildcards, generation, rung):
    """The slots of each job of a rung."""
    return rungs.dealt(sweep_of(wildcards), generation, rung, EPOCH_S[wildcards.experiment])


def slots_of(wildcards):
    """The slots of one job, as the verb takes them."""
    dealt = dealt_to(wildcards, int(wildcards.generation), int(wildcards.rung))
    slots = dealt[int(wildcards.shard)]
    return f"{slots.start}:{slots.stop}"


def proposals_of(wildcards, generations):
    """The proposals of some generations."""
    study = f"results/{wildcards.experiment}/study"
    return [f"{study}/generation{generation}/proposal.json" for generation in generations]


def shards_of(wildcards, generation, rung):
    """The results of all jobs of a rung."""
    rung_of = f"results/{wildcards.experiment}/study/generation{generation}/rung{rung}"
    shards = range(len(dealt_to(wildcards, generation, rung)))
    return [f"{rung_of}/shard{shard}.json" for shard in shards]


def results_of(wildcards, generations):
    """The results of all jobs of some generations."""
    return [
        file
        for generation in generations
        for rung in range(sweep_of(wildcards)["rungs"])
        for file in shards_of(wildcards, generation, rung)
    ]


def generations_of(wildcards):
    """The numbers of a study's generations; one that workers share has none."""
    sweep = sweep_of(wildcards)
    return range(len(rungs.generations(sweep)) if sweep["mode"] == "static" else 0)


def all_workers(wildcards):
    """What the workers of an asynchronous study have written."""
    sweep = sweep_of(wildcards)
    workers = range(sweep["workers"] if sweep["mode"] == "async" else 0)
    return [f"results/{wildcards.experiment}/study/worker{n}.json" for n in workers]


def earlier_proposals(wildcards):
    """What a generation knows; nothing for the first."""
    return proposals_of(wildcards, range(int(wildcards.generation)))


def earlier_results(wildcards):
    """What a generation learns from; nothing for the first."""
    return results_of(wildcards, range(int(wildcards.generation)))


def all_proposals(wildcards):
    """The proposals of all generations."""
    return proposals_of(wildcards, generations_of(wildcards))


def all_results(wildcards):
    """The results of all jobs of a study."""
    return results_of(wildcards, generations_of(wildcards))


def shards_below(wildcards):
    """What a rung continues; nothing for the first."""
    generation, rung = int(wildcards.generation), int(wildcards.rung)
    return shards_of(wildcards, generation, rung - 1) if rung else []


def split_of_study(wildcards):
    """A study looks at the validation part of the experiment's last split: the strictest."""
    return EXPERIMENTS[wildcards.experiment].splits[-1]


def study_split(wildcards):
    """The table of a study's split."""
    return f"results/{wildcards.experiment}/splits/{split_of_study(wildcards)}/split.parquet"


def study_statistics(wildcards):
    """The statistics of a study's split, which are there when its audit has passed."""
    return f"results/{wildcards.experiment}/splits/{split_of_study(wildcards)}/statistics.json"


def final_dealt(wildcards):
    """The runs of a final, dealt to jobs as those of the last rung."""
    sweep = sweep_of(wildcards)
    final = sweep["final"]
    count = final["best"] * len(final["seeds"]) * len(final["folds"])
    rung = sweep["rungs"] - 1
    return rungs.shards(count, rungs.per_job(sweep, rung, EPOCH_S[wildcards.experiment]))


def final_slots(wildcards):
    """The runs of one job of a final, as the verb takes them."""
    slots = final_dealt(wildcards)[int(wildcards.shard)]
    return f"{slots.start}:{slots.stop}"


def final_results(wildcards):
    """The results of all jobs of a final."""
    shards = range(len(final_dealt(wildcards)))
    return [f"results/{wildcards.experiment}/study/final/shard{shard}.json" for shard in shards]


def winner_scores(wildcards):
    """The scores of the winner on the test part, for each run of the final."""
    final, split = sweep_of(wildcards)["final"], split_of_study(wildcards)
    winner = f"results/{wildcards.experiment}/study/winner"
    return [
        f"{winner}/{split}-fold{fold}-seed{seed}/scores.json"
        for fold in final["folds"]
        for seed in final["seeds"]
    ]


# ---- the ladder ----


def lesson_parts(wildcards):
    """What a lesson is given: the patch set and split, and the study, where it takes them."""
    name = wildcards.experiment
    takes, results = EXPERIMENTS[name].lesson_takes, f"results/{name}"
    found = {}
    if "given" in takes:
        found["patches"] = f"{results}/patches/manifest.json"
        found["split"] = study_split(wildcards)
        found["statistics"] = study_statistics(wildcards)
    if "counts" in takes:
        found["counts"] = f"{results}/reduced/_SUCCESS"
    if "study" in takes:
        found["study"] = f"{results}/study/trials.json"
        if sweep_of(wildcards)["final"]["best"]:
            found["final"] = final_results(wildcards)
    return found


def parts_by(jobs, pattern):
    """An input function: the pattern for each of a lesson's map jobs, or reduce jobs."""

    def parts(wildcards):
        count = EXPERIMENTS[wildcards.experiment].sections["lesson"][jobs]
        return [f"results/{wildcards.experiment}/{pattern}/part-{n:05d}.json" for n in range(count)]

    return parts


def threads_of_lesson(wildcards):
    """Cores of a lesson: as many as it starts processes, where it does."""
    return EXPERIMENTS[wildcards.experiment].sections["lesson"].get("processes", 1)


def lesson_given(wildcards, input):
    """The parts of a lesson, as the verb takes them."""
    files = {key: [input[key]] for key in ("patches", "study") if key in input.keys()}
    if "split" in input.keys():
        files["split"] = [Path(input.split).parent]
    if "counts" in input.keys():
        files["counts"] = [Path(input.counts).parent]
    return told(**files, final=input.get("final", []))
