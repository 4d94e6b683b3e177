#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Modules that another kernel would refuse, or that lack BTF, are worth nothing; those whose
# BTF is renumbered at load would have the kernel judge kfuncs by the wrong types.
krel=$1; shift
for m; do
	magic=$(/sbin/modinfo -F vermagic "$m")
	[ "${magic%% *}" = "$krel" ] || {
		echo "kvm_ext: $m is for '$magic', not for $krel" >&2; exit 1; }
	readelf -SW "$m" | grep -q ' \.BTF ' || {
		echo "kvm_ext: $m has no BTF: is pahole installed, and vmlinux in the headers?" >&2; exit 1; }
	! readelf -SW "$m" | grep -q ' \.BTF\.base ' || {
		echo "kvm_ext: $m has .BTF.base, by which its types are renumbered at load; build it with MODULE_PAHOLE_FLAGS=" >&2; exit 1; }
done
