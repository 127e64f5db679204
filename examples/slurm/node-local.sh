#!/usr/bin/env bash
# Copies a data set to the node's own disk, once a node, and runs a command that reads it there:
#   srun examples/slurm/node-local.sh cifar10 pctool train --dataset cifar10 --method apc --out runs/a
# The job scripts beside this one take it in their srun line, before 'pctool'. Where there is no room on the node the
# command reads the data where they are.
set -euo pipefail

name=${1:?usage: node-local.sh DATASET COMMAND...}
shift
shared=${PCTOOL_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/pctool}
local=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/pctool-data-$(id -u)

copy() {
    (umask 077 && mkdir -p "$local") && [ -O "$local" ] || return # in /tmp anybody may have made this folder
    exec 9>"$local/$name.lock"
    flock 9 # of several tasks on a node one copies, the others wait
    [ -d "$local/$name" ] && return
    rm -rf "$local/$name.part"
    cp -RL "$shared/$name" "$local/$name.part" && mv "$local/$name.part" "$local/$name" && return
    rm -rf "$local/$name.part"
    return 1
}

if copy; then
    export PCTOOL_DATA_DIR=$local
else
    echo "node-local.sh: no copy of $name in $local; reading it in $shared" >&2
fi
exec "$@" 9>&-
