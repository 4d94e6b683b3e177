#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What tests/kvm-selftests/compare.py has the machine do.
#
#   guest FILE [POLICY...]    FILE: the tests, one a line: NAME LIMIT TRIES HUGEPAGES
#                             COMMAND, with tabs between
#
# Loads the policies for every VM, runs each test between marks, in output and
# kernel log, and says after each how it ended and how many policies are active.
# If not all are, it loads them anew, so that one test is to blame and not the rest.
file=$1 mark='#@kvm_ext '
shift

active() {
	n=0
	while read -r line; do
		case $line in policy*' state=active '*) n=$((n + 1)) ;; esac
	done </sys/kernel/debug/kvm/ext/state
	echo $n
}

load() {
	for p in /sys/fs/bpf/kvmext/*; do
		[ ! -d "$p" ] || build/kvmext -q unload "${p##*/}" || exit 1
	done
	for p do build/kvmext -q load "$p" || exit 1; done
}

[ $# = 0 ] || load "$@"
tab=$(printf '\t')
while IFS=$tab read -r name limit tries huge cmd; do
	echo "${mark}begin $name"
	echo "kvm_ext-test: $name" >/dev/kmsg
	[ "$huge" = 0 ] || echo "$huge" >/proc/sys/vm/nr_hugepages
	status=1 active=
	while [ $tries != 0 ] && [ $status != 0 ]; do
		timeout -k 5 "$limit" sh -c "exec $cmd" </dev/null 2>&1
		status=$? tries=$((tries - 1))
	done
	[ "$huge" = 0 ] || echo 0 >/proc/sys/vm/nr_hugepages
	[ $# = 0 ] || active=$(active)
	echo "${mark}end $status $active"
	[ "$active" = "${active:+$#}" ] || load "$@"
done <"$file"

[ $# = 0 ] || echo "${mark}list $(build/kvmext --json list | tr -d '\n')"
