# Runs nats-server for as long as standard input is open: sh -c <this> guard <nats-server> <configuration>
#
# Expects to lead a process group of its own. Standard output is the read end of the pipe that standard error writes
# to. It is only held: with no reader left, a server that logs while it shuts down would die of SIGPIPE half way.
exec 3<&0 4<&1 1>&2 0</dev/null

"$1" -c "$2" 3<&- &
server=$!
echo "unibus-guard: nats-server pid $server"

# A signal to the whole group, as a service manager sends one, is for the server alone.
trap '' HUP INT TERM

(
    # Nothing is ever written to the pipe, so this returns when its last writer is gone.
    while read -r _ <&3; do :; done
    kill -TERM "$server"
    sleep 10
    kill -KILL "$server"
) 4<&- >/dev/null 2>&1 &
watcher=$!

wait "$server"
status=$?

# The watcher and its sleep are all that is left of the group; they ignore the usual signals.
trap '' USR1
kill -USR1 0
wait "$watcher" 2>/dev/null
exit "$status"
