#!/bin/sh
# Process 1 of the guest from then on: runs the programs one after the other and writes down how each ended.
cd /results || exit 1
. ./environment
fail() { echo "fail $*" >>report; busybox poweroff -f; }

mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail mount cgroup2
mount -t bpf bpf /sys/fs/bpf || fail mount bpf
mkdir -p /run/netns "$TMPDIR"
ip link set lo up || fail no loopback
# The agent's bounds follow from it: with few descriptors a flood that emulation can make is one.
ulimit -n 4096
# Nothing loads the processor's AES by itself on 6.1; kernel TLS is loaded so that a missing module shows here.
modprobe -a aesni-intel tls || fail modprobe
echo "hauberk: programs begin, up $(cut -d' ' -f1 /proc/uptime) s"

while IFS='	' read -r name program directory arguments; do
    echo "begin $name" >>report
    began=$(cut -d. -f1 /proc/uptime)
    # Unquoted: one argument a word.
    (cd "$directory" && exec "$program" $arguments) >"$name.out" 2>&1 </dev/null
    code=$?
    seconds=$(($(cut -d. -f1 /proc/uptime) - began))
    echo "end $name $code $seconds" >>report
    echo "hauberk: $name ended with $code after $seconds s"
done <programs
echo "done" >>report
sync
busybox poweroff -f
