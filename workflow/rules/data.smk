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
        own=own_scenes,
        config=lambda w, input: Path(input.config).parent,
        out=subpath(output[0], parent=True),
    log:
        "state/log/fetch-{dataset}.log",
    benchmark:
        "state/benchmarks/fetch-{dataset}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} fetch --config {params.config:q} --out {params.out:q}"
        " --state state/fetch/{wildcards.dataset:q}"


# How many jobs cut the scenes is known when their headers have been read.
checkpoint scenes:
    localrule: True
    input:
        # Another size of the patches deals no scene anew.
        ancient(sections("scenes")),
        data=lambda w: f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json",
    output:
        "results/{experiment}/scenes.json",
    params:
        code=code("scenes"),
        config=subpath(input[0], parent=True),
        dealt_by=dealt_by,
        data=subpath(input.data, parent=True),
    log:
        "results/{experiment}/log/scenes.log",
    benchmark:
        "results/{experiment}/benchmarks/scenes.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} scenes --config {params.config:q}"
        " --data {params.data:q} --out {output:q}"


rule patches:
    input:
        ancient(sections("patches")),
        # A shard is named by what it holds: a list with other shards changes nothing in this one.
        scenes=ancient("results/{experiment}/scenes.json"),
        data=lambda w: ancient(f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json"),
    output:
        "results/{experiment}/patches/{shard}/manifest.json",
    params:
        # Not an output of its own: the manifest vouches for every file in it.
        out=subpath(output[0], parent=True),
        code=code("patches"),
        config=subpath(input[0], parent=True),
        cut_by=cut_by,
        data=subpath(input.data, parent=True),
    log:
        "results/{experiment}/log/patches-{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/patches-{shard}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(2000, 240),
    shell:
        "swath --log {log:q} patches --config {params.config:q}"
        " --data {params.data:q} --scenes {input.scenes:q} --shard {wildcards.shard:q}"
        " --out {params.out:q}"


rule index:
    input:
        sections("index"),
        of_shards("results/{experiment}/patches/{shard}/manifest.json"),
        scenes="results/{experiment}/scenes.json",
    output:
        manifest="results/{experiment}/patches/manifest.json",
        places="results/{experiment}/patches/places.parquet",
        contents="results/{experiment}/patches/contents.npy",
    params:
        code=code("index"),
        config=subpath(input[0], parent=True),
    log:
        "results/{experiment}/log/index.log",
    benchmark:
        "results/{experiment}/benchmarks/index.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} index --config {params.config:q}"
        " --scenes {input.scenes:q} --out {output.manifest:q}"


rule split:
    input:
        sections("split"),
        data=lambda w: ancient(f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json"),
        patches="results/{experiment}/patches/manifest.json",
    output:
        "results/{experiment}/splits/{split}/split.parquet",
        "results/{experiment}/splits/{split}/audit.json",
    params:
        code=code("split"),
        config=subpath(input[0], parent=True),
        data=subpath(input.data, parent=True),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/split-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/split-{split}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} split --config {params.config:q}"
        " --data {params.data:q} --patches {input.patches:q} --name {wildcards.split:q}"
        " --out {params.out:q}"


# A map over the shards; floats need a second round for exact quantiles. Verbs that read a file of
# each shard take their folder: a thousand names would be too long a command.
rule measure:
    input:
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
        below=totals_below,
    output:
        "results/{experiment}/splits/{split}/sums/round{round}/{shard}.npz",
    params:
        code=code("measure"),
        split=subpath(input.split, parent=True),
        below=lambda w, input: [f"--below={path}" for path in input.below],
    log:
        "results/{experiment}/log/measure-{split}-round{round}-{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/measure-{split}-round{round}-{shard}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} measure --patches {input.patches:q} --split {params.split:q}"
        " --shard {wildcards.shard:q} --out {output:q} {params.below:q}"


# Between the rounds, so that no job of the second reads all of the first.
rule totals:
    input:
        patches="results/{experiment}/patches/manifest.json",
        sums=sums_of_round(0),
    output:
        "results/{experiment}/splits/{split}/sums/totals.npz",
    params:
        code=code("totals"),
        sums=lambda w, input: folder_of(input.sums),
    log:
        "results/{experiment}/log/totals-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/totals-{split}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} totals --patches {input.patches:q} --sums {params.sums:q} --out {output:q}"


rule statistics:
    input:
        patches="results/{experiment}/patches/manifest.json",
        sums=sums_of_round(0),
        refined=sums_of_round(1),
    output:
        "results/{experiment}/splits/{split}/statistics.json",
    params:
        code=code("statistics"),
        sums=lambda w, input: folder_of(input.sums),
        refined=lambda w, input: told(refined=[folder_of(input.refined)] if input.refined else []),
    log:
        "results/{experiment}/log/statistics-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/statistics-{split}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} statistics --patches {input.patches:q} --out {output:q}"
        " --sums {params.sums:q} {params.refined:q}"
