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
    threads: threads_of_lesson
    resources:
        **asks(4000, 60),
    shell:
        "swath --log {log:q} lesson --config {params.config:q} --code {params.trained_by:q}"
        " --state state/runs --out {output:q} {params.given:q}"


# Map → shuffle → reduce. A map job deals its pairs to the reduce jobs, by the hash of the key; each
# reduce job gathers its own from all of them; the mark says that all have ended.
rule map_part:
    input:
        sections("map_part"),
        data=lambda w: f"data/{EXPERIMENTS[w.experiment].dataset}/manifest.json",
    output:
        "results/{experiment}/mapped/part-{part}.json",
    params:
        code=code("map_part"),
        config=subpath(input[0], parent=True),
        data=subpath(input.data, parent=True),
        number=lambda w: int(w.part),
    log:
        "results/{experiment}/log/map-part-{part}.log",
    benchmark:
        "results/{experiment}/benchmarks/map-part-{part}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(2000, 30),
    shell:
        "swath --log {log:q} map_part --config {params.config:q} --data {params.data:q}"
        " --part {params.number} --out {output:q}"


rule reduce_part:
    input:
        mapped=parts_by("maps", "mapped"),
    output:
        "results/{experiment}/reduced/part-{part}.json",
    params:
        code=code("reduce_part"),
        mapped=lambda w, input: told(mapped=input.mapped),
        number=lambda w: int(w.part),
    log:
        "results/{experiment}/log/reduce-part-{part}.log",
    benchmark:
        "results/{experiment}/benchmarks/reduce-part-{part}.tsv"
    conda:
        "../../environment.yml"
    resources:
        **asks(2000, 30),
    shell:
        "swath --log {log:q} reduce_part {params.mapped:q} --part {params.number} --out {output:q}"


rule reduced:
    localrule: True
    input:
        parts_by("reduces", "reduced"),
    output:
        touch("results/{experiment}/reduced/_SUCCESS"),


rule lesson_page:
    localrule: True
    input:
        "results/{experiment}/lesson.json",
    output:
        "results/{experiment}/lesson.html",
    params:
        code=code("lesson_page"),
        lesson=lambda w, input: f"{w.experiment}={input[0]}",
    log:
        "results/{experiment}/log/lesson_page.log",
    benchmark:
        "results/{experiment}/benchmarks/lesson_page.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} lesson_page --out {output:q} --lesson {params.lesson:q}"


rule ladder:
    localrule: True
    input:
        expand("results/{lesson}/lesson.json", lesson=LESSONS),
    output:
        "results/ladder/playground.html",
        page="results/ladder/report.html",
    params:
        code=lambda _: plan.fingerprint("swath.ladder.page", lock=PINS),
        lesson=ladder_told(MISSING),
    log:
        "results/ladder/log/ladder.log",
    benchmark:
        "results/ladder/benchmarks/ladder.tsv"
    conda:
        "../../environment.yml"
    shell:
        "swath --log {log:q} ladder --out {output.page:q} {params.lesson:q}"
