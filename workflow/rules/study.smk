# A study: its shape is known before it runs, so `snakemake -n` shows all of it.


rule propose:
    localrule: True
    input:
        sections("propose"),
        proposals=earlier_proposals,
        results=earlier_results,
    output:
        "results/{experiment}/study/generation{generation}/proposal.json",
    params:
        code=code("propose"),
        config=subpath(input[0], parent=True),
        known=lambda w, input: told(proposal=input.proposals, result=input.results),
    log:
        "results/{experiment}/log/propose-generation{generation}.log",
    benchmark:
        "results/{experiment}/benchmarks/propose-generation{generation}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} propose --config {params.config:q}"
        " --generation {wildcards.generation:q} --state state/studies/{wildcards.experiment:q}"
        " --out {output:q} {params.known:q}"


rule trials:
    input:
        sections("trials"),
        patches="results/{experiment}/patches/manifest.json",
        split=study_split,
        statistics=study_statistics,
        proposal="results/{experiment}/study/generation{generation}/proposal.json",
        below=shards_below,
    output:
        "results/{experiment}/study/generation{generation}/rung{rung}/shard{shard}.json",
    params:
        code=code("trials"),
        config=subpath(input[0], parent=True),
        trained_by=code("train"),
        split=subpath(input.split, parent=True),
        below=lambda w, input: told(below=input.below),
        slots=slots_of,
    log:
        "results/{experiment}/log/trials-generation{generation}-rung{rung}-shard{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/trials-generation{generation}-rung{rung}-shard{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of_study
    retries: GOES_ON
    resources:
        **asks(8000, 1380, trains=True, goes_on=True),
        tries=lambda w, attempt: attempt,
    shell:
        "swath --log {log:q} --gpus {resources.devices} trials --config {params.config:q}"
        " --patches {input.patches:q} --split {params.split:q} --proposal {input.proposal:q}"
        " --generation {wildcards.generation:q} --rung {wildcards.rung:q} --slots {params.slots:q}"
        " --code {params.trained_by:q} --state state/runs --out {output:q} --minutes {resources.runtime}"
        " --attempt {resources.tries} {params.below:q}"


rule worker:
    input:
        sections("worker"),
        patches="results/{experiment}/patches/manifest.json",
        split=study_split,
        statistics=study_statistics,
    output:
        "results/{experiment}/study/worker{shard}.json",
    params:
        code=code("worker"),
        config=subpath(input[0], parent=True),
        trained_by=code("train"),
        split=subpath(input.split, parent=True),
    log:
        "results/{experiment}/log/worker{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/worker{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of_study
    retries: GOES_ON
    resources:
        **asks(8000, 1380, trains=True, goes_on=True),
    shell:
        "swath --log {log:q} --gpus {resources.devices} worker --config {params.config:q}"
        " --patches {input.patches:q} --split {params.split:q} --name worker{wildcards.shard:q}"
        " --code {params.trained_by:q} --state state/runs"
        " --studies state/studies/{wildcards.experiment:q} --out {output:q}"
        " --minutes {resources.runtime}"


rule best:
    localrule: True
    input:
        sections("best"),
        proposals=all_proposals,
        results=all_results,
        workers=all_workers,
    output:
        "results/{experiment}/study/journal.log",
        "results/{experiment}/study/best.yaml",
        trials="results/{experiment}/study/trials.json",
    params:
        code=code("best"),
        config=subpath(input[0], parent=True),
        known=lambda w, input: told(
            proposal=input.proposals, result=input.results, worker=input.workers
        ),
    log:
        "results/{experiment}/log/best.log",
    benchmark:
        "results/{experiment}/benchmarks/best.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} best --config {params.config:q}"
        " --name {wildcards.experiment:q} --out {output.trials:q} {params.known:q}"


# ---- the final: the best over seeds and folds; the winner sees the test part, once ----


rule final:
    input:
        sections("final"),
        study_statistics,
        patches="results/{experiment}/patches/manifest.json",
        split=study_split,
        study="results/{experiment}/study/trials.json",
    output:
        "results/{experiment}/study/final/shard{shard}.json",
    params:
        code=code("final"),
        config=subpath(input[0], parent=True),
        trained_by=code("train"),
        split=subpath(input.split, parent=True),
        slots=final_slots,
    log:
        "results/{experiment}/log/final-shard{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/final-shard{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: threads_of_study
    retries: GOES_ON
    resources:
        **asks(8000, 1380, trains=True, goes_on=True),
        tries=lambda w, attempt: attempt,
    shell:
        "swath --log {log:q} --gpus {resources.devices} final --config {params.config:q}"
        " --patches {input.patches:q} --split {params.split:q} --study {input.study:q}"
        " --slots {params.slots:q} --code {params.trained_by:q} --state state/runs --out {output:q}"
        " --minutes {resources.runtime} --attempt {resources.tries}"


rule elect:
    localrule: True
    input:
        sections("elect"),
        study="results/{experiment}/study/trials.json",
        results=final_results,
    output:
        "results/{experiment}/study/elected.json",
        "results/{experiment}/study/winner.yaml",
        expand(
            "results/{{experiment}}/study/winner/config/{section}.yaml",
            section=plan.STAGES["train"].sections,
        ),
    params:
        code=code("elect"),
        config=subpath(input[0], parent=True),
        results=lambda w, input: told(result=input.results),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/elect.log",
    benchmark:
        "results/{experiment}/benchmarks/elect.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} elect --config {params.config:q}"
        " --study {input.study:q} --out {params.out:q} {params.results:q}"


# The same verbs as for a run of the experiment. Its training is that of the final, and is done.
use rule train as train_winner with:
    input:
        expand(
            "results/{{experiment}}/study/winner/config/{section}.yaml",
            section=plan.STAGES["train"].sections,
        ),
        "results/{experiment}/splits/{split}/audit.json",
        "results/{experiment}/splits/{split}/statistics.json",
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
    output:
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/run.json",
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/best.ckpt",
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/metrics.parquet",
    params:
        code=code("train"),
        config=subpath(input[0], parent=True),
        split=subpath(input.split, parent=True),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/train-winner-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/train-winner-{split}-fold{fold}-seed{seed}.tsv"


use rule infer as infer_winner with:
    input:
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
        model="results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/best.ckpt",
    output:
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/predictions.npz",
    log:
        "results/{experiment}/log/infer-winner-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/infer-winner-{split}-fold{fold}-seed{seed}.tsv"


use rule evaluate as evaluate_winner with:
    input:
        sections("evaluate"),
        patches="results/{experiment}/patches/manifest.json",
        predictions="results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/predictions.npz",
    output:
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/scores.json",
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/scores_by_scene.parquet",
        "results/{experiment}/study/winner/{split}-fold{fold}-seed{seed}/scores_by_region.parquet",
    log:
        "results/{experiment}/log/evaluate-winner-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate-winner-{split}-fold{fold}-seed{seed}.tsv"


rule conclude:
    localrule: True
    input:
        elected="results/{experiment}/study/elected.json",
        scores=winner_scores,
    output:
        "results/{experiment}/study/final.json",
    params:
        code=code("conclude"),
        scores=lambda w, input: told(scores=input.scores),
    log:
        "results/{experiment}/log/conclude.log",
    benchmark:
        "results/{experiment}/benchmarks/conclude.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} conclude --elected {input.elected:q} --out {output:q} {params.scores:q}"
