#!/usr/bin/env bash
# Three nodes that take orders together, over HTTP: shows the cluster, posts orders, kills a node under load and starts it again,
# restarts all three under load, and looks each time whether an order failed or was made twice. Ends with 0 when none did.
#
#   examples/cluster.sh memory|nats|redis [DISCOVERY]
#
# `memory` is three nodes in one process; `nats` and `redis` start a server and three processes, all on free ports of this machine.
# DISCOVERY is how nodes find each other there: kv or pubsub, sorted_set or keys. It needs Rust and curl, and the server;
# CATGA_NATS_SERVER, CATGA_REDIS_SERVER name another than the one on the PATH, CLUSTER a `cluster` that is built already.
set -euo pipefail
backend=${1:-}
case $backend:${2:-} in
memory: | nats: | nats:kv | nats:pubsub | redis: | redis:sorted_set | redis:keys) ;;
*)
    echo "usage: examples/cluster.sh memory | nats [kv|pubsub] | redis [sorted_set|keys]" >&2
    exit 2
    ;;
esac
options=${2:+?discovery=$2}
if [ -n "${CLUSTER:-}" ]; then CLUSTER=$(realpath "$CLUSTER"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

nodes=(node1 node2 node3)
work=$(mktemp -d "${TMPDIR:-/tmp}/catga-cluster.XXXXXX")
declare -A pids=() ports=()
orders=0

cleanup() {
    local code=$? pid
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done || true
    rm -rf "$work"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n== %s\n' "$*"; }

fail() {
    local log
    echo "cluster.sh: $*" >&2
    for log in "$work"/*.log; do
        echo "-- the end of ${log##*/}" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

# until_true SECONDS WHAT COMMAND..: waits until the command succeeds.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not so after a long wait"
        sleep 0.05
    done
}

runs() { kill -0 "$1" 2>/dev/null; }

# spawn NAME LOG COMMAND..: starts a process that is killed when this script ends.
spawn() {
    local name=$1 log=$work/$2
    shift 2
    "$@" >>"$log" 2>&1 &
    pids[$name]=$!
}

# -- the server

# program COMMAND NAMED: where a server is.
program() {
    if [ -n "$2" ]; then echo "$2"; else PATH=$PATH:/usr/sbin command -v "$1"; fi ||
        { echo "cluster.sh: \`$1\` is missing: install it, or say where it is" >&2 && exit 1; }
}

ports_file() { compgen -G "$work/nats-server_*.ports" >/dev/null && grep -q '"nats://' "$work"/nats-server_*.ports; }

answers_ping() { (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'PING\r\n' >&3 && read -r -t 1 pong <&3 && [[ $pong == +PONG* ]]) 2>/dev/null; }

start_server() {
    local server port tries
    case $backend in
    nats)
        server=$(program nats-server "${CATGA_NATS_SERVER:-}")
        spawn server server.log "$server" -a 127.0.0.1 -p -1 --ports_file_dir "$work" -js -sd "$work/jetstream"
        until_true 20 "nats-server is ready" ports_file
        export NATS_URL
        NATS_URL=$(grep -o 'nats://[^"]*' "$work"/nats-server_*.ports | head -n 1)$options
        ;;
    redis)
        server=$(program redis-server "${CATGA_REDIS_SERVER:-}")
        for tries in {1..20}; do
            port=$((20000 + RANDOM % 12000))
            spawn server server.log "$server" --bind 127.0.0.1 --port "$port" --dir "$work" --save "" --appendonly yes
            # It ends at once when somebody else has the port.
            until_true 20 "redis-server is ready" eval "answers_ping $port || ! runs ${pids[server]}"
            if runs "${pids[server]}"; then break; fi
        done
        runs "${pids[server]}" || fail "redis-server found no free port in $tries tries"
        export REDIS_URL=redis://127.0.0.1:$port$options
        ;;
    esac
}

# -- the nodes

log_of() { if [ "$backend" = memory ]; then echo "$work/nodes.log"; else echo "$work/$1.log"; fi; }

# said NODE TEXT: how often a node said what begins so.
said() { grep -cF "[$1] $2" "$(log_of "$1")" || true; }

said_more() { [ "$(said "$1" "$2")" -gt "$3" ]; }

# start NODE: starts it and waits until it takes orders, at the port that it had.
start() {
    local node=$1 before
    before=$(said "$node" listening)
    if [ "$backend" = memory ]; then
        echo "start $node" >&"$commands"
    else
        spawn "$node" "$node.log" "$cluster" "$node" "${ports[$node]:-0}"
    fi
    until_true 60 "$node listens" said_more "$node" listening "$before"
    note_port "$node"
}

