# From a split to scores and maps.


rule train:
    input:
        sections("train"),
        "results/{experiment}/splits/{split}/audit.json",
        "results/{experiment}/splits/{split}/statistics.json",
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
    output:
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/run.json",
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/best.ckpt",
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/metrics.parquet",
    params:
        code=code("train"),
        config=subpath(input[0], parent=True),
        split=subpath(input.split, parent=True),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/train-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/train-{split}-fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    retries: GOES_ON
    resources:
        **asks(8000, 1380, trains=True, spreads=True, goes_on=True),
        processes="auto",
    shell:
        "{resources.launch}swath --log {log:q} --gpus {resources.devices} train"
        " --config {params.config:q}"
        " --patches {input.patches:q} --split {params.split:q} --fold {wildcards.fold:q}"
        " --seed {wildcards.seed:q} --code {params.code:q} --state state/runs --out {params.out:q}"
        " --minutes {resources.runtime} --processes {resources.processes:q}"


rule infer:
    input:
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
        model="results/{experiment}/runs/{split}-fold{fold}-seed{seed}/best.ckpt",
    output:
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/predictions.npz",
    params:
        code=code("infer"),
        split=subpath(input.split, parent=True),
    log:
        "results/{experiment}/log/infer-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/infer-{split}-fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        **asks(4000, 240, trains=True),
    shell:
        "swath --log {log:q} --gpus {resources.devices} infer"
        " --patches {input.patches:q} --split {params.split:q}"
        " --fold {wildcards.fold:q} --model {input.model:q} --out {output:q}"


# The maps of a shard's scenes lie beside its table.
rule map:
    input:
        sections("map"),
        # A shard is named by what it holds: a list with other shards changes nothing in this one.
        scenes=ancient("results/{experiment}/scenes.json"),
        data=lambda w: ancient(f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json"),
        model="results/{experiment}/runs/{split}-fold{fold}-seed{seed}/best.ckpt",
    output:
        "results/{experiment}/maps/{split}-fold{fold}-seed{seed}/shard-{shard}.json",
    params:
        code=code("map"),
        config=subpath(input[0], parent=True),
        data=subpath(input.data, parent=True),
    log:
        "results/{experiment}/log/map-{split}-fold{fold}-seed{seed}-{shard}.log",
    benchmark:
        "results/{experiment}/benchmarks/map-{split}-fold{fold}-seed{seed}-{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        **asks(4000, 1380, trains=True, goes_on=True),
    shell:
        "swath --log {log:q} --gpus {resources.devices} map --config {params.config:q}"
        " --data {params.data:q} --scenes {input.scenes:q} --shard {wildcards.shard:q}"
        " --model {input.model:q} --code {params.code:q} --state state/maps --out {output:q}"


rule mosaic:
    input:
        scenes=ancient("results/{experiment}/scenes.json"),
        parts=of_shards(
            "results/{experiment}/maps/{split}-fold{fold}-seed{seed}/shard-{shard}.json"
        ),
    output:
        "results/{experiment}/maps/{split}-fold{fold}-seed{seed}/maps.json",
    params:
        code=code("mosaic"),
        parts=lambda w, input: folder_of(input.parts),
    log:
        "results/{experiment}/log/mosaic-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/mosaic-{split}-fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(1000, 60),
    shell:
        "swath --log {log:q} mosaic --scenes {input.scenes:q} --parts {params.parts:q} --out {output:q}"


rule baseline:
    input:
        patches="results/{experiment}/patches/manifest.json",
        split="results/{experiment}/splits/{split}/split.parquet",
    output:
        "results/{experiment}/baselines/{split}-fold{fold}/predictions.npz",
        "results/{experiment}/baselines/{split}-fold{fold}/baseline.json",
    params:
        code=code("baseline"),
        split=subpath(input.split, parent=True),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/baseline-{split}-fold{fold}.log",
    benchmark:
        "results/{experiment}/benchmarks/baseline-{split}-fold{fold}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        **asks(4000, 240),
    shell:
        "swath --log {log:q} baseline --patches {input.patches:q} --split {params.split:q}"
        " --fold {wildcards.fold:q} --out {params.out:q}"


rule evaluate:
    input:
        sections("evaluate"),
        patches="results/{experiment}/patches/manifest.json",
        predictions="results/{experiment}/runs/{split}-fold{fold}-seed{seed}/predictions.npz",
    output:
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/scores.json",
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/scores_by_scene.parquet",
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/scores_by_region.parquet",
    params:
        code=code("evaluate"),
        config=subpath(input[0], parent=True),
        seed=lambda w: w.get("seed", 0),
        out=subpath(output[0], parent=True),
    log:
        "results/{experiment}/log/evaluate-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate-{split}-fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} evaluate --config {params.config:q}"
        " --patches {input.patches:q} --predictions {input.predictions:q}"
        " --split {wildcards.split:q} --fold {wildcards.fold:q} --seed {params.seed}"
        " --out {params.out:q}"


# The same verb for the baseline, whose forest has no seed of a run.
use rule evaluate as evaluate_baseline with:
    input:
        sections("evaluate"),
        patches="results/{experiment}/patches/manifest.json",
        predictions="results/{experiment}/baselines/{split}-fold{fold}/predictions.npz",
    output:
        "results/{experiment}/baselines/{split}-fold{fold}/scores.json",
        "results/{experiment}/baselines/{split}-fold{fold}/scores_by_scene.parquet",
        "results/{experiment}/baselines/{split}-fold{fold}/scores_by_region.parquet",
    log:
        "results/{experiment}/log/evaluate-baseline-{split}-fold{fold}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate-baseline-{split}-fold{fold}.tsv"
