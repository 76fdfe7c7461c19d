# A study: its shape is known before it runs, so `snakemake -n` shows all of it.


rule propose:
    input:
        sections("propose"),
    output:
        "results/{experiment}/study/proposal.json",
    params:
        code=code("propose"),
    log:
        "results/{experiment}/log/propose.log",
    benchmark:
        "results/{experiment}/benchmarks/propose.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} propose --config results/{wildcards.experiment:q}/config"
        " --out {output:q}"


rule trials:
    input:
        sections("trials"),
        patches="results/{experiment}/patches/manifest.json",
        split=study_split,
        statistics=lambda w: study_split(w).replace("split.parquet", "statistics.json"),
        proposal="results/{experiment}/study/proposal.json",
        below=shards_below,
    output:
        "results/{experiment}/study/rung{rung}/shard{shard}.json",
    params:
        code=code("trials"),
        split=subpath(input.split, parent=True),
        below=lambda w, input: [f"--below={path}" for path in input.below],
    log:
        "results/{experiment}/log/trials-rung{rung}-shard{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/trials-rung{rung}-shard{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    retries: GOES_ON
    resources:
        mem_mb=8000,
        runtime=1380,
    shell:
        "swath --log {log:q} trials --config results/{wildcards.experiment:q}/config"
        " --patches {input.patches:q} --split {params.split:q} --proposal {input.proposal:q}"
        " --rung {wildcards.rung:q} --shard {wildcards.shard:q} --code {params.code:q}"
        " --state state/runs --out {output:q} --minutes {resources.runtime} {params.below:q}"


rule best:
    input:
        proposal="results/{experiment}/study/proposal.json",
        results=all_shards,
    output:
        "results/{experiment}/study/trials.json",
    params:
        code=code("best"),
        results=lambda w, input: [f"--result={path}" for path in input.results],
    log:
        "results/{experiment}/log/best.log",
    benchmark:
        "results/{experiment}/benchmarks/best.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} best --proposal {input.proposal:q} --out {output:q} {params.results:q}"
