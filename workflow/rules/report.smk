# What a person looks at.


rule track:
    localrule: True
    input:
        sections("track"),
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/metrics.parquet",
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/scores.json",
        run="results/{experiment}/runs/{split}-fold{fold}-seed{seed}/run.json",
    output:
        "results/{experiment}/runs/{split}-fold{fold}-seed{seed}/tracking.json",
    params:
        code=code("track"),
        config=subpath(input[0], parent=True),
        run=subpath(input.run, parent=True),
    log:
        "results/{experiment}/log/track-{split}-fold{fold}-seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/track-{split}-fold{fold}-seed{seed}.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} track --config {params.config:q}"
        " --run {params.run:q} --group {wildcards.experiment:q} --spool state/wandb --out {output:q}"


rule track_study:
    localrule: True
    input:
        sections("track_study"),
        study="results/{experiment}/study/trials.json",
    output:
        "results/{experiment}/study/tracking.json",
    params:
        code=code("track_study"),
        config=subpath(input[0], parent=True),
    log:
        "results/{experiment}/log/track-study.log",
    benchmark:
        "results/{experiment}/benchmarks/track-study.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} track_study --config {params.config:q}"
        " --study {input.study:q} --spool state/wandb --out {output:q}"


rule report:
    input:
        expand("results/{{experiment}}/config/{section}.yaml", section=plan.SECTIONS),
        lambda w: of_runs("results/{experiment}/runs/{run}/scores.json", w.experiment),
        lambda w: of_runs("results/{experiment}/runs/{run}/scores_by_scene.parquet", w.experiment),
        lambda w: of_runs("results/{experiment}/runs/{run}/scores_by_region.parquet", w.experiment),
        lambda w: of_runs("results/{experiment}/runs/{run}/tracking.json", w.experiment),
        lambda w: of_runs(
            "results/{experiment}/baselines/{split}-fold{fold}/scores.json", w.experiment
        ),
        lambda w: of_runs(
            "results/{experiment}/baselines/{split}-fold{fold}/scores_by_scene.parquet",
            w.experiment,
        ),
        maps,
        study,
    output:
        "results/{experiment}/metrics.json",
        "results/{experiment}/curves.csv",
        page="results/{experiment}/report.html",
    params:
        code=code("report"),
        experiment=subpath(output.page, parent=True),
    log:
        "results/{experiment}/log/report.log",
    benchmark:
        "results/{experiment}/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} report --experiment {params.experiment:q}"
        " --out {output.page:q}"
