# From raw data to an audited split.


# A network is touched here and nowhere else; on a cluster this runs on the login node.
rule fetch:
    localrule: True
    input:
        # Other sections of the card's file may change without the data being others.
        config=lambda w: ancient(f"results/{DATASETS[w.dataset].name}/config/data.yaml"),
    output:
        "data/{dataset}/manifest.json",
    params:
        code=lambda w: plan.stage_code("fetch", DATASETS[w.dataset], PINS),
        card=lambda w: plan.hash_of(DATASETS[w.dataset].sections["data"]),
        config=lambda w, input: Path(input.config).parent,
    log:
        "state/log/fetch-{dataset}.log",
    benchmark:
        "state/benchmarks/fetch-{dataset}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} fetch --config {params.config:q} --out data/{wildcards.dataset:q}"
        " --state state/fetch/{wildcards.dataset:q}"


rule patches:
    input:
        sections("patches"),
        data=lambda w: f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json",
    output:
        "results/{experiment}/patches/manifest.json",
    params:
        # Not an output of its own: the manifest vouches for every file in it.
        store=lambda w, output: Path(output[0]).parent / "set.zarr",
        code=code("patches"),
        data=lambda w, input: Path(input.data).parent,
    log:
        "results/{experiment}/log/patches.log",
    benchmark:
        "results/{experiment}/benchmarks/patches.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=240,
    shell:
        "swath --log {log:q} patches --config results/{wildcards.experiment:q}/config"
        " --data {params.data:q} --out {params.store:q}"


rule split:
    input:
        sections("split"),
        patches="results/{experiment}/patches/manifest.json",
    output:
        "results/{experiment}/splits/{split}/split.parquet",
        "results/{experiment}/splits/{split}/audit.json",
        "results/{experiment}/splits/{split}/statistics.json",
    params:
        code=code("split"),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/split-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/split-{split}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "swath --log {log:q} split --config results/{wildcards.experiment:q}/config"
        " --patches {input.patches:q} --name {wildcards.split:q} --out {params.out:q}"
