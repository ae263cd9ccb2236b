#!/bin/busybox sh
# Process 1 of the guest until the host's root is mounted. $hauberk_probe comes from the kernel's command line.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module" || echo "hauberk: insmod $module failed"; done
if [ -n "$hauberk_probe" ]; then
    echo "hauberk: booted"
    $b poweroff -f
fi
set -e
read -r modules </modules-path
release=$($b uname -r)
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $options,cache=loose,ro host /host
# What the guest writes stays in its memory.
$b mount -t tmpfs written /written
$b mkdir /written/files /written/work
$b mount -t overlay -o lowerdir=/host,upperdir=/written/files,workdir=/written/work overlay /root
$b mkdir -p "/root/lib/modules/$release" /root/results
$b mount --bind "/host$modules" "/root/lib/modules/$release"
$b mount -t 9p -o $options,cache=none results /root/results
for directory in proc sys dev; do $b mount --move /$directory /root/$directory; done
# The host's own running state is none of the guest's.
$b mount -t tmpfs run /root/run
exec $b switch_root /root /bin/sh /results/tests.sh