note_port() {
    local url
    url=$(grep -F "[$1] listening" "$(log_of "$1")" | tail -n 1 | grep -o '127\.0\.0\.1:[0-9]*')
    ports[$1]=${url##*:}
}

start_all() {
    local node
    for node in "${nodes[@]}"; do : >"$(log_of "$node")"; done
    if [ "$backend" = memory ]; then
        mkfifo "$work/commands"
        "$cluster" memory 0 0 0 <"$work/commands" >>"$work/nodes.log" 2>&1 &
        pids[nodes]=$!
        exec {commands}>"$work/commands"
        for node in "${nodes[@]}"; do
            until_true 60 "$node listens" said_more "$node" listening 0
            note_port "$node"
        done
    else
        for node in "${nodes[@]}"; do start "$node"; done
    fi
}

# kill_node NODE: without a word.
kill_node() {
    local before
    before=$(said "$1" killed)
    if [ "$backend" = memory ]; then
        echo "kill $1" >&"$commands"
        until_true 20 "$1 is dead" said_more "$1" killed "$before"
    else
        kill -9 "${pids[$1]}"
        wait "${pids[$1]}" 2>/dev/null || true
        unset "pids[$1]"
        # It cannot say so itself; the audit wants to know.
        printf '\n[%s] killed\n' "$1" >>"$work/$1.log"
    fi
}

# stop NODE: in good order.
stop() {
    local before code=0
    before=$(said "$1" stopped)
    if [ "$backend" = memory ]; then
        echo "stop $1" >&"$commands"
    else
        kill -TERM "${pids[$1]}"
        wait "${pids[$1]}" || code=$?
        unset "pids[$1]"
        [ "$code" = 0 ] || fail "$1 ended with $code when it was asked to end"
    fi
    until_true 60 "$1 stopped in good order" said_more "$1" stopped "$before"
}

url() { echo "http://127.0.0.1:${ports[$1]}"; }

urls() { for node in "${nodes[@]}"; do url "$node"; done; }

health() { curl -fsS --max-time 5 "$(url "$1")/health"; }

sees() { health "$1" 2>/dev/null | grep -q "\"onlineNodes\":$2,"; }

# all_see COUNT NODE..: each of these sees so many nodes online.
all_see() {
    local node count=$1
    shift
    for node in "$@"; do until_true 60 "$node sees $count nodes online" sees "$node" "$count"; done
}

show_cluster() {
    local answer
    answer=$(health "$1")
    echo "$1: $(grep -o '"totalNodes":[0-9]*,"onlineNodes":[0-9]*' <<<"$answer")"
    grep -o '{"nodeId[^}]*}' <<<"${answer#*\"nodes\":}" | sed 's/^/  /'
}

# -- the orders

post() {
    local answer
    answer=$(curl -fsS --max-time 25 -H 'content-type: application/json' "${@:3}" -d "$2" "$(url "$1")/orders") ||
        fail "$1 did not take $2"
    echo "$answer"
}

field() { grep -o "\"$1\":\"[^\"]*\"" | cut -d'"' -f4; }

start_load() {
    # More than there is time for: it is told when it is enough.
    mapfile -t targets < <(urls)
    spawn load load.log "$cluster" load --orders 100000 --per-second 200 --at-once 16 --answers "${targets[@]}"
    made_more 100
}

distinct() { cat "$work"/node*.log | grep -o "$1: *[0-9a-f-]*\|$1 [0-9a-f-]*" | grep -o '[0-9a-f-]\{36\}' | sort -u | wc -l; }

made() { distinct 'Processing order'; }

at_least() { [ "$("${@:2}")" -ge "$1" ]; }

# made_more COUNT: waits until so many more orders were made.
made_more() { until_true 60 "$1 more orders are made" at_least $(($(made) + $1)) made; }

# end_load: its verdict, which has to be good.
end_load() {
    local code=0
    runs "${pids[load]}" || fail "the load ended before it was told to"
    kill -TERM "${pids[load]}"
    wait "${pids[load]}" || code=$?
    unset 'pids[load]'
    grep -v '^answered ' "$work/load.log" || true
    [ "$code" = 0 ] || fail "the load says that something failed"
    orders=$((orders + $(sed -n 's/^made  *\([0-9]*\) .*/\1/p' "$work/load.log")))
    mv "$work/load.log" "$work/load.$SECONDS.done"
}

heard() { grep -F "[$1] [QoS $2]" "$(log_of "$1")" | grep -o '[0-9a-f-]\{36\}' | sort -u | wc -l; }

# check_orders: as many orders as were answered, QoS 1 has told every node of each of them, and no node made what another had made:
# `cluster audit` counts the runs that came to their end, and who is said to have made what.
check_orders() {
    local node
    [ "$(made)" = "$orders" ] || fail "$(made) orders were made, and $orders were asked for"
    for node in "${nodes[@]}"; do
        until_true 60 "$node has heard of all $orders orders at QoS 1" at_least "$orders" heard "$node" 1
        [ "$(heard "$node" 1)" = "$orders" ] || fail "$node has heard of orders that nobody made"
    done
    "$cluster" audit "$work"/node*.log $(compgen -G "$work/load.*.done") || fail "an order was made twice"
    echo "$orders orders were asked for and made; of each every node heard at QoS 1; at QoS 0:" \
        "$(for node in "${nodes[@]}"; do echo "$node of $(heard "$node" 0)"; done | paste -sd, | sed 's/,/, /g')"
}

# -- what is shown

if [ -n "${CLUSTER:-}" ]; then
    cluster=$CLUSTER
else
    features=()
    if [ "$backend" != memory ]; then features=(--features "$backend"); fi
    cargo build --release --example cluster "${features[@]}"
    cluster=${CARGO_TARGET_DIR:-target}/release/examples/cluster
fi
unset NATS_URL REDIS_URL CATGA_URL CATGA_ENDPOINT NODE_HOST

title "three nodes over $backend$options"
start_server
start_all
all_see 3 "${nodes[@]}"
for node in "${nodes[@]}"; do show_cluster "$node"; done
spawn watch watch.log curl -sN "$(url node1)/nodes/watch"

title "orders"
first=$(post node1 '{"productId":"lamp","quantity":2}' -H 'idempotency-key: first')
echo "node1: $first"
again=$(post node2 '{"productId":"lamp","quantity":2}' -H 'idempotency-key: first')
echo "node2, asked again with the same key: $again"
[ "$first" = "$again" ] || fail "one key made two orders"
echo "node3: $(post node3 '{"productId":"desk","quantity":1}')"
orders=2
id=$(field orderId <<<"$first")
for node in "${nodes[@]}"; do
    echo "$node: $(curl -fsS --max-time 5 "$(url "$node")/orders/$id")" || fail "$node does not find $id"
done
for body in '{"productId":"lamp","quantity":0}' '{"productId":"lamp"}' '{'; do
    refused=$(curl -sS --max-time 5 -w ' %{http_code}' -d "$body" "$(url node1)/orders")
    echo "$body: $refused"
    [[ $refused == *' 4'?? ]] || fail "$body was not refused"
done
check_orders
grep -hF "$id" "$work"/node*.log | sort -u

title "node2 is killed under load, and started again"
start_load
kill_node node2
until_true 60 "node1 shows node2 as offline" eval 'health node1 | grep -q "\"nodeId\":\"node2\",[^}]*\"isOnline\":false"'
all_see 2 node1 node3
show_cluster node1
made_more 100
start node2
all_see 3 "${nodes[@]}"
show_cluster node1
made_more 100
end_load
check_orders
kill -TERM "${pids[watch]}" && wait "${pids[watch]}" 2>/dev/null || true
unset 'pids[watch]'
echo "what a watcher of node1 saw:"
paste -d' ' <(grep '^event' "$work/watch.log") <(grep '^data' "$work/watch.log") | grep -v updated | sed 's/^/  /'
grep -A1 '^event: left' "$work/watch.log" | grep -q '"node2"' || fail "the watcher was not told that node2 left"

title "all three are restarted under load, one after the other"
start_load
for node in "${nodes[@]}"; do
    stop "$node"
    made_more 20
    start "$node"
    all_see 3 "${nodes[@]}"
    made_more 20
done
end_load
check_orders
curl -fsS --max-time 5 "$(url node1)/orders/$id" >/dev/null || fail "the first order was lost"

title "node1 tells Prometheus"
curl -fsS --max-time 5 "$(url node1)/metrics" >"$work/metrics"
grep -E '^(messaging_client_consumed_messages|catga_(duplicates|losses|retries|dead_letters))' "$work/metrics" | grep -v ' 0$' || fail "there are no counters"

title "they end when they are asked to"
for node in "${nodes[@]}"; do stop "$node"; done
echo "no order failed, none was made twice"
