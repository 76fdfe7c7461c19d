#!/bin/bash
# A cluster whose machines share nothing, on one machine: each job runs in an empty folder of its own,
# with its own home, and knows of the others' files only what it fetches. For Snakemake's executor
# cluster-generic; the folders lie in $APART, and stay to be looked at.
#
#   apart.sh submit JOBSCRIPT   start it; prints the job's folder, which is its number
#   apart.sh status JOB         running, success or failed
#   apart.sh cancel JOB...      end it with its whole group of processes
#
# The jobs of a rule that $APART_REFUSED names (a pattern of the shell) have a wrong secret key, as where
# it was changed meanwhile.
set -euo pipefail
case "$1" in
submit)
    mkdir -p "$APART"
    job=$(mktemp -d "$APART/$(basename "$2" .sh).XXXXXX")
    cp "$2" "$job/jobscript"
    mkdir "$job/machine"
    refused=${APART_REFUSED:-}
    rule=$(basename "$2" .sh | cut -d. -f2)
    (
        # Of the environment only what a machine would have by itself; not by `env`, whose command
        # everybody could read.
        for name in $(compgen -e); do
            case $name in
                PATH | PYTHONPATH | OMP_NUM_THREADS | LANG | AWS_*) ;;
                *) unset "$name" ;;
            esac
        done
        # shellcheck disable=SC2053
        [[ $rule != $refused ]] || export AWS_SECRET_ACCESS_KEY=not-the-secret
        export HOME=$job/machine TMPDIR=$job
        cd "$job/machine"
        set +e
        setsid bash -c 'echo $$ >../pid; exec bash ../jobscript' >"$job/log" 2>&1 </dev/null
        echo $? >"$job/rc.part"; mv "$job/rc.part" "$job/rc"
    ) >/dev/null 2>&1 &
    echo "$job"
    ;;
status)
    if [ -e "$2/rc" ]; then
        [ "$(cat "$2/rc")" = 0 ] && echo success || echo failed
    else
        echo running
    fi
    ;;
cancel)
    shift
    for job in "$@"; do kill -- "-$(cat "$job/pid")" 2>/dev/null || true; done
    ;;
esac
