# The ladder: lessons, each an experiment, and the page of them all.


rule lesson:
    input:
        sections("lesson"),
        unpack(lesson_parts),
    output:
        "results/{experiment}/lesson.json",
    params:
        code=code("lesson"),
        trained_by=code("train"),
        config=subpath(input[0], parent=True),
        given=lesson_given,
    log:
        "results/{experiment}/log/lesson.log",
    benchmark:
        "results/{experiment}/benchmarks/lesson.tsv"
    conda:
        "../../environment.yml"
    threads: lambda w: 1
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} lesson --config {params.config:q} --code {params.trained_by:q}"
        " --state state/runs --out {output:q} {params.given:q}"


rule lesson_page:
    localrule: True
    input:
        "results/{experiment}/lesson.json",
    output:
        "results/{experiment}/lesson.html",
    params:
        code=code("lesson_page"),
        lesson=lambda w, input: told(lesson=[f"{w.experiment}={input[0]}"]),
    log:
        "results/{experiment}/log/lesson_page.log",
    benchmark:
        "results/{experiment}/benchmarks/lesson_page.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} lesson_page --out {output:q} {params.lesson:q}"


rule ladder:
    localrule: True
    input:
        expand("results/{lesson}/lesson.json", lesson=LESSONS),
    output:
        "results/ladder/playground.html",
        page="results/ladder/report.html",
    params:
        code=plan.fingerprint("swath.ladder.page", lock=PINS),
        lesson=told(
            lesson=[f"{name}=results/{name}/lesson.json" for name in LESSONS],
            missing=[f"{name}={why}" for name, why in MISSING.items()],
        ),
    log:
        "results/ladder/log/ladder.log",
    benchmark:
        "results/ladder/benchmarks/ladder.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} lesson_page --out {output.page:q} {params.lesson:q}"
