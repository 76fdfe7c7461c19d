#!/bin/bash
# A real S3 server on the loopback: Ceph's radosgw over one OSD that lives in memory. It checks
# signatures, knows users and quotas, and forgets everything when it is stopped.
#
#   tests/servers/s3.sh install        Debian: what it needs (as root)
#   tests/servers/s3.sh up DIR [PORT]  start it with its files in DIR; writes DIR/env, to be sourced
#   tests/servers/s3.sh down DIR       stop it, and delete DIR
set -euo pipefail
PACKAGES="ceph-mon ceph-osd radosgw ceph-common"

fail() { echo "s3.sh: $*" >&2; exit 1; }
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# Run again until it succeeds, for at most so many seconds.
within() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { "$@" || true; fail "gave up waiting for: $*"; }
        sleep 0.2
    done
}

case "${1:-}" in
install)
    command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && exit 0
    command -v apt-get >/dev/null || fail "install $PACKAGES by your system's own means"
    [ "$(id -u)" = 0 ] && sudo="" || sudo="sudo"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $PACKAGES
    ;;
up)
    dir=${2:?up DIR [PORT]} port=${3:-$(free_port)}
    [ ! -e "$dir/env" ] || fail "$dir: it is running already (or '$0 down $dir' first)"
    for program in ceph-mon ceph-osd radosgw ceph radosgw-admin monmaptool; do
        command -v $program >/dev/null || fail "there is no $program: $0 install"
    done
    mkdir -p "$dir"/{mon,osd,rgw,run}
    dir=$(cd "$dir" && pwd)
    mon=$(free_port) fsid=$(cat /proc/sys/kernel/random/uuid)
    # Without authentication inside; the default mode would then wait for ever. All pools small.
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = 127.0.0.1:$mon
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
ms bind msgr2 = false
run dir = $dir/run
admin socket = $dir/run/\$name.asok
pid file = $dir/run/\$name.pid
log file = $dir/run/\$name.log
mon cluster log file = $dir/run/cluster.log
debug mon = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = 1
[mon.a]
mon data = $dir/mon
[osd.0]
osd data = $dir/osd
[client.rgw]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
rgw enable usage log = false
rgw dns name =
CONF
    ceph="ceph -c $dir/ceph.conf --connect-timeout 10" log=$dir/run/up.log
    # They tell much that nobody needs; what went wrong is shown where one fails.
    exec 3>&2 2>>"$log"
    trap 'code=$?; exec 2>&3; [ $code = 0 ] || { tail -n 20 "$log" >&2; "$0" down "$dir"; }' EXIT
    monmaptool --create --clobber --addv a "[v1:127.0.0.1:$mon]" --fsid "$fsid" "$dir/monmap" >&2
    ceph-mon -c "$dir/ceph.conf" -i a --mkfs --monmap "$dir/monmap"
    ceph-mon -c "$dir/ceph.conf" -i a
    within 30 $ceph quorum_status
    uuid=$(cat /proc/sys/kernel/random/uuid)
    # Asked in its first moments a monitor may refuse anybody; the same again changes nothing.
    within 30 $ceph osd new "$uuid"
    ceph-osd -c "$dir/ceph.conf" -i 0 --mkfs --osd-uuid "$uuid" >&2
    # It may ask before it has heard which cluster this is; it is refused then, and ends.
    osd_is_up() {
        pgrep -f "ceph-osd -c $dir/ceph.conf" >/dev/null || ceph-osd -c "$dir/ceph.conf" -i 0
        $ceph osd stat | grep -q '1 up'
    }
    within 60 osd_is_up
    radosgw -c "$dir/ceph.conf" -n client.rgw >&2
    within 60 curl -fsS --noproxy '*' "http://127.0.0.1:$port"
    user="radosgw-admin -c $dir/ceph.conf user create"
    $user --uid swath --display-name swath --access-key SWATHTESTKEY --secret-key "$fsid" >&2
    $user --uid other --display-name other --access-key OTHERTESTKEY --secret-key "$uuid" >&2
    # A key of the test's own server; it opens nothing else.
    cat >"$dir/env" <<ENV
export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=SWATHTESTKEY AWS_SECRET_ACCESS_KEY=$fsid
ENV
    printf 'export AWS_ACCESS_KEY_ID=OTHERTESTKEY AWS_SECRET_ACCESS_KEY=%s\n' "$uuid" >"$dir/env.other"
    echo "S3 listens on http://127.0.0.1:$port; its keys: . $dir/env"
    ;;
down)
    dir=${2:?down DIR}
    for name in client.rgw osd.0 mon.a; do
        [ -s "$dir/run/$name.pid" ] || continue
        pid=$(cat "$dir/run/$name.pid")
        # Only what was started here: a number may be another's by now.
        grep -qz -- "$dir/ceph.conf" "/proc/$pid/cmdline" 2>/dev/null || continue
        kill "$pid"
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
    ;;
*)
    fail "install | up DIR [PORT] | down DIR"
    ;;
esac
